"""An experiment whose directory is visible here: its ledger and exit records are the truth."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from nemo_prefect._async import run_sync
from nemo_prefect.errors import ExecutorError, ServerError
from nemo_prefect.exit_record import read_exit
from nemo_prefect.history.driver import CANCEL_TIMEOUT, ask_driver, asking
from nemo_prefect.history.view import JobView, no_such_job
from nemo_prefect.layout import Layout, member_id, units_of
from nemo_prefect.ledger import Entry, Ledger
from nemo_prefect.logs import LogFiles
from nemo_prefect.refs import JobRef
from nemo_prefect.session import driver
from nemo_prefect.spec import ExperimentSpec, JobSpec
from nemo_prefect.states import Cause, JobState, JobStatus

if TYPE_CHECKING:
    from nemo_prefect.executors.base import Executor


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
        unknown = {unit: e.ref for unit, e in entries.items() if e.ref and e.event != "ENDED"}
        asked = run_sync(self._ask(unknown)) if unknown else {}
        views: list[JobView] = []
        for job in self.spec.jobs:
            units = list(units_of(job))
            members = [self._view(unit, job.executor_of(i).name, entries.get(unit), asked) for i, unit in enumerate(units)]
            if units != [job.id]:
                directory = str(self.layout.job_dir(job.id))
                handle = next((m.handle for m in members if m.handle), "")
                views.append(JobView(job.id, _group_state(members), job.executors[0].name, handle, directory))
            views += members
            if job.group and units == [job.id]:
                views += [_member_view(job, index, members[0]) for index in range(len(job.tasks))]
        return _with_upstreams(views, self.spec)

    def _view(self, unit: str, executor: str, entry: Entry | None, asked: Mapping[JobRef, JobState]) -> JobView:
        directory = str(self.layout.job_dir(unit))
        if entry is None:
            return JobView(unit, JobState(JobStatus.UNSUBMITTED), executor, local_dir=directory)
        if entry.event == "ENDED" and entry.state:
            state = entry.state
        elif entry.ref is None and driver(self.layout) is not None:
            state = JobState(JobStatus.SUBMITTED)
        elif entry.ref is None:
            state = JobState(JobStatus.UNKNOWN, message="its submission was interrupted; resume() will find out")
        else:
            state = asked.get(entry.ref, JobState(JobStatus.UNKNOWN))
        ref = entry.ref
        return JobView(unit, state, executor, ref.handle if ref else "", directory, ref)

    async def _ask(self, refs: Mapping[str, JobRef]) -> dict[JobRef, JobState]:
        answers: dict[JobRef, JobState] = {}
        for executor, mine in self._by_executor(refs):
            try:
                answers |= await executor.poll(mine)
            except ExecutorError as error:
                answers |= {ref: JobState(JobStatus.UNKNOWN, message=str(error)) for ref in mine}
        return {r: _settled(s) for r, s in answers.items()}

    def _by_executor(self, refs: Mapping[str, JobRef]) -> Iterator[tuple[Executor, list[JobRef]]]:
        """The references (by unit) by who can answer for them: one query a cluster."""
        groups: dict[tuple[str, str], dict[str, JobRef]] = {}
        for unit, ref in refs.items():
            groups.setdefault((ref.executor, ref.cluster), {})[unit] = ref
        for mine in groups.values():
            yield self._executor_of(next(iter(mine))), list(mine.values())

    def _executor_of(self, unit: str) -> Executor:
        """The executor to which a unit was submitted."""
        from nemo_prefect.executors.registry import executor_from_spec

        name, _, member = unit.partition("/")
        job = self.spec.job(unit) or self.spec.job(name)
        if job is None:
            raise no_such_job(self.spec.id, unit, [j.id for j in self.spec.jobs])
        return executor_from_spec(job.executor_of(int(member) if member else 0))

    def lines(self, job_id: str, regex: str | None = None, follow: bool = True) -> Iterator[tuple[str, str]]:
        """The lines of a job's latest attempt, each with the member that wrote it; goes on while the job runs.

        Raises:
            NotFoundError: there is no such job.
        """
        wanted = re.compile(regex) if regex else None
        units = self._units(job_id)
        readers: dict[str, LogFiles] = {}
        executors = {unit: self._executor_of(unit) for unit in units}
        while True:
            views = {v.id: v for v in self.views()}
            over = not follow or not any(self._may_write(views[unit]) for unit in units)
            for unit, member in units.items():
                ref = views[unit].ref
                if ref is None:
                    continue
                if not executors[unit].shares_directory and driver(self.layout) is None:
                    run_sync(executors[unit].fetch(ref))  # else its driver fetches what the job writes
                reader = readers.setdefault(ref.directory, LogFiles(ref.directory, member=member))
                for line in reader.read(final=over):
                    if wanted is None or wanted.search(line.text):
                        yield f"{unit}/{line.member}" if line.member else unit, line.text
            if over:
                return
            time.sleep(0.2 if all(e.shares_directory for e in executors.values()) else 1.0)

    def _may_write(self, view: JobView) -> bool:
        """Whether a job still writes, or will: one that was not submitted yet does while somebody drives the experiment."""
        if view.state.status is JobStatus.UNSUBMITTED and not view.state.cause.value:
            return driver(self.layout) is not None
        return view.state.status in _WRITING

    def _units(self, job_id: str) -> dict[str, str]:
        """What was submitted of a job (or of one member), each with the one member whose output is asked for, or ""."""
        known = [v.id for v in self.views()]
        if job_id not in known:
            raise no_such_job(self.spec.id, job_id, known)
        if job := self.spec.job(job_id):
            return dict.fromkeys(units_of(job), "")
        name, _, member = job_id.rpartition("/")
        job = self.spec.job(name)
        return {name: member} if job and name in units_of(job) else {job_id: ""}

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
                run_sync(asking(ask_driver(UUID(self.flow_run_id), target)))
            self._wait(target)
            return
        views = [v for v in self.views() if target is None or v.id == target or v.id.startswith(f"{target}/")]
        running = [v for v in views if v.ref and not v.state.status.is_terminal]
        run_sync(self._cancel_now({v.id: v.ref for v in running if v.ref}))
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

    async def _cancel_now(self, refs: Mapping[str, JobRef]) -> None:
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
                    run_sync(asking(tell()))
        except ServerError:
            return  # the jobs have ended, and the ledger says so; the server hears of it with the next resume


#: States of jobs that still write, or will.
_WRITING = (JobStatus.SUBMITTED, JobStatus.PENDING, JobStatus.RUNNING)


def _member_view(job: JobSpec, index: int, group: JobView) -> JobView:
    """One member of a group that was one submission: what its exit record says, else what is known of the whole."""
    state, directory = group.state, group.local_dir
    if group.ref is not None:
        directory = f"{group.ref.directory}/{index}"
        state = read_exit(directory) or state
    return JobView(member_id(job, index), state, job.executor_of(index).name, group.handle, directory)


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
