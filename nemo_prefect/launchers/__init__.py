"""What starts a task's processes: `Launcher` and its kinds."""

from nemo_prefect.launchers.base import Launcher, launcher_by_name
from nemo_prefect.launchers.fault_tolerance import FaultTolerance
from nemo_prefect.launchers.macros import ExecutorMacros
from nemo_prefect.launchers.torchrun import Torchrun

__all__ = ["ExecutorMacros", "FaultTolerance", "Launcher", "Torchrun", "launcher_by_name"]
