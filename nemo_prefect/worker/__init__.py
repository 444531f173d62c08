"""What runs inside jobs: standard library only."""

from .run import report  # relative: this directory travels without the package

__all__ = ["report"]
