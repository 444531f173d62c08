"""`Job` and `JobGroup`: what an experiment holds; and their way into its spec and back."""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nemo_prefect.configurable import ConfigurableMixin
from nemo_prefect.diff import as_config
from nemo_prefect.errors import ConfigError, NotATaskError, NotFoundError, SerializationError
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

    def __post_init__(self) -> None:
        self.task = _unbuilt(self.task)

    @property
    def tasks(self) -> list[Any]:
        """Its task, as a list of one."""
        return [self.task]

    @property
    def executors(self) -> list[Executor]:
        """Its executor, as a list of one."""
        return [self.executor]

    def to_config(self) -> Any:
        """This job as a Fiddle ``Config``."""
        return _config(self, task=as_config(self.task), executor=as_config(self.executor))


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
        self.tasks = [_unbuilt(task) for task in self.tasks]
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

    def to_config(self) -> Any:
        """This group as a Fiddle ``Config``."""
        return _config(self, tasks=as_config(self.tasks), executors=as_config(self.executors))


class Jobs(list[Any], ConfigurableMixin):
    """The jobs of an experiment, found by position or by id."""

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            for job in self:
                if job.id == key:
                    return job
            raise NotFoundError(f"Job {key} not found.", hint=f"There are: {', '.join(job.id for job in self)}.")
        return super().__getitem__(key)

    def to_config(self) -> Any:
        """The jobs as a list of Fiddle configs."""
        return as_config(list(self))


class Tasks(list[Any], ConfigurableMixin):
    """The tasks of an experiment. Change them in place, or put others in their place; `Experiment.reset` takes the changes
    into the next run."""

    @classmethod
    def of(cls, jobs: Jobs) -> Tasks:
        """The tasks of these jobs; a group's is a list."""
        tasks = cls(job.tasks if isinstance(job, JobGroup) else job.task for job in jobs)
        tasks._jobs = jobs
        return tasks

    _jobs: Jobs | None = None

    def __setitem__(self, index: Any, task: Any) -> None:
        super().__setitem__(index, task)
        for job, changed in zip(self._jobs or (), self, strict=False):
            if isinstance(job, JobGroup):
                job.tasks = changed
            else:
                job.task = changed

    def to_config(self) -> Any:
        """The tasks as a list of Fiddle configs."""
        return as_config(list(self))


def _config(job: Job | JobGroup, **what: Any) -> Any:
    from nemo_prefect.config import Config

    return Config(type(job), id=job.id, **what, dependencies=list(job.dependencies), tail_logs=job.tail_logs)


def _unbuilt(task: Any) -> Any:
    """A task that came from building a config of its job as the Partial that it was."""
    if not isinstance(task, functools.partial):
        return task
    from nemo_prefect.config import Partial

    return Partial(task.func, *task.args, **task.keywords)


def job_to_spec(job: Job | JobGroup, metadata: bool = True) -> JobSpec:
    """A job as data.

    Args:
        job: the job.
        metadata: with the ``metadata`` of scripts.

    Raises:
        SerializationError: a task cannot be written down.
    """
    from nemo_prefect.executors.registry import executor_to_spec

    return JobSpec(
        id=job.id,
        name=job.id,
        tasks=tuple(task_to_spec(task, metadata) for task in job.tasks),
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
    """`task`, if it is one; what a `LazyEntrypoint` resolves to.

    Raises:
        NotATaskError: it is neither a Script nor a Partial.
    """
    if hasattr(type(task), "__nemo_task__"):
        task = task.__nemo_task__()
    if not isinstance(task, Script):
        from fiddle import Partial

        if not isinstance(task, Partial):
            raise NotATaskError(
                f"{task!r} is no task.", hint="Take a run.Script, or a function as run.Partial(function, argument=value)."
            )
    return task


def task_to_spec(task: Any, metadata: bool = True) -> TaskSpec:
    """A task as data.

    Raises:
        ConfigError: it is neither a Script nor a Partial.
        SerializationError: it does not come back the same; the message names the paths.
    """
    if isinstance(task, Script):
        script = asdict(task if metadata else replace(task, metadata={}))
        try:
            json.dumps(script)
        except (TypeError, ValueError) as error:
            raise SerializationError(
                f"The script {task.get_name()!r} cannot be written down ({error}).",
                hint="Its fields may hold text, numbers and lists and dicts of these only.",
            ) from error
        return TaskSpec(kind="script", name=task.get_name(), script=script)
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
