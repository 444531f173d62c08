"""What runs inside jobs: standard library only."""

from nemo_prefect.worker.run import report

__all__ = ["report"]
