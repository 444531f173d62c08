"""How the user's code travels to a job: `Packager` and its kinds."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nemo_prefect.packaging.base import Packager

if TYPE_CHECKING:
    from nemo_prefect.packaging.git import GitArchivePackager
    from nemo_prefect.packaging.hybrid import HybridPackager
    from nemo_prefect.packaging.pattern import PatternPackager

#: Imported when they are first used: most runs need none of them.
_WHERE = {
    "GitArchivePackager": "nemo_prefect.packaging.git",
    "HybridPackager": "nemo_prefect.packaging.hybrid",
    "PatternPackager": "nemo_prefect.packaging.pattern",
}

__all__ = ["GitArchivePackager", "HybridPackager", "Packager", "PatternPackager"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
