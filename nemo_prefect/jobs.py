"""`Job` and `JobGroup`: what an experiment holds; and their way into its spec and back."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from nemo_prefect.configurable import ConfigurableMixin
from nemo_prefect.errors import ConfigError
from nemo_prefect.script import Script
from nemo_prefect.spec import JobSpec, TaskSpec
from nemo_prefect.states import JobStatus

if TYPE_CHECKING:
    from nemo_prefect.executors.base import Executor
    from nemo_prefect.plugin import ExperimentPlugin


@dataclass
class Job(ConfigurableMixin):
    """A task on an executor.

    Attributes:
        id: its id in the experiment.
        task: a Partial or a Script.
        executor: where it runs.
        state: its state when it was last looked at.
        handle: the job in its executor's own terms, once it was submitted.
        launched: whether it was.
        tail_logs: whether its output is shown while it runs.
        dependencies: the ids of the jobs that have to succeed first.
        plugins: the plugins that it was added with.
    """

    id: str
    task: Any
    executor: Executor
    state: JobStatus = JobStatus.UNSUBMITTED
    handle: str = ""
    launched: bool = False
    tail_logs: bool = False
    dependencies: list[str] = field(default_factory=list)
    plugins: list[ExperimentPlugin] | None = None

    @property
    def tasks(self) -> list[Any]:
        """Its task, as a list of one."""
        return [self.task]

    @property
    def executors(self) -> list[Executor]:
        """Its executor, as a list of one."""
        return [self.executor]


@dataclass
class JobGroup(ConfigurableMixin):
    """Tasks that start together and fail as one.

    Attributes:
        id: its id in the experiment; its members are ``<id>/0``, ``<id>/1``, …
        tasks: Partials or Scripts.
        executors: one for all, or one a task.
        state, handle, launched, tail_logs, dependencies, plugins: as in `Job`.
    """

    id: str
    tasks: list[Any]
    executors: list[Executor]
    state: JobStatus = JobStatus.UNSUBMITTED
    handle: str = ""
    launched: bool = False
    tail_logs: bool = False
    dependencies: list[str] = field(default_factory=list)
    plugins: list[ExperimentPlugin] | None = None

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError(f"The group {self.id!r} has no tasks.", hint="Add at least one.")
        if len(self.executors) not in (1, len(self.tasks)):
            raise ConfigError(
                f"The group {self.id!r} has {len(self.tasks)} tasks and {len(self.executors)} executors.",
                hint="Give it one executor, or one for each task.",
            )
        if len({type(e) for e in self.executors}) > 1:
            raise ConfigError(
                f"The executors of the group {self.id!r} are of different types.", hint="Use one type for all members."
            )

    @property
    def executor(self) -> Executor:
        """The first member's executor."""
        return self.executors[0]


def job_to_spec(job: Job | JobGroup) -> JobSpec:
    """A job as data.

    Raises:
        SerializationError: a task cannot be written down.
    """
    from nemo_prefect.executors.registry import executor_to_spec

    return JobSpec(
        id=job.id,
        name=job.id,
        tasks=tuple(task_to_spec(task) for task in job.tasks),
        executors=tuple(executor_to_spec(executor) for executor in job.executors),
        dependencies=tuple(job.dependencies),
        group=isinstance(job, JobGroup),
        tail_logs=job.tail_logs,
        plugins=tuple(type(p).__qualname__ for p in job.plugins or []),
    )


def job_from_spec(spec: JobSpec) -> Job | JobGroup:
    """The job that `job_to_spec` wrote down. The modules that its tasks name are imported."""
    from nemo_prefect.executors.registry import executor_from_spec

    tasks = [task_from_spec(task) for task in spec.tasks]
    executors = [executor_from_spec(executor) for executor in spec.executors]
    common: dict[str, Any] = {"tail_logs": spec.tail_logs, "dependencies": list(spec.dependencies), "launched": True}
    if spec.group:
        return JobGroup(spec.id, tasks, executors, **common)
    return Job(spec.id, tasks[0], executors[0], **common)


def task_name(task: Any) -> str:
    """The default name of a task: the script's, or the function's ``module.qualname``."""
    if isinstance(task, Script):
        return task.get_name()
    from nemo_prefect.config import get_type_namespace

    return get_type_namespace(task)


def check_task(task: Any) -> Any:
    """`task`, if it is one.

    Raises:
        ConfigError: it is neither a Script nor a Partial.
    """
    if not isinstance(task, Script):
        from fiddle import Partial

        if not isinstance(task, Partial):
            raise ConfigError(
                f"{task!r} is no task.", hint="Add a run.Script, or a function as run.Partial(function, argument=value)."
            )
    return task


def task_to_spec(task: Any) -> TaskSpec:
    """A task as data.

    Raises:
        ConfigError: it is neither a Script nor a Partial.
        SerializationError: it does not come back the same; the message names the paths.
    """
    if isinstance(task, Script):
        return TaskSpec(kind="script", name=task.get_name(), script=asdict(task))
    from nemo_prefect.config import check_serializable
    from nemo_prefect.payload import encode_task

    text = check_serializable(task)
    return TaskSpec(kind="partial", name=task_name(task), payload=encode_task(task), config=text)


def task_from_spec(spec: TaskSpec) -> Any:
    """The Script or Partial that `task_to_spec` wrote down."""
    if spec.kind == "script":
        return Script(**spec.script)
    from nemo_prefect.config import ZlibJSONSerializer
    from nemo_prefect.external_main import MODULE

    return ZlibJSONSerializer().deserialize(spec.config, main=MODULE if MODULE in sys.modules else None)
