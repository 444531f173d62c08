"""The contract that every executor keeps, and what a job asks of it."""

from __future__ import annotations

import asyncio
import copy
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from prefect.blocks.abstract import JobBlock
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SerializeAsAny, field_validator

from nemo_prefect.configurable import ConfigurableMixin
from nemo_prefect.errors import ConfigError, ExecutorError
from nemo_prefect.exit_record import read_exit
from nemo_prefect.launchers import ExecutorMacros, Launcher, launcher_by_name
from nemo_prefect.logs import LogFiles, LogLine
from nemo_prefect.packaging import Packager
from nemo_prefect.refs import JobRef
from nemo_prefect.shell import check_env, exports, join
from nemo_prefect.spec import TaskSpec
from nemo_prefect.states import JobState, JobStatus

if TYPE_CHECKING:
    from typing_extensions import Self

#: What the blocks' pages in the UI link to.
DOCUMENTATION = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")
#: Where the worker's files lie inside an experiment's directory.
WORKER_DIR = "worker"


@dataclass(frozen=True)
class JobRequest:
    """One attempt at a job (or at one member of a group), as an executor is asked for it.

    Attributes:
        key: names this attempt; the same at every try, so that a second one finds the first.
        experiment_id: the experiment's id.
        job_id: the job's id; ``group/0`` for a member of a group that the executor runs one by one.
        attempt: 1 for the first.
        tasks: the commands; more than one only where the executor says `supports_groups`.
        experiment_dir: the experiment's directory.
        directory: this attempt's own directory: logs, exit record.
        cwd: the directory in which the experiment was launched.
        scripts: the files of inline scripts, one a task, or "" for tasks that have none.
        payloads: the task files of Python calls, one a task, or "".
        archives: the packed code, a ``.tar.gz`` file a task, or "" where none was packed.
        executors: the executor of each task: several different ones only in a group whose members have their own.
    """

    key: str
    experiment_id: str
    job_id: str
    attempt: int
    tasks: tuple[TaskSpec, ...]
    experiment_dir: Path
    directory: Path
    cwd: str = ""
    scripts: tuple[str, ...] = ()
    payloads: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()
    executors: tuple[Executor, ...] = ()

    def relocated(self, root: str) -> JobRequest:
        """This request as it reads on a machine (in a container) that sees the experiment's directory as `root`."""
        here = str(self.experiment_dir)

        def moved(path: str) -> str:
            return os.path.join(root, os.path.relpath(path, here)) if path else ""

        return replace(
            self,
            experiment_dir=Path(root),
            directory=Path(moved(str(self.directory))),
            scripts=tuple(moved(p) for p in self.scripts),
            payloads=tuple(moved(p) for p in self.payloads),
            archives=tuple(moved(p) for p in self.archives),
        )

    def command(self, index: int, python: str) -> list[str]:
        """The argument vector of one of the tasks, before any launcher.

        Args:
            index: which of `tasks`.
            python: the interpreter that runs a Python call.
        """
        from nemo_prefect.script import Script

        task = self.tasks[index]
        if task.kind == "script":
            return Script(**task.script).command(self.scripts[index])
        return [python, str(self.experiment_dir / WORKER_DIR / "run.py"), self.payloads[index]]

    def environment(self) -> dict[str, str]:
        """What every job finds in its environment about itself."""
        return {
            "NEMO_PREFECT_EXPERIMENT_ID": self.experiment_id,
            "NEMO_PREFECT_JOB_ID": self.job_id,
            "NEMO_PREFECT_JOB_DIR": str(self.directory.parent),
            "NEMO_PREFECT_ARTIFACTS": str(self.directory / "artifacts"),
            "NEMO_PREFECT_ATTEMPT": str(self.attempt),
            "NEMO_PREFECT_KEY": self.key,
        }


@dataclass(frozen=True)
class RenderedJob:
    """Exactly what will run: argument vector, environment (only what is set for the job), working directory."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""

    def __str__(self) -> str:
        lines = [f"cd {join([self.cwd])}\n"] if self.cwd else []
        return "".join([*lines, exports(self.env), join(self.argv), "\n"])


_secret_fields: dict[tuple[type, str], bool] = {}
_schemas: dict[type, dict[str, Any]] = {}


@contextmanager
def _one_schema(kind: type[Executor]) -> Iterator[None]:
    """Inside, the class's schema is made once."""
    _schemas[kind] = kind.model_json_schema()
    try:
        yield
    finally:
        del _schemas[kind]


class Executor(ConfigurableMixin, JobBlock, ABC):  # type: ignore[type-arg]
    """Where and how a job runs. One class is the Python object, the Prefect block and the form in the UI.

    The methods below `clone` are the contract with the engine. All are idempotent by `JobRequest.key`.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    #: The name under which the executor is registered, and the scheme of its handles.
    executor_name: ClassVar[str] = ""
    #: Whether one submission can hold several tasks; else the engine submits a group's members one by one.
    supports_groups: ClassVar[bool] = False
    #: Whether a job's files (logs, exit record) appear in its directory by themselves, without `fetch`.
    shares_directory: ClassVar[bool] = False
    #: Whether the scheduler itself can hold the edge between two of its jobs.
    supports_native_dependencies: ClassVar[bool] = False
    #: Seconds between two polls: at first, and at most.
    poll_interval: ClassVar[tuple[float, float]] = (1.0, 30.0)
    #: Seconds between two looks at a followed log: while lines come, and at most.
    log_interval: ClassVar[tuple[float, float]] = (0.5, 5.0)
    #: Seconds that a job may be missing from every answer before it is lost.
    lost_after: ClassVar[float] = 60.0

    _block_schema_capabilities = ["submit", "trigger"]
    _documentation_url = DOCUMENTATION

    packager: SerializeAsAny[Packager] = Field(default_factory=Packager, description="How the code travels to the job.")
    launcher: SerializeAsAny[Launcher] | str | None = Field(
        default=None, description="What starts the task's processes: a Launcher, or its name, such as torchrun."
    )
    env_vars: dict[str, str] = Field(default_factory=dict, description="Environment variables of the job.")
    retries: int = Field(default=0, ge=0, description="How often a job is tried again that failed by its own fault.")
    retry_delay: float = Field(default=0.0, ge=0, description="Seconds before a failed job is tried again.")
    infra_retries: int = Field(
        default=0, ge=0, description="How often a job is tried again whose node failed, that was preempted or got lost."
    )
    timeout: float | None = Field(
        default=None,
        gt=0,
        description="Seconds that a job may run before it is ended as failed; queue time is not counted.",
    )
    concurrency_limit: int | None = Field(
        default=None, ge=1, description="How many jobs run at once on this cluster, of everybody on the Prefect server."
    )
    experiment_id: str | None = Field(default=None, description="Set when the executor is assigned to an experiment.")
    job_dir: str = Field(default="", description="Set when the executor is assigned to an experiment.")

    @field_validator("env_vars")
    @classmethod
    def _check_env(cls, value: dict[str, str]) -> dict[str, str]:
        check_env(value)
        return value

    @field_validator("launcher", mode="before")
    @classmethod
    def _check_launcher(cls, value: Any) -> Any:
        if isinstance(value, str):
            launcher_by_name(value)
        return value

    def submit(self, task: Any, name: str = "") -> Any:
        """Start one job, outside of experiments: in any Prefect flow, or in none.

        Args:
            task: a `Script` or a `Partial`.
            name: the job's name; by default the script's or the function's.

        Returns:
            A Prefect ``JobRun`` with ``wait_for_completion``, ``fetch_result``, ``status`` and ``cancel``. In async code
            this and all of them are to be awaited.

        Raises:
            ConfigError: it is no task, or one that this executor could never run.
            SubmissionError: the job could not be started.
        """
        from nemo_prefect.job_run import dual, submit

        return dual(submit)(self, task, name)

    def trigger(self, task: Any = None, name: str = "") -> Any:
        """`submit`, by the name that Prefect's job blocks have for it. What it starts has to be given: a block saves where
        jobs run, not which.

        Raises:
            ConfigError: without a task.
        """
        if task is None:
            raise ConfigError(
                f"{type(self).__name__}.trigger() was given no task.", hint='Call trigger(run.Script("train.sh")).'
            )
        return self.submit(task, name)

    def _field_has_secrets(self, field_name: str) -> bool:
        # Prefect makes the class's whole schema anew for every field of every dump: most of a second for a large block.
        key = (type(self), field_name)
        if key not in _secret_fields:
            with _one_schema(type(self)):
                for name in type(self).model_fields:
                    _secret_fields[type(self), name] = super()._field_has_secrets(name)
        return _secret_fields.get(key, False)

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        known = _schemas.get(cls)
        return known if known is not None else super().model_json_schema(*args, **kwargs)

    @property
    def infra_budget(self) -> int:
        """How many new attempts follow losses of the machine: `infra_retries`, unless the scheduler sees to them itself."""
        return self.infra_retries

    def clone(self) -> Self:
        """A deep copy."""
        return self.model_copy(deep=True)

    def to_config(self) -> Any:
        """This executor as a Fiddle ``Config``, with the fields that are not at their defaults. What `assign` set is left
        out."""
        return _model_config(self)

    def assign(self, exp_id: str, exp_dir: str, task_id: str, task_dir: str) -> None:
        """Make this executor that of one job, as NeMo-Run's executors are: called on a copy, before plugins run."""
        self.experiment_id = exp_id
        self.job_dir = os.path.join(exp_dir, task_dir)

    def get_launcher(self) -> Launcher:
        """The launcher as an object; one given by name is made and kept, so that it can be changed."""
        if self.launcher is None or isinstance(self.launcher, str):
            self.launcher = launcher_by_name(self.launcher) if self.launcher else Launcher()
        return self.launcher

    def nnodes(self) -> int:
        """How many nodes the job spans."""
        return 1

    def nproc_per_node(self) -> int:
        """How many processes a launcher starts on each node."""
        return 1

    def gpus(self) -> int | None:
        """How many GPUs the job has in all, or None where that is not known."""
        each = getattr(self, "gpus_per_node", None)
        return each * self.nnodes() if each else None

    def macro_values(self) -> ExecutorMacros | None:
        """Where this executor's jobs find what they have to know of their nodes, or None where they are not told."""
        return None

    def info(self) -> str:
        """One line for the status table."""
        return f"{type(self).__name__}"

    def check_task(self, task: TaskSpec) -> None:
        """Refuse, when it is added, a task that this executor could never run.

        Raises:
            ConfigError: say what to do.
        """

    @property
    def edge(self) -> Literal["afterok", "afterany", "afternotok"]:
        """How jobs that one of this executor's depends on must have ended for it to start."""
        return "afterok"

    @property
    @abstractmethod
    def cluster(self) -> str:
        """Which of its kind this is: jobs of one cluster are polled with one query."""

    @abstractmethod
    def render(self, request: JobRequest) -> RenderedJob:
        """Exactly what `launch` would run. Touches nothing."""

    @abstractmethod
    async def launch(self, request: JobRequest) -> JobRef:
        """Start the job, once: a second call for the same key may start a duplicate, but never a second run of the
        task, since the job takes a lock named by the key first.

        Raises:
            SubmissionError: the job does not run. `transient` says whether it may next time.
        """

    @abstractmethod
    async def find(self, request: JobRequest) -> JobRef | None:
        """The job that an earlier `launch` of this key left behind, running or ended, or None."""

    @abstractmethod
    async def poll(self, refs: Sequence[JobRef]) -> dict[JobRef, JobState]:
        """The state of each job, with one query for all. A job that no answer shows is ``UNKNOWN`` with the cause LOST;
        a query that fails raises, and says nothing of any job.

        Raises:
            ExecutorError: the query failed.
        """

    @abstractmethod
    async def cancel(self, refs: Sequence[JobRef]) -> None:
        """End these jobs, whatever they started included, and return once they ended. Ended ones are left alone."""

    async def fetch(self, ref: JobRef) -> None:
        """Bring what the job wrote since the last call to `ref.directory`: ``stdout.log``, ``stderr.log``, ``exit.json``,
        ``artifacts/``, and ``<n>/stdout.log``, … of members, nodes or ranks. Appends only what is missing, and is safe to
        call again after a crash, by another process too. Does nothing where the files appear there by themselves.

        Raises:
            ExecutorError: the files could not be read; what is there already stays as it is.
        """

    async def logs(
        self,
        ref: JobRef,
        *,
        follow: bool = False,
        offsets: Mapping[str, int] | None = None,
        ended: asyncio.Event | None = None,
    ) -> AsyncIterator[LogLine]:
        """The job's output, line by line.

        Args:
            ref: the job.
            follow: go on until the job has ended and all it wrote was given.
            offsets: where to begin in each stream, in bytes; a `LogLine` says where its stream stands after it.
            ended: set by whoever watches the job once it has ended; without one the executor is asked.
        """
        shortest, longest = self.log_interval
        files, pause = LogFiles(ref.directory, offsets), shortest
        while True:
            over = not follow or (ended.is_set() if ended else await self._has_ended(ref))
            try:
                await self.fetch(ref)
            except ExecutorError as error:
                if over or not error.transient:
                    raise
            wrote = False
            for line in files.read(final=over):
                wrote = True
                yield line
            if over:
                return
            pause = shortest if wrote else min(pause * 1.3, longest)
            await asyncio.sleep(pause)

    async def _has_ended(self, ref: JobRef) -> bool:
        """Whether the job writes no more. A query that fails says that nothing is known, so it is asked again."""
        if read_exit(ref.directory) is not None:
            return True
        try:
            state = (await self.poll([ref]))[ref]
        except ExecutorError:
            return False
        return state.status.is_terminal or state.status is JobStatus.UNKNOWN


#: Fields that `Executor.assign` sets; they say nothing of the executor itself.
ASSIGNED = ("experiment_id", "job_dir")


def _model_config(model: BaseModel) -> Any:
    from nemo_prefect.config import Config

    given = {
        name: getattr(model, name)
        for name, info in type(model).model_fields.items()
        if name not in ASSIGNED and getattr(model, name) != info.get_default(call_default_factory=True)
    }
    nested = {n: _model_config(v) if isinstance(v, BaseModel) else copy.deepcopy(v) for n, v in given.items()}
    return Config(type(model), **nested, bind_args=False)


def require(executor: object) -> Executor:
    """`executor`, if it is one.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(executor, Executor):
        return executor
    raise ConfigError(
        f"{executor!r} is no executor.", hint="Pass run.LocalExecutor() or another executor, or a block's slug."
    )
