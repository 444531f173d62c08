"""The command ``nemo-prefect``."""
