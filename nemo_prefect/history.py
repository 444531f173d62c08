"""The one door for reading: status, logs, cancel, by experiment id, from any process.

Where the experiment's directory is visible, its ledger and exit records are the truth, and what has not ended is asked of
its executor; elsewhere the Prefect server tells what the driver last told it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from nemo_prefect._async import run_sync
from nemo_prefect.errors import ExecutorError, NotFoundError, ServerError
from nemo_prefect.home import experiments_dir
from nemo_prefect.layout import CONFIG, Layout, member_id
from nemo_prefect.ledger import Entry, Ledger
from nemo_prefect.logs import LogFiles
from nemo_prefect.refs import JobRef
from nemo_prefect.session import TAG, driver
from nemo_prefect.spec import ExperimentSpec
from nemo_prefect.states import Cause, JobState, JobStatus, from_prefect

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun, TaskRun

    from nemo_prefect.executors.base import Executor

#: Seconds after which the server has recorded a task run that was made.
RECORDED_WITHIN = 15.0
#: Seconds that a cancelled job may take to end.
CANCEL_TIMEOUT = 30.0


@dataclass(frozen=True)
class JobView:
    """What a reader sees of a job, or of one member of a group."""

    id: str
    state: JobState
    executor: str
    handle: str = ""
    local_dir: str = ""
    ref: JobRef | None = None

    def to_dict(self) -> dict[str, Any]:
        """As NeMo-Run's ``status(return_dict=True)`` has it, and a little more."""
        return {
            "name": self.id,
            "status": self.state.status,
            "executor": self.executor,
            "job_id": self.ref.native_id if self.ref else "",
            "handle": self.handle,
            "local_dir": self.local_dir,
            "exit_code": self.state.exit_code,
            "cause": self.state.cause.value,
            "message": self.state.message,
        }


def titles(base_dir: str | None = None) -> list[str]:
    """The titles of all experiments on this machine, oldest first."""
    return [p.name for p in _directories(experiments_dir(base_dir))]


def ids(title: str, base_dir: str | None = None) -> list[str]:
    """The ids of the experiments of a title, oldest first: those on this machine, and those of a shared server."""
    local = [p.name for p in _directories(experiments_dir(base_dir) / title) if (p / CONFIG).exists()]
    return list(dict.fromkeys([*local, *_shared_ids(title)]))


def _directories(parent: Path) -> list[Path]:
    found = [p for p in parent.iterdir() if p.is_dir() and not p.name.startswith(".")] if parent.is_dir() else []
    return sorted(found, key=lambda p: (p.stat().st_ctime_ns, p.name))


def _shared_ids(title: str) -> list[str]:
    """Only a server that the user named can hold experiments of others; the embedded one has what the disk has."""
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:
        return []

    async def read() -> list[str]:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterTags
        from prefect.client.schemas.sorting import FlowRunSort

        async with get_client() as client:
            runs = await client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=[title])),
                flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[TAG])),
                sort=FlowRunSort.START_TIME_DESC,
                limit=200,
            )
        return [run.name for run in reversed(runs)]

    return run_sync(_asking(read()))


async def _asking(coroutine: Any) -> Any:
    """The server's answer.

    Raises:
        ServerError: there is none.
    """
    import httpx

    try:
        return await coroutine
    except httpx.HTTPError as error:
        raise ServerError(f"The Prefect server does not answer ({error!r}).", hint="Try `nemo-prefect doctor`.") from error


def open_history(exp_id: str, base_dir: str | None = None) -> LocalHistory | ServerHistory:
    """The experiment of that id.

    Raises:
        NotFoundError: neither this machine nor the server has it; the message names the nearest id.
        ServerError: it is not on this machine, and the server does not answer.
    """
    title, _, stamp = exp_id.rpartition("_")
    directory = experiments_dir(base_dir) / (title or stamp) / exp_id
    if (directory / CONFIG).exists():
        return LocalHistory(Layout(directory))
    other = next(iter(experiments_dir(base_dir).glob(f"*/{_glob(exp_id)}/{CONFIG}")), None)
    if other is not None:
        return LocalHistory(Layout(other.parent))
    from nemo_prefect.server import connected

    with connected(start=False) as connection:
        found = run_sync(_asking(_flow_run_named(exp_id))) if connection else None
    if found is None:
        import difflib

        known = [i for t in titles(base_dir) for i in ids_on_disk(t, base_dir)]
        near = difflib.get_close_matches(exp_id, known, 1)
        raise NotFoundError(
            f"Experiment {exp_id} not found.",
            hint=f"Did you mean {near[0]}?" if near else "List them with `nemo-prefect experiment list`.",
        )
    summary = found.parameters.get("experiment") or {}
    if (Path(summary.get("directory", "")) / CONFIG).is_file():  # an experiment with a base_dir of its own
        return LocalHistory(Layout(summary["directory"]))
    return ServerHistory(exp_id, found.id, summary)


def ids_on_disk(title: str, base_dir: str | None = None) -> list[str]:
    """The ids of the experiments of a title on this machine, oldest first."""
    return [p.name for p in _directories(experiments_dir(base_dir) / title) if (p / CONFIG).exists()]


def _glob(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


async def _flow_run_named(exp_id: str) -> FlowRun | None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
    from prefect.client.schemas.sorting import FlowRunSort

    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[exp_id])), sort=FlowRunSort.START_TIME_DESC, limit=1
        )
    return runs[0] if runs else None


class LocalHistory:
    """An experiment whose directory is visible here."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.spec: ExperimentSpec = layout.read()

    @property
    def flow_run_id(self) -> str | None:
        """The id of its flow run, once it ran."""
        found: str | None = self.layout.read_run().get("flow_run_id")
        return found

    def views(self) -> list[JobView]:
        """All jobs, and for groups their members after them."""
        entries = Ledger(self.layout.root).latest()
        unknown = [e.ref for e in entries.values() if e.ref and e.event != "ENDED"]
        asked = run_sync(self._ask(unknown)) if unknown else {}
        views: list[JobView] = []
        for job in self.spec.jobs:
            units = [job.id] if job.id in entries or not job.group else [member_id(job, i) for i in range(len(job.tasks))]
            members = [self._view(unit, job.executor_of(i).name, entries.get(unit), asked) for i, unit in enumerate(units)]
            if units != [job.id]:
                directory = str(self.layout.job_dir(job.id))
                handle = next((m.handle for m in members if m.handle), "")
                views.append(JobView(job.id, _group_state(members), job.executors[0].name, handle, directory))
            views += members
        return _with_upstreams(views, self.spec)

    def _view(self, unit: str, executor: str, entry: Entry | None, asked: Mapping[JobRef, JobState]) -> JobView:
        directory = str(self.layout.job_dir(unit))
        if entry is None:
            return JobView(unit, JobState(JobStatus.UNSUBMITTED), executor, local_dir=directory)
        if entry.event == "ENDED" and entry.state:
            state = entry.state
        elif entry.ref is None:
            state = JobState(JobStatus.UNKNOWN, message="its submission was interrupted; resume() will find out")
        else:
            state = asked.get(entry.ref, JobState(JobStatus.UNKNOWN))
        ref = entry.ref
        return JobView(unit, state, executor, ref.handle if ref else "", directory, ref)

    async def _ask(self, refs: Sequence[JobRef]) -> dict[JobRef, JobState]:
        answers: dict[JobRef, JobState] = {}
        for executor, mine in self._by_executor(refs):
            try:
                answers |= await executor.poll(mine)
            except ExecutorError as error:
                answers |= {ref: JobState(JobStatus.UNKNOWN, message=str(error)) for ref in mine}
        return {r: _settled(s) for r, s in answers.items()}

    def _by_executor(self, refs: Sequence[JobRef]) -> Iterator[tuple[Executor, list[JobRef]]]:
        """The references by who can answer for them: one query a cluster."""
        from nemo_prefect.executors.registry import executor_from_spec

        specs = {e.name: e for job in self.spec.jobs for e in job.executors}
        groups: dict[tuple[str, str], list[JobRef]] = {}
        for ref in refs:
            groups.setdefault((ref.executor, ref.cluster), []).append(ref)
        for (name, _), mine in groups.items():
            yield executor_from_spec(specs[name]), mine

    def lines(self, job_id: str, regex: str | None = None, follow: bool = True) -> Iterator[tuple[str, str]]:
        """The lines of a job's latest attempt, each with the member that wrote it; goes on while the job runs.

        Raises:
            NotFoundError: there is no such job.
        """
        wanted = re.compile(regex) if regex else None
        units = self._units(job_id)
        readers: dict[str, LogFiles] = {}
        while True:
            views = {v.id: v for v in self.views()}
            over = not follow or all(views[u].state.status is not JobStatus.RUNNING for u in units)
            for unit in units:
                ref = views[unit].ref
                if ref is None:
                    continue
                reader = readers.setdefault(ref.directory, LogFiles(ref.directory))
                for line in reader.read(final=over):
                    if wanted is None or wanted.search(line.text):
                        yield unit, line.text
            if over:
                return
            time.sleep(0.2)

    def _units(self, job_id: str) -> list[str]:
        known = [v.id for v in self.views()]
        if job_id not in known:
            raise no_such_job(self.spec.id, job_id, known)
        job = self.spec.job(job_id)
        members = [member_id(job, i) for i in range(len(job.tasks))] if job else []
        return [m for m in members if m in known] or [job_id]

    def cancel(self, job_id: str | None = None) -> None:
        """End a job (all, without an id), and return once it ended.

        Raises:
            NotFoundError: there is no such job.
            ExecutorError: it does not end in time.
        """
        known = [v.id for v in self.views()]
        if job_id is not None and job_id not in known:
            raise no_such_job(self.spec.id, job_id, known)
        target = job_id.split("/")[0] if job_id and self.spec.job(job_id) is None else job_id
        if driver(self.layout) is not None and self.flow_run_id:
            from nemo_prefect.server import connected

            with connected():
                run_sync(_asking(_ask_driver(UUID(self.flow_run_id), target)))
            self._wait(target)
            return
        views = [v for v in self.views() if target is None or v.id == target or v.id.startswith(f"{target}/")]
        running = [v for v in views if v.ref and not v.state.status.is_terminal]
        run_sync(self._cancel_now([v.ref for v in running if v.ref]))
        ledger, entries = Ledger(self.layout.root), Ledger(self.layout.root).latest()
        for view in running:
            if not self._state_now(view.id).status.is_terminal:
                raise ExecutorError(f"{view.id} did not end.", hint=f"It is {view.handle}.", transient=True)
            entry = entries[view.id]
            ledger.write(view.id, entry.attempt, entry.key, "ENDED", self._state_now(view.id))
        if self.flow_run_id:
            self._tell_server({v.id for v in running})

    def _state_now(self, unit: str) -> JobState:
        return next(v.state for v in self.views() if v.id == unit)

    async def _cancel_now(self, refs: Sequence[JobRef]) -> None:
        for executor, mine in self._by_executor(refs):
            await executor.cancel(mine)

    def _wait(self, target: str | None) -> None:
        deadline = time.monotonic() + CANCEL_TIMEOUT
        while driver(self.layout) is not None:
            views = [v for v in self.views() if target is None or v.id == target or v.id.startswith(f"{target}/")]
            if target is not None and all(v.state.status.is_terminal for v in views):
                return
            if time.monotonic() > deadline:
                raise ExecutorError(
                    f"{target or self.spec.id} did not end within {CANCEL_TIMEOUT:.0f} seconds.",
                    hint="Look at its status again, or at the runner's log.",
                    transient=True,
                )
            time.sleep(0.2)

    def _tell_server(self, ended: set[str]) -> None:
        """Put the states of an experiment that nobody drives right on the server, if there is one."""
        from nemo_prefect.server import connected

        async def tell() -> None:
            from prefect.client.orchestration import get_client
            from prefect.exceptions import PrefectHTTPStatusError
            from prefect.states import Cancelled

            from nemo_prefect._prefect import task_run_id

            flow_run_id = UUID(self.flow_run_id)
            async with get_client() as client:
                for job_id in {unit.split("/")[0] for unit in ended}:
                    try:
                        await client.set_task_run_state(task_run_id(flow_run_id, job_id), Cancelled(), force=True)
                    except PrefectHTTPStatusError:
                        continue  # its driver ended before the server heard of it
                left = [v for v in self.views() if not v.state.status.is_terminal and v.ref]
                if ended and not left:
                    await client.set_flow_run_state(flow_run_id, Cancelled(), force=True)

        try:
            with connected(start=False) as connection:
                if connection is not None:
                    run_sync(_asking(tell()))
        except ServerError:
            return  # the jobs have ended, and the ledger says so; the server hears of it with the next resume


class ServerHistory:
    """An experiment whose directory is on another machine: what the Prefect server knows of it."""

    spec: ExperimentSpec | None = None

    def __init__(self, exp_id: str, flow_run_id: UUID, summary: Mapping[str, Any]) -> None:
        self.id = exp_id
        self._id = flow_run_id
        self._summary = summary

    @property
    def flow_run_id(self) -> str:
        """The id of its flow run."""
        return str(self._id)

    def views(self) -> list[JobView]:
        """All jobs."""
        from nemo_prefect.server import connected

        with connected():
            runs = {run.name: run for run in run_sync(_asking(self._task_runs()))}
        jobs = self._summary.get("jobs", {})
        views = []
        for job_id in [*jobs, *(n for n in runs if n not in jobs)]:
            run = runs.get(job_id)
            state = run.state if run is not None else None
            views.append(
                JobView(
                    job_id,
                    from_prefect(state.type.value, state.name, state.message) if state else JobState(JobStatus.UNSUBMITTED),
                    jobs.get(job_id, {}).get("executor", ""),
                )
            )
        return views

    async def _task_runs(self) -> list[TaskRun]:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
        from prefect.client.schemas.sorting import TaskRunSort

        found: list[TaskRun] = []
        async with get_client() as client:
            while True:
                page = await client.read_task_runs(
                    flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[self._id])),
                    sort=TaskRunSort.NAME_ASC,
                    limit=200,
                    offset=len(found),
                )
                found += page
                if len(page) < 200:
                    return found

    def lines(self, job_id: str, regex: str | None = None, follow: bool = True) -> Iterator[tuple[str, str]]:
        """The lines of a job that reached the server, each with the job's id; goes on while the job runs.

        Raises:
            NotFoundError: there is no such job.
        """
        from nemo_prefect._prefect import task_run_id
        from nemo_prefect.server import connected

        known = [v.id for v in self.views()]
        if job_id not in known:
            raise no_such_job(self.id, job_id, known)
        wanted, read = re.compile(regex) if regex else None, 0
        while True:
            state = next(v.state for v in self.views() if v.id == job_id)
            with connected():
                lines = run_sync(_asking(self._log_page(task_run_id(self._id, job_id), read)))
            read += len(lines)
            yield from ((job_id, text) for text in lines if wanted is None or wanted.search(text))
            if not lines:
                if not follow or state.status is not JobStatus.RUNNING:
                    return
                time.sleep(1.0)

    async def _log_page(self, run_id: UUID, offset: int) -> list[str]:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import LogFilter, LogFilterTaskRunId
        from prefect.client.schemas.sorting import LogSort

        async with get_client() as client:
            logs = await client.read_logs(
                LogFilter(task_run_id=LogFilterTaskRunId(any_=[run_id])),
                limit=200,
                offset=offset,
                sort=LogSort.TIMESTAMP_ASC,
            )
        return [log.message for log in logs]

    def cancel(self, job_id: str | None = None) -> None:
        """Ask the experiment's driver, wherever it is, to end a job (all, without an id), and wait until it did.

        Raises:
            NotFoundError: there is no such job.
            ExecutorError: it did not end in time: perhaps nothing drives the experiment any more.
        """
        from nemo_prefect.server import connected

        known = [v.id for v in self.views()]
        if job_id is not None and job_id not in known:
            raise no_such_job(self.id, job_id, known)
        with connected():
            run_sync(_asking(_ask_driver(self._id, job_id)))
        deadline = time.monotonic() + CANCEL_TIMEOUT
        while time.monotonic() < deadline:
            views = [v for v in self.views() if job_id in (None, v.id)]
            if all(v.state.status is not JobStatus.RUNNING for v in views):
                return
            time.sleep(0.5)
        raise ExecutorError(
            f"{job_id or self.id} did not end within {CANCEL_TIMEOUT:.0f} seconds.",
            hint=f"If its runner on {self._summary.get('host') or 'the other machine'} is gone, cancel it there.",
            transient=True,
        )


async def _ask_driver(flow_run_id: UUID, job_id: str | None) -> None:
    """Ask whoever drives the run, by the states that it watches. A run that has ended is left alone."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import State, StateType
    from prefect.states import Cancelling

    from nemo_prefect._prefect import task_run_id

    client: PrefectClient
    async with get_client() as client:
        if job_id is None:
            if not (run := await client.read_flow_run(flow_run_id)).state or not run.state.is_final():
                await client.set_flow_run_state(flow_run_id, Cancelling(), force=True)
            return
        task_run = await _recorded(client, task_run_id(flow_run_id, job_id))
        if task_run.state is None or not task_run.state.is_final():
            state: State[Any] = State(type=StateType.CANCELLING, name="Cancelling")
            await client.set_task_run_state(task_run.id, state, force=True)


async def _recorded(client: PrefectClient, run_id: UUID) -> TaskRun:
    """A task run. The server records one a second or two after it was made: an early question is asked again."""
    from prefect.exceptions import ObjectNotFound

    deadline = time.monotonic() + RECORDED_WITHIN
    while True:
        try:
            return await client.read_task_run(run_id)
        except ObjectNotFound as error:
            if time.monotonic() > deadline:
                raise ExecutorError(
                    "The server does not know this job yet.", hint="Try again in a few seconds.", transient=True
                ) from error
            await asyncio.sleep(0.3)


def _settled(state: JobState) -> JobState:
    """For a reader a lost job is lost: the next resume says so for good."""
    if state.status is JobStatus.UNKNOWN and state.cause is Cause.LOST:
        return JobState(JobStatus.FAILED, Cause.LOST, message=state.message)
    return state


def _with_upstreams(views: list[JobView], spec: ExperimentSpec) -> list[JobView]:
    """The views, with the reason of jobs that never started because a dependency did not succeed."""
    states = {v.id: v.state for v in views}
    blocked: set[str] = set()
    for job in spec.jobs:  # dependencies are added before their dependents
        gone = (JobStatus.FAILED, JobStatus.CANCELLED)
        if states[job.id].status is JobStatus.UNSUBMITTED and any(
            d in blocked or states[d].status in gone for d in job.dependencies
        ):
            blocked |= {job.id, *(member_id(job, i) for i in range(len(job.tasks)))}
    waiting = JobState(JobStatus.UNSUBMITTED, Cause.UPSTREAM_FAILED)
    return [replace(v, state=waiting) if v.id in blocked else v for v in views]


def _group_state(members: Sequence[JobView]) -> JobState:
    states = [m.state for m in members]
    for status in (JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.UNKNOWN, JobStatus.RUNNING, JobStatus.PENDING):
        if found := next((s for s in states if s.status is status), None):
            return found
    return states[0]


def no_such_job(exp_id: str, job_id: str, known: Sequence[str]) -> NotFoundError:
    """The error for a job id that the experiment does not have."""
    return NotFoundError(f"Job {job_id} not found.", hint=f"{exp_id} has: {', '.join(known) or 'no jobs'}.")


__all__ = ["JobView", "LocalHistory", "ServerHistory", "ids", "ids_on_disk", "open_history", "titles"]
