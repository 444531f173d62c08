"""What starts a task's processes: `Launcher` and its kinds."""

from nemo_prefect.launchers.base import Launcher, launcher_by_name

__all__ = ["Launcher", "launcher_by_name"]
