"""``python -m nemo_prefect`` is the command ``nemo-prefect``."""

from nemo_prefect.cli.app import main

if __name__ == "__main__":
    main()
