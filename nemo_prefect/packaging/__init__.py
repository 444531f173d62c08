"""How the user's code travels to a job: `Packager` and its kinds."""

from nemo_prefect.packaging.base import Packager
from nemo_prefect.packaging.git import GitArchivePackager
from nemo_prefect.packaging.hybrid import HybridPackager
from nemo_prefect.packaging.pattern import PatternPackager

__all__ = ["GitArchivePackager", "HybridPackager", "Packager", "PatternPackager"]
