"""How the user's code travels to a job: `Packager` and its kinds."""

from nemo_prefect.packaging.base import Packager

__all__ = ["Packager"]
