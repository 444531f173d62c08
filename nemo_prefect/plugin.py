"""`ExperimentPlugin`: changes a task and its executor together, when they are added to an experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nemo_prefect.configurable import ConfigurableMixin

if TYPE_CHECKING:
    from nemo_prefect.executors.base import Executor


class ExperimentPlugin(ConfigurableMixin):
    """Base of plugins. `assign` is called with the experiment's id, then `setup` with copies of the task and its executor,
    which it may change; for a group, once a member.

    Example::

        @dataclass(kw_only=True)
        class Debug(run.Plugin):
            level: int = 1

            def setup(self, task, executor):
                executor.env_vars["DEBUG"] = str(self.level)
    """

    experiment_id: str

    def assign(self, experiment_id: str) -> None:
        """Told which experiment it is for, before `setup`."""
        self.experiment_id = experiment_id

    def setup(self, task: Any, executor: Executor) -> None:
        """Change `task` (a Partial or Script) and `executor` in place."""
        raise NotImplementedError(f"{type(self).__name__} has no setup method. Define setup(self, task, executor).")


Plugin = ExperimentPlugin
