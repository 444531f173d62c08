"""What starts a task's processes: `Launcher` and its kinds."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nemo_prefect.launchers.base import Launcher, launcher_by_name
from nemo_prefect.launchers.macros import ExecutorMacros

if TYPE_CHECKING:
    from nemo_prefect.launchers.fault_tolerance import FaultTolerance
    from nemo_prefect.launchers.torchrun import Torchrun

#: Imported when they are first used: most runs need none of them.
_WHERE = {
    "FaultTolerance": "nemo_prefect.launchers.fault_tolerance",
    "Torchrun": "nemo_prefect.launchers.torchrun",
}

__all__ = ["ExecutorMacros", "FaultTolerance", "Launcher", "Torchrun", "launcher_by_name"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
