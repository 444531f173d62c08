"""`Experiment`: tasks, executors and dependencies, run as one Prefect flow run."""

from __future__ import annotations

import contextvars
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_prefect._imports import collector_paused
from nemo_prefect.configurable import ConfigurableMixin
from nemo_prefect.errors import (
    ConfigError,
    DependencyError,
    ExperimentCancelled,
    ExperimentFailed,
    FailedJob,
    NotFoundError,
    ServerError,
    UsageError,
)
from nemo_prefect.external_main import maybe_load_external_main, stop_if_imported_by_a_job
from nemo_prefect.home import experiments_dir
from nemo_prefect.jobs import Job, JobGroup, Jobs, Tasks, check_task, job_from_spec, job_to_spec, task_name
from nemo_prefect.ledger import Ledger
from nemo_prefect.plugin import ExperimentPlugin
from nemo_prefect.rehearsal import is_rehearsal
from nemo_prefect.shell import check_name
from nemo_prefect.spec import ExperimentSpec, check_graph
from nemo_prefect.states import JobStatus
from nemo_prefect.terminal import DummyConsole, PatientConsole

if TYPE_CHECKING:
    from rich.console import Console
    from typing_extensions import Self

    from nemo_prefect.compare import Comparison
    from nemo_prefect.executors.base import Executor
    from nemo_prefect.history import JobView, LocalHistory, ServerHistory
    from nemo_prefect.session import Outcome

__all__ = ["DummyConsole", "Experiment", "Jobs", "Tasks", "current_experiment", "maybe_load_external_main"]

logger = logging.getLogger("nemo_prefect")

_current: contextvars.ContextVar[Experiment | None] = contextvars.ContextVar("nemo_prefect_experiment", default=None)

#: Lines of a failed job's output that the error shows.
ERROR_LINES = 10


class Experiment(ConfigurableMixin):
    """An experiment: jobs and the edges between them.

    Used as a context manager, as in NeMo-Run::

        with run.Experiment("pretrain") as exp:
            data = exp.add(run.Script("prepare.sh"), name="prepare")
            exp.add(run.Partial(train, lr=1e-4), name="train", dependencies=[data])
            exp.run()

    Args:
        title: names the experiment and its Prefect flow; a directory, so no slashes.
        executor: where jobs run that name no executor of their own; by default this machine.
        id: names this run; by default the title and the time in nanoseconds.
        log_level: the level of this package's own log.
        base_dir: keep the experiment below this directory, not ``$NEMORUN_HOME``.
        clean_mode: show nothing.
        enable_goodbye_message: show, at the end, how to look at the experiment later.
        threadpool_workers: accepted for NeMo-Run's sake; jobs are driven from one event loop, without threads.
        skip_status_at_exit: do not show the table of jobs at the end.
        serialize_metadata_for_scripts: keep the ``metadata`` of scripts with the experiment; else it is left out of what is
            written, and an experiment that is read back has none.

    Raises:
        ConfigError: the title or the id cannot name a directory, or there is no such log level.
    """

    GOODBYE_MESSAGE_PYTHON = """
# The experiment was run with the following tasks: {tasks}
# Look at it again, from any Python:
experiment = run.Experiment.from_id("{exp_id}")
experiment.status()
experiment.logs("{first}")
experiment.cancel("{first}")
"""

    GOODBYE_MESSAGE_BASH = """
# Or from a shell:
nemo-prefect experiment status {exp_id}
nemo-prefect experiment logs {exp_id} {first}
nemo-prefect experiment cancel {exp_id} {first}
"""

    def __init__(
        self,
        title: str,
        executor: Executor | str | None = None,
        id: str | None = None,
        log_level: str = "INFO",
        _reconstruct: bool = False,
        jobs: list[Job | JobGroup] | None = None,
        base_dir: str | None = None,
        clean_mode: bool = False,
        enable_goodbye_message: bool = True,
        threadpool_workers: int = 16,
        skip_status_at_exit: bool = False,
        serialize_metadata_for_scripts: bool = True,
    ) -> None:
        self._title = check_name("title", title)
        self._id = check_name("id", id or f"{title}_{time.time_ns()}")
        self._base_dir = base_dir
        self._added = Jobs(jobs or [])
        self._stored: ExperimentSpec | None = None  # of an experiment that was read back: its jobs, not yet loaded
        self._given_executor = executor
        self._executor: Executor | None = None
        self._log_level = log_level
        self._reconstruct = _reconstruct
        self._clean_mode = clean_mode
        self._enable_goodbye_message = enable_goodbye_message
        self._threadpool_workers = threadpool_workers
        self._skip_status_at_exit = skip_status_at_exit
        self._serialize_metadata_for_scripts = serialize_metadata_for_scripts
        self._launched = False
        self._rehearsed = False
        self._detached = False
        self._deferred = False
        self._written_by_dryrun = False
        self._tasks: Tasks | None = None
        self._token: contextvars.Token[Experiment | None] | None = None
        self._console: Console | DummyConsole | None = None
        try:
            logger.setLevel(log_level.upper())
        except ValueError as error:
            raise ConfigError(f"{log_level!r} is no log level.", hint="Use DEBUG, INFO, WARNING or ERROR.") from error

    # Building --------------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The experiment's id."""
        return self._id

    @property
    def title(self) -> str:
        """The experiment's title."""
        return self._title

    @property
    def launched(self) -> bool:
        """Whether it ran, or runs; within ``--dryrun``, whether it would have."""
        return self._launched or self._rehearsed

    @property
    def directory(self) -> Path:
        """Where the experiment lies on disk, once it ran."""
        return experiments_dir(self._base_dir) / self._title / self._id

    @property
    def base_dir(self) -> str | None:
        """The directory that was given as `base_dir`, or None for ``$NEMORUN_HOME``."""
        return self._base_dir

    @property
    def _exp_dir(self) -> str:
        return str(self.directory)

    @property
    def executor(self) -> Executor:
        """Where jobs run that name no executor of their own."""
        if self._executor is None:
            self._executor = _executor(self._given_executor)
        return self._executor

    def __enter__(self) -> Self:
        stop_if_imported_by_a_job()
        self._token = _current.set(self)
        return self

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        if self._token is not None:
            _current.reset(self._token)
            self._token = None
        failed = isinstance(exc_value, ExperimentFailed)
        if not (self._launched or self._reconstruct) or (exc_value is not None and not failed):
            return
        if not self._skip_status_at_exit:
            self._show_status()
        if not failed:  # the error says where to look
            self._goodbye()

    @contextmanager
    def building(self) -> Iterator[None]:
        """Lets jobs be added, and nothing more: what `run.flow` opens around the user's function, whose run comes later."""
        self._deferred, token = True, _current.set(self)
        self._token = token
        try:
            yield
        finally:
            _current.reset(token)
            self._deferred, self._token = False, None

    def _require_context(self) -> None:
        if self._token is None:
            raise UsageError(
                "Using Experiment without it's context manager is not permitted.",
                hint="Write: with run.Experiment(...) as exp: ...",
            )

    def add(
        self,
        task: Any,
        executor: Executor | str | Sequence[Executor | str] | None = None,
        name: str = "",
        plugins: Sequence[ExperimentPlugin] | ExperimentPlugin | None = None,
        tail_logs: bool = False,
        dependencies: Sequence[str] | None = None,
    ) -> str:
        """Add a task, or a list of tasks as one group that starts and fails together.

        Args:
            task: a `Script`, a `Partial`, or a list of them.
            executor: where it runs: an executor, the slug of an executor block, or for a group a list with one a task; by
                default the experiment's.
            name: the job's id; by default the script's or function's name. Taken ones get a number behind.
            plugins: change task and executor before they are added.
            tail_logs: show the job's output while it runs.
            dependencies: ids of the jobs that have to succeed first.

        Returns:
            The job's id.

        Raises:
            UsageError: outside the experiment's ``with`` block.
            DependencyError: a dependency names no job of this experiment.
            SerializationError: a Partial cannot be sent to its job; the message names the paths.
            ConfigError: a group has no name, a script does not exist, or the task is of another kind.
        """
        self._require_context()
        dependencies = list(dependencies or [])
        for dependency in dependencies:
            if dependency not in (known := [job.id for job in self._jobs]):
                raise DependencyError(
                    f"Dependency {dependency} not found.", hint=f"Jobs so far: {', '.join(known) or 'none'}."
                )
        group = isinstance(task, list)
        if group and not name:
            raise UsageError("name is required for task group.", hint="Pass name='...'.")
        tasks = [check_task(_clone(t)) for t in (task if group else [task])]
        given: list[Any] = list(executor) if isinstance(executor, (list, tuple)) else [executor]
        executors = [(self.executor if e is None else _executor(e)).clone() for e in given]
        job_id = self._free_id(check_name("name of a job", name or task_name(tasks[0])))
        plugins = [plugins] if isinstance(plugins, ExperimentPlugin) else list(plugins or [])
        job: Job | JobGroup
        common: dict[str, Any] = {"tail_logs": tail_logs, "dependencies": dependencies, "plugins": plugins}
        job = JobGroup(job_id, tasks, executors, **common) if group else Job(job_id, tasks[0], executors[0], **common)
        for each in executors:
            each.assign(self._id, self._exp_dir, job_id, job_id)
        for plugin in plugins:
            plugin.assign(self._id)
            for index, each_task in enumerate(tasks):
                plugin.setup(each_task, executors[index if len(executors) > 1 else 0])
        spec = job_to_spec(job, metadata=self._serialize_metadata_for_scripts)
        for index, task_spec in enumerate(spec.tasks):
            executors[index if len(executors) > 1 else 0].check_task(task_spec)
        self._added.append(job)
        return job_id

    @property
    def _jobs(self) -> Jobs:
        """The jobs. Those of an experiment that was read back are loaded when they are first asked for, not before:
        loading imports what their tasks name, which looking at a status must not."""
        if self._stored is not None:
            stored, self._stored = self._stored, None
            maybe_load_external_main(stored.directory)
            self._added = Jobs([job_from_spec(job) for job in stored.jobs])
        return self._added

    def _free_id(self, name: str) -> str:
        taken, number, free = {job.id for job in self._jobs}, len(self._jobs), name
        while free in taken:
            free, number = f"{name}_{number}", number + 1
        return free

    @property
    def jobs(self) -> Jobs:
        """The jobs, in the order in which they were added; also found by id."""
        return self._jobs

    @property
    def tasks(self) -> Tasks:
        """The tasks, in the order in which they were added; a group's is a list. Changes to them count for the next run."""
        return Tasks.of(self._jobs)

    @tasks.setter
    def tasks(self, tasks: Sequence[Any]) -> None:
        if len(tasks) != len(self._jobs):
            raise UsageError(f"{len(tasks)} tasks for {len(self._jobs)} jobs.", hint="Give one task a job.")
        self.tasks[:] = tasks

    def to_config(self) -> Any:
        """The experiment as a Fiddle `Config`; building that gives an experiment with the same jobs, not yet run."""
        from nemo_prefect.config import Config

        return Config(
            self.__class__,
            title=self._title,
            executor=self.executor.to_config(),
            id=self._id,
            log_level=self._log_level,
            jobs=self._jobs.to_config(),
            base_dir=self._base_dir,
            clean_mode=self._clean_mode,
            enable_goodbye_message=self._enable_goodbye_message,
            threadpool_workers=self._threadpool_workers,
            skip_status_at_exit=self._skip_status_at_exit,
            serialize_metadata_for_scripts=self._serialize_metadata_for_scripts,
        )

    def spec(self, sequential: bool = False) -> ExperimentSpec:
        """The experiment as data.

        Args:
            sequential: let every job wait for the one before it.

        Raises:
            UsageError: `sequential`, and a job has dependencies of its own.
            DependencyError: the dependencies form a cycle.
        """
        import getpass
        import socket

        jobs = [job_to_spec(job, metadata=self._serialize_metadata_for_scripts) for job in self._jobs]
        if sequential:
            if any(job.dependencies for job in jobs):
                raise UsageError(
                    "sequential=True cannot be combined with dependencies.",
                    hint="Use one of the two to order the jobs.",
                )
            before = [(), *((job.id,) for job in jobs)]
            jobs = [job.model_copy(update={"dependencies": before[i]}) for i, job in enumerate(jobs)]
        if not jobs:
            raise UsageError("The experiment has no jobs.", hint="Add at least one with exp.add(...).")
        check_graph({job.id: job.dependencies for job in jobs})
        return ExperimentSpec(
            id=self._id,
            title=self._title,
            directory=self._exp_dir,
            cwd=os.getcwd(),
            jobs=tuple(jobs),
            created=time.time(),
            provenance={
                "host": socket.gethostname(),
                "user": getpass.getuser(),
                "argv": sys.argv,
                "python": platform.python_version(),
            },
            serialize_metadata_for_scripts=self._serialize_metadata_for_scripts,
        )

    def to_flow(self) -> Any:
        """The experiment as a Prefect flow. Each run of it is an experiment of its own, with its own id."""
        from nemo_prefect.compiler import compile_flow

        return compile_flow(self.spec())

    def to_deployment(self, name: str, **options: Any) -> Any:
        """A deployment of this experiment as it is now, not yet on the server: a Prefect ``RunnerDeployment``.

        Args:
            name: the deployment's name.
            options: ``cron``, ``interval`` (seconds or a timedelta), ``rrule``, ``parameters={"overrides": {...}}``,
                ``tags``, ``paused`` and what else Prefect's ``Flow.to_deployment`` takes.

        Raises:
            ConfigError: a schedule or a parameter is not valid. Nothing was written then.
        """
        from nemo_prefect.deploying import experiment_to_deployment

        return experiment_to_deployment(self, name, **options)

    def deploy(self, name: str, work_pool_name: str | None = None, **options: Any) -> Any:
        """Put this experiment on the server as a deployment. Each run of it is an experiment of its own, with its own id.

        Args:
            name: the deployment's name; it runs as ``prefect deployment run TITLE/NAME``.
            work_pool_name: whose workers run it; by default the process pool ``local``, which is made where it is missing.
                They have to see this experiment's files.
            options: as in `to_deployment`.

        Returns:
            The deployment's id.

        Raises:
            ConfigError: as in `to_deployment`, or there is no such work pool.
        """
        from nemo_prefect.deploying import put

        return put(self.to_deployment(name, **options), work_pool_name, None)

    def serve(self, name: str | None = None, limit: int | None = None, **options: Any) -> None:
        """Run this experiment's scheduled and requested runs from this process, until it is stopped.

        Args:
            name: the deployment's name; by default the title.
            limit: how many runs at a time, at most.
            options: as in `to_deployment`.
        """
        from nemo_prefect.deploying import serve_deployment

        serve_deployment(self.to_deployment(name or self._title, **options), limit)

    # Running ---------------------------------------------------------------------------------------------------------

    def dryrun(self, log: bool = True, exist_ok: bool = False, delete_exp_dir: bool = True) -> None:
        """Show exactly what `run` would run, without running it.

        Args:
            log: print it.
            exist_ok: accept that the experiment's directory is there already.
            delete_exp_dir: leave nothing behind; else the experiment's directory is kept.
        """
        from rich.text import Text

        from nemo_prefect.layout import Layout, units_of

        spec, layout = self.spec(), Layout(self.directory)
        if layout.root.exists() and not exist_ok and not self._written_by_dryrun:
            raise UsageError(f"{layout.root} exists.", hint="Pass exist_ok=True, or reset() the experiment.")
        if log:
            self.console.print(f"[bold]Dry run of {self._id}[/bold]")
        for job in spec.jobs:
            for unit, members in units_of(job).items():
                request = layout.request(spec, job, unit, members, 1)
                executor = request.executors[0]
                rendered = executor.render(request)
                if log:
                    after = f" after {', '.join(job.dependencies)}" if job.dependencies else ""
                    self.console.print(Text.assemble((unit, "bold cyan"), f" on {executor.info()}{after}"))
                    self.console.print(Text(str(rendered)), soft_wrap=True)
        if not delete_exp_dir and not layout.root.exists():
            layout.write(spec)
            self._written_by_dryrun = True

    def run(self, sequential: bool = False, detach: bool = False, tail_logs: bool = False, direct: bool = False) -> None:
        """Run the experiment and wait until it ends.

        Ctrl-C does not end the jobs: it leaves them to a runner in the background. A second Ctrl-C within three seconds
        cancels them.

        Args:
            sequential: let every job wait for the one before it.
            detach: return as soon as a runner in the background owns the experiment; this process may end then.
            tail_logs: show the output of all jobs.
            direct: run the tasks one after another in this process, without executors and without a server.

        Raises:
            ExperimentFailed: a job failed; the error names it, with its exit code and its last lines.
            ExperimentCancelled: the experiment was cancelled.
            UsageError: outside the experiment's ``with`` block, or options that exclude each other.
            ServerError: no Prefect server answers.
        """
        self._require_context()
        if self._deferred:
            raise UsageError(
                "A function with @run.flow only adds jobs: the flow runs them.", hint="Remove the call of exp.run()."
            )
        if is_rehearsal():
            self._rehearsed = True
            self.dryrun()
            return
        if self._launched:
            self.console.print("[yellow]Experiment already running.[/yellow] reset() it to run it again.")
            return
        if self._reconstruct:
            self.console.print("[yellow]Experiment in inspection mode.[/yellow] reset() it to run it again, or resume() it.")
            return
        if direct:
            self._run_direct(self.spec())
            return
        spec = self.spec(sequential)
        with collector_paused():
            from nemo_prefect import engine  # noqa: F401 - here, where the collector is paused
            from nemo_prefect.layout import Layout
            from nemo_prefect.server import connected

        with connected() as connection:
            layout = Layout(self.directory)
            if self._written_by_dryrun:
                shutil.rmtree(layout.root)
            layout.write(spec)
            self._launched = True
            try:
                self._drive(spec, connection, detach=detach, tail_logs=tail_logs)
            except ServerError:
                if not Ledger(layout.root).path.exists():  # nothing was started: as if it had never been tried
                    shutil.rmtree(layout.root)
                    self._launched = False
                raise

    def resume(self, detach: bool = False, tail_logs: bool = False) -> None:
        """Take up an experiment that nobody drives any more: what still runs is adopted, what succeeded is left alone, and
        what had failed or never started is run. Jobs that ended meanwhile count as they ended.

        Args and errors as in `run`.

        Raises:
            UsageError: another process drives the experiment.
            NotFoundError: the experiment is not on this machine, or was never run.
        """
        from nemo_prefect.layout import Layout
        from nemo_prefect.server import connected
        from nemo_prefect.session import driver

        layout = Layout(self.directory)
        spec = layout.read()
        if owner := driver(layout):
            raise UsageError(
                f"{self._id} is running: process {owner.get('pid')} on {owner.get('host')} drives it.",
                hint="Watch it with status() and logs().",
            )
        with connected() as connection:
            layout.done_file.unlink(missing_ok=True)
            self._launched = True
            self._drive(spec, connection, detach=detach, tail_logs=tail_logs, rerun_failed=True)

    def _drive(
        self, spec: ExperimentSpec, connection: Any, *, detach: bool, tail_logs: bool, rerun_failed: bool = False
    ) -> None:
        from nemo_prefect.layout import Layout
        from nemo_prefect.session import run_attached, spawn_runner
        from nemo_prefect.terminal import Terminal

        layout = Layout(spec.directory)
        tailed = {job.id for job in spec.jobs if tail_logs or job.tail_logs}
        terminal = Terminal(self._id, self.console, tailed)
        if detach:
            spawn_runner(layout, rerun_failed=rerun_failed)
            terminal.on_link(connection.flow_run_link(layout.read_run()["flow_run_id"]))
            self._detached = True
            for job in self._added:
                job.state, job.launched = JobStatus.SUBMITTED, True
            self.console.print("The experiment goes on in the background.")
            return
        try:
            outcome = run_attached(spec, connection, observer=terminal, screen=terminal, rerun_failed=rerun_failed)
        finally:
            terminal.close()
        if outcome.released:
            spawn_runner(layout)
            self._detached = True
            self.console.print("The experiment goes on in the background.")
            self._goodbye()
            raise KeyboardInterrupt("the experiment goes on in the background")
        self._take(outcome)

    def _take(self, outcome: Outcome) -> None:
        """Note how the jobs ended, and raise where not all is well."""
        views = {v.id: v for v in self._history().views()}
        for job in self._added:
            if job.id in views:
                job.state, job.handle, job.launched = views[job.id].state.status, views[job.id].handle, True
        if outcome.status is JobStatus.SUCCEEDED:
            return
        from nemo_prefect.logs import tail

        failed = []
        for view in views.values():
            state = outcome.states.get(view.id, view.state)
            is_group = any(v.startswith(f"{view.id}/") for v in views)
            if state.status in (JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.UNKNOWN) and not is_group:
                where = view.ref.directory if view.ref else view.local_dir
                lines = tail(where, ERROR_LINES) if state.status is not JobStatus.CANCELLED else []
                failed.append(FailedJob(view.id, state.describe(), tuple(lines)))
        kind = ExperimentCancelled if outcome.status is JobStatus.CANCELLED else ExperimentFailed
        first = failed[0].job_id if failed else ""
        raise kind(self._id, failed, hint=f"See all of it with: nemo-prefect experiment logs {self._id} {first}".rstrip())

    def _run_direct(self, spec: ExperimentSpec) -> None:
        from nemo_prefect.direct import run_directly
        from nemo_prefect.layout import Layout
        from nemo_prefect.refs import submission_key
        from nemo_prefect.states import JobState

        if any(isinstance(job, JobGroup) or job.dependencies for job in self._jobs):
            raise UsageError(
                "direct=True runs single jobs without dependencies.",
                hint="Leave out direct, or the groups and dependencies.",
            )
        layout = Layout(self.directory)
        if self._written_by_dryrun:
            shutil.rmtree(layout.root)
        layout.write(spec.unpacked())  # the code runs where it is
        self._launched, ledger = True, Ledger(layout.root)
        for job in self._jobs:
            self.console.print(f"[bold]Running {job.id} in this process[/bold]")
            job.state, job.launched, failure = JobStatus.RUNNING, True, ""
            try:
                run_directly(job.task, job.executor, self.directory / f"log_{job.id}_direct_run.out")
            except BaseException as error:
                failure = f"{type(error).__name__}: {error}"
                raise
            finally:
                job.state = JobStatus.FAILED if failure else JobStatus.SUCCEEDED
                ledger.write(job.id, 1, submission_key(self._id, job.id, 1), "ENDED", JobState(job.state, message=failure))
                if failure or job is self._jobs[-1]:
                    layout.done_file.touch(mode=0o600)

    # Looking back ----------------------------------------------------------------------------------------------------

    def _history(self) -> LocalHistory | ServerHistory:
        from nemo_prefect.history import open_history

        return open_history(self._id, self._base_dir)

    def _views(self) -> list[JobView]:
        from nemo_prefect.history import JobView
        from nemo_prefect.states import JobState

        try:
            return self._history().views()
        except NotFoundError:
            return [JobView(job.id, JobState(job.state), job.executor.executor_name) for job in self._jobs]

    def status(self, return_dict: bool = False) -> dict[str, dict[str, Any]] | None:
        """Where the jobs stand, from any process: shown as a table, or returned.

        Args:
            return_dict: return ``{job id: {name, status, executor, job_id, handle, local_dir, exit_code, cause,
                message}}`` and show nothing.
        """
        if return_dict:
            return {view.id: view.to_dict() for view in self._views()}
        self._show_status()
        return None

    def _show_status(self) -> None:
        from nemo_prefect.terminal import status_table

        self.console.print(status_table(self._id, self._views()), crop=False)

    def logs(self, job_id: str, regex: str | None = None) -> None:
        """Write a job's output to stderr, and go on while it runs.

        Args:
            job_id: the job; ``group/0`` for one member of a group.
            regex: only lines in which this is found.

        Raises:
            NotFoundError: there is no such job.
        """
        direct = self.directory / f"log_{job_id}_direct_run.out"
        if direct.exists():
            self.console.print(f"{job_id} ran in its launcher's process. Its output is in {direct}", soft_wrap=True)
            return
        for unit, line in self._history().lines(job_id, regex):
            name, _, member = unit.partition("/")
            sys.stderr.write(f"{name[-10:]}/{member or 0} {line}\n")

    def cancel(self, job_id: str | None = None) -> None:
        """End a job, or without an id all of them, and return once it ended. Works from any process.

        Raises:
            NotFoundError: there is no such job.
            ExecutorError: it did not end in time.
        """
        self._history().cancel(job_id)

    def reset(self) -> Experiment:
        """Make the experiment ready for another run, under a new id, with its tasks as they are now. Returns itself."""
        if not (self._launched or self._reconstruct or self._written_by_dryrun):
            self.console.print(f"[yellow]{self._id} has not run yet, skipping reset.[/yellow]")
            return self
        self._id = f"{self._title}_{time.time_ns()}"
        self._launched = self._reconstruct = self._detached = self._written_by_dryrun = False
        for job in self._jobs:
            job.state, job.handle, job.launched = JobStatus.UNSUBMITTED, "", False
            for executor in job.executors:
                executor.assign(self._id, self._exp_dir, job.id, job.id)
        return self

    @classmethod
    def catalog(cls, title: str = "") -> list[str]:
        """The ids of the experiments of a title, oldest first; without one, the titles there are."""
        from nemo_prefect import history

        return history.ids(title) if title else history.titles()

    @classmethod
    def from_id(cls, id: str) -> Experiment:
        """The experiment of that id: to look at, to `cancel`, to `resume`, or to `reset` and run again.

        Raises:
            NotFoundError: there is none; the message names the nearest id.
        """
        from nemo_prefect.history import LocalHistory, open_history

        history = open_history(id)
        if not isinstance(history, LocalHistory):
            experiment = cls(id.rpartition("_")[0] or id, id=id, _reconstruct=True)
            experiment._history = lambda: history  # type: ignore[method-assign]
            return experiment
        spec = history.spec
        experiment = cls(spec.title, id=spec.id, _reconstruct=True, base_dir=str(Path(spec.directory).parents[2]))
        experiment._stored = spec
        return experiment

    @classmethod
    def from_title(cls, title: str) -> Experiment:
        """The newest experiment of that title.

        Raises:
            NotFoundError: there is none.
        """
        found = cls.catalog(check_name("title", title))
        if not found:
            raise NotFoundError(
                f"No experiment has the title {title}.", hint=f"There are: {', '.join(cls.catalog()) or 'none'}."
            )
        return cls.from_id(found[-1])

    # Saying it -------------------------------------------------------------------------------------------------------

    @property
    def console(self) -> Any:
        """Where the experiment says what it does: a rich Console, or a `DummyConsole` in clean mode."""
        if self._console is None:
            self._console = DummyConsole() if self._clean_mode else PatientConsole()
        return self._console

    def _goodbye(self) -> None:
        ids = [job.id for job in (self._stored.jobs if self._stored else self._added)]
        if not self._enable_goodbye_message or not ids or self._clean_mode:
            return
        shown = ids if len(ids) <= 10 else [*ids[:10], "…"]
        for text, language in ((self.GOODBYE_MESSAGE_PYTHON, "python"), (self.GOODBYE_MESSAGE_BASH, "bash")):
            message = text.format(tasks=shown, exp_id=self._id, first=ids[0])
            if not self.console.is_terminal:
                self.console.print(message, markup=False, highlight=False, soft_wrap=True)
                continue
            from rich.syntax import Syntax

            theme = os.environ.get("NEMO_RUN_CODE_THEME", "monokai")
            self.console.print(Syntax(message, language, theme=theme, background_color="default", word_wrap=True))

    def diff(self, old: Any, trim: bool = True, **kwargs: Any) -> Any:
        """What differs between `old`, another experiment or a task, and this one. Jobs are compared by their ids; the ids
        of the experiments, which always differ, are left out.

        Args:
            old: what to compare with.
            trim: leave out what is the same.
            **kwargs: for the graph: passed on to Fiddle's ``render_diff``.
        """
        made = super().diff(old, trim=trim, **kwargs)
        made.changes = [change for change in made.changes if change.path != "id"]
        return made

    def compare(self, other: Experiment | str) -> Comparison:
        """What differs between `other`, an earlier experiment or its id, and this one: configuration, code, how the jobs
        ended, how long they took, and the metrics that they reported last.

        Raises:
            NotFoundError: one of them is not known here.
        """
        from nemo_prefect.compare import compare

        return compare(Experiment.from_id(other) if isinstance(other, str) else other, self)

    def notify(self, on: Sequence[str], block: str) -> str:
        """Have the Prefect server send a notification when a run of this title ends. Calling it again changes what is there.

        Args:
            on: any of ``"failed"``, ``"cancelled"``, ``"succeeded"``, ``"started"``.
            block: the slug of a saved notification block, such as ``slack-webhook/team``.

        Returns:
            The id of the automation.

        Raises:
            ConfigError: a word of `on` is none of these, or the block cannot notify.
            NotFoundError: there is no such block.
        """
        from nemo_prefect._async import run_sync
        from nemo_prefect.notify import notify
        from nemo_prefect.server import connected

        with connected():
            return run_sync(notify(self._title, on, block))

    def _repr_html_(self) -> str:
        from nemo_prefect.terminal import status_html

        return status_html(self._id, self._views())

    def __repr__(self) -> str:
        ids = [job.id for job in (self._stored.jobs if self._stored else self._added)]
        return f"Experiment({self._title!r}, id={self._id!r}, jobs={ids})"


def _executor(given: Executor | str | None) -> Executor:
    if isinstance(given, str):
        from nemo_prefect.executors.registry import load_executor

        return load_executor(given)
    if given is None:
        from nemo_prefect.executors.local import LocalExecutor

        return LocalExecutor()
    from nemo_prefect.executors.base import require

    if hasattr(given, "__fn_or_cls__"):  # run.Config(SlurmExecutor, ...), as NeMo-Run's users write it
        import fiddle

        return require(fiddle.build(given))
    return require(given)


def _clone(task: Any) -> Any:
    import copy

    return copy.deepcopy(task)


def current_experiment() -> Experiment | None:
    """The experiment whose ``with`` block is open here, or None."""
    return _current.get()
