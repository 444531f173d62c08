"""Drives an experiment inside its Prefect flow run, all jobs from one event loop.

Each job is an awaited Prefect task. Its body submits the job through the ledger (or finds what an earlier driver left
behind), watches it until it ends, forwards its output, and returns the state that it ended in.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect import states as prefect_states
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, TaskRunFilter, TaskRunFilterState
from prefect.client.schemas.filters import TaskRunFilterStateType as StateTypeFilter
from prefect.client.schemas.objects import State, StateType, TaskRun
from prefect.client.schemas.sorting import TaskRunSort
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger

from nemo_prefect import _prefect
from nemo_prefect.artifacts import Progress, publish_details, publish_files, publish_summary
from nemo_prefect.errors import ExecutorError, NemoPrefectError, UnreachableError
from nemo_prefect.executors.base import Executor
from nemo_prefect.executors.registry import executor_from_spec
from nemo_prefect.forwarding import forward
from nemo_prefect.layout import Layout, units_of
from nemo_prefect.ledger import Event, Ledger
from nemo_prefect.limits import Deadline, limit_name, slot
from nemo_prefect.poller import Poller
from nemo_prefect.records import JobRecord, Observer
from nemo_prefect.refs import JobRef
from nemo_prefect.retries import combine, is_gone, may_follow, pause_before, spent
from nemo_prefect.spec import ExperimentSpec, JobSpec
from nemo_prefect.states import Cause, JobState, JobStatus, overall, to_prefect

if TYPE_CHECKING:
    from nemo_prefect.executors.base import JobRequest

logger = logging.getLogger("nemo_prefect")

#: How often a submission that failed for a passing reason is tried again.
SUBMISSIONS = 3
#: Seconds for which the end of an experiment waits until its tables and pages are on the server.
PUBLISHED_WITHIN = 10.0
#: Seconds between two tries to look a submission up on a cluster that does not answer: at first; then ever longer.
FIND_PAUSE = 1.0
#: Seconds between two looks at the flow run's own state (was it cancelled?).
WATCH_INTERVAL = 1.5


class Engine:
    """One drive through an experiment.

    Args:
        spec: the experiment, written to its directory already.
        observer: who is told what happens.
        rerun_failed: begin a new attempt at jobs that had failed before this drive began.
        keep_jobs: when this process is asked to end, leave jobs and flow run to a successor.
    """

    def __init__(
        self,
        spec: ExperimentSpec,
        observer: Observer | None = None,
        *,
        rerun_failed: bool = False,
        keep_jobs: bool = False,
    ) -> None:
        self.spec = spec
        self.layout = Layout(spec.directory)
        self.ledger = Ledger(spec.directory)
        self.records = {job.id: JobRecord(job) for job in spec.jobs}
        self._uncounted: dict[str, int] = {}  # attempts that no budget of retries is charged with
        self._refused: set[str] = set()  # submissions of which it is certain that they started nothing
        self.released = False
        self.cancelled = False
        self.final: State[Any] | None = None  # the flow run's final state, once every job has ended
        self._observer = observer
        self._published: UUID | None = None
        self._progress = Progress()
        self._rerun_failed = rerun_failed
        self._keep_jobs = keep_jobs
        self._before = self.ledger.latest()
        self._executors = {job.id: tuple(executor_from_spec(e) for e in job.executors) for job in spec.jobs}
        self._pollers: dict[tuple[str, str], Poller] = {}
        self._task_runs: dict[str, TaskRun] = {}
        self._driving: dict[str, asyncio.Task[State[Any] | None]] = {}
        self._stop = {job.id: asyncio.Event() for job in spec.jobs}

    # What others may ask of a running engine -------------------------------------------------------------------------

    def release(self) -> None:
        """Stop driving and leave everything as it is, for a successor: jobs go on, the flow run stays Running."""
        self.released = True
        for poller in self._pollers.values():
            poller.abandon(_prefect.Abort("handed over"))
        for task in self._driving.values():
            task.cancel()

    def cancel(self) -> None:
        """End every job; the experiment then ends as cancelled."""
        if not self.cancelled:
            self.cancelled = True
            for job_id in self.records:
                self.cancel_job(job_id)

    def cancel_job(self, job_id: str) -> None:
        """End one job, or keep it from starting."""
        self._stop[job_id].set()

    # The flow's body -------------------------------------------------------------------------------------------------

    async def drive(self) -> State[Any]:
        """Run the experiment inside the current flow run; returns the flow run's final state."""
        with _prefect.shown_in_runs(logger.name):
            return await self._drive()

    async def _drive(self) -> State[Any]:
        context = FlowRunContext.get()
        flow_run_id = context.flow_run.id  # type: ignore[union-attr]
        self._tell("on_start", self.records)
        tasks = await self._plan(flow_run_id)
        helpers = [asyncio.create_task(self._watch_flow_run(flow_run_id)), asyncio.create_task(self._publish())]
        details = asyncio.create_task(publish_details(self.spec, self.layout))
        try:
            for job in _topological(self.spec.jobs):
                self._driving[job.id] = asyncio.create_task(self._drive_job(job, tasks[job.id]), name=job.id)
            results = await asyncio.gather(*self._driving.values(), return_exceptions=True)
            if self.released:
                raise _prefect.Abort("handed over")
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        except asyncio.CancelledError:
            # This process is asked to end: by a worker because the run was cancelled, or by someone's kill.
            if await asyncio.shield(self._is_cancelled(flow_run_id)):
                await asyncio.shield(self._end_jobs())
            elif self._keep_jobs:
                self.released = True
                raise _prefect.Abort("handed over") from None
            raise
        finally:
            if self.released:
                details.cancel()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
        last = asyncio.create_task(self._publish_now())
        _, late = await asyncio.wait({last, details}, timeout=PUBLISHED_WITHIN)
        for publishing in late:  # not waited for: a request to a server that is away holds on for minutes
            publishing.cancel()
            logger.warning("The server does not take what is shown of %s beside its states.", self.spec.id)
        self.final = self._final_state()
        return self.final

    def _final_state(self) -> State[Any]:
        states = {job_id: record.state for job_id, record in self.records.items()}
        outcome = overall(states.values())
        if outcome is JobStatus.SUCCEEDED and not self.cancelled:
            return prefect_states.Completed(message=f"All {len(states)} jobs succeeded.")
        if outcome in (JobStatus.CANCELLED, JobStatus.SUCCEEDED):
            return prefect_states.Cancelled(message="Cancelled.")
        wrong = {
            i: s for i, s in states.items() if s.status is not JobStatus.SUCCEEDED and s.cause is not Cause.UPSTREAM_FAILED
        }
        return prefect_states.Failed(message="; ".join(f"{i}: {s.describe()}" for i, s in wrong.items()))

    async def _plan(self, flow_run_id: UUID) -> dict[str, Any]:
        """Show the whole graph from the first second. Jobs that succeeded before keep the task runs they have."""
        tasks = {}
        for job in self.spec.jobs:
            executor = self._executors[job.id][0]
            if self._rerun_failed:
                self._uncounted[job.id] = max((e.attempt for u in units_of(job) if (e := self._before.get(u))), default=0)
            retries = max(0, executor.retries - spent(self._ends(job))[0])
            task = _prefect.make_task(job.id, _body(self, job), retries)
            upstreams = [_prefect.task_run_id(flow_run_id, d) for d in job.dependencies]
            self._task_runs[job.id] = await _prefect.plan(task, flow_run_id, job.id, upstreams)
            tasks[job.id] = task
        return tasks

    # One job ---------------------------------------------------------------------------------------------------------

    async def _drive_job(self, job: JobSpec, task: Any) -> State[Any] | None:
        run = self._task_runs[job.id]
        upstreams = [self._driving[d] for d in job.dependencies]
        stop = asyncio.create_task(self._stop[job.id].wait())
        try:
            if upstreams:
                ready = asyncio.ensure_future(asyncio.gather(*upstreams))
                await asyncio.wait({ready, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        if self._stop[job.id].is_set():
            cancelled = JobState(JobStatus.CANCELLED, Cause.CANCELLED, message="before it started")
            for unit in units_of(job):
                self.ledger.write(unit, 0, "", "ENDED", cancelled)
            self._set(job.id, cancelled)
            state = to_prefect(cancelled)
            _prefect.announce(run, state)
            return state
        waited = [s for u in upstreams if (s := u.result()) is not None]
        edge = self._executors[job.id][0].edge
        if edge == "afternotok" and any(s.is_completed() for s in waited):
            never = JobState(
                JobStatus.UNSUBMITTED, Cause.UPSTREAM_FAILED, message="it runs only if what it depends on fails"
            )
            self._set(job.id, never)
            _prefect.announce(run, state := State(type=StateType.PENDING, name="NotReady", message=never.message))
            return state
        if edge != "afterok":
            waited = []  # they have ended: how does not matter any more
        state = await _prefect.execute(task, run, waited)
        if state.name == "NotReady":
            self._set(job.id, JobState(JobStatus.UNSUBMITTED, Cause.UPSTREAM_FAILED))
        return state

    async def body(self, job: JobSpec) -> State[Any]:
        """One attempt at a job, inside its task run. Its outcome is the task run's."""
        record = self.records[job.id]
        units = list(units_of(job))
        attempt, settled = self._attempt(job, units, first=record.attempt == 0)
        record.attempt = attempt
        if settled is not None:
            self._set(job.id, settled)
            return to_prefect(settled)
        while True:
            adopted = any((e := self.ledger.latest().get(u)) and e.attempt == attempt for u in units)
            if not adopted and (lost := await self._still_lost(job, attempt - 1)):
                self._set(job.id, lost)
                return to_prefect(lost)
            pause = 0.0 if adopted else pause_before(self._executors[job.id][0], self._ends(job))
            if not await self._wait(job, pause, "before the next attempt"):
                return to_prefect(self._never_started(job))
            state = await self._one_attempt(job, units, attempt, adopted)
            again = state.cause.is_infrastructure and may_follow(self._executors[job.id][0], self._ends(job))
            if not again or self._stop[job.id].is_set():
                break
            get_run_logger().warning("Attempt %d: %s. It is tried again.", attempt, state.describe())
            attempt += 1
        self._set(job.id, state)
        if state.status is JobStatus.SUCCEEDED:
            for unit in units:
                await publish_files(self.layout.attempt_dir(unit, attempt) / "artifacts", unit)
        return to_prefect(state)

    async def _one_attempt(self, job: JobSpec, units: Sequence[str], attempt: int, adopted: bool) -> JobState:
        record, executor = self.records[job.id], self._executors[job.id][0]
        record.attempt = attempt
        record.members.clear()
        async with slot(executor, adopted, lambda: self._queue(job, executor), self._stop[job.id]) as granted:
            if not granted:
                return self._never_started(job)
            record.started, record.running, record.ended = time.time(), None, None
            record.gpus = executor.gpus()
            # A group starts and fails as one: the first member that fails takes the others along.
            runs = [asyncio.create_task(self._run_unit(job, unit, attempt)) for unit in units]
            try:
                pending: set[asyncio.Task[JobState]] = set(runs)
                while pending:
                    done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    failed = [t for t in done if t.exception() or t.result().status is not JobStatus.SUCCEEDED]
                    if failed and pending and not self._stop[job.id].is_set():
                        await self._cancel_units(job)
                state = combine([self._outcome(job, t) for t in runs])
            except asyncio.CancelledError:
                for unit_run in runs:
                    unit_run.cancel()
                raise
            record.ended = time.time()
            return state

    def _queue(self, job: JobSpec, executor: Executor) -> None:
        waiting = JobState(JobStatus.PENDING, message=f"waits for a slot of {limit_name(executor)}")
        self._set(job.id, waiting)
        _prefect.announce(self._task_runs[job.id], to_prefect(waiting))

    def _never_started(self, job: JobSpec) -> JobState:
        state = JobState(JobStatus.CANCELLED, Cause.CANCELLED, message="before it started")
        self._set(job.id, state)
        return state

    def _ends(self, job: JobSpec) -> list[JobState]:
        """How the attempts at a job ended that its budgets of retries are charged with, oldest first."""
        ends = self.ledger.ends(units_of(job))
        return [combine(list(ends[a].values())) for a in sorted(ends) if a > self._uncounted.get(job.id, 0)]

    async def _still_lost(self, job: JobSpec, attempt: int) -> JobState | None:
        """How that attempt ended, where it got lost and may still run: another one would double it."""
        ends = self.ledger.ends(units_of(job)).get(attempt, {})
        refs, executor = self.ledger.refs(attempt), self._executors[job.id][0]
        if not ends or await is_gone(executor, {u: (refs.get(u), s) for u, s in ends.items()}, self._stop[job.id]):
            return None
        return combine(list(ends.values())).with_message("it may still run, so it is not tried again")

    async def _wait(self, job: JobSpec, seconds: float, why: str) -> bool:
        """Wait; returns False where the job was cancelled meanwhile."""
        if seconds > 0:
            waiting = JobState(JobStatus.PENDING, message=f"waits {seconds:g} seconds {why}")
            self._set(job.id, waiting)
            _prefect.announce(self._task_runs[job.id], to_prefect(waiting))
            try:
                await asyncio.wait_for(self._stop[job.id].wait(), seconds)
            except asyncio.TimeoutError:
                pass
        return not self._stop[job.id].is_set()

    def _outcome(self, job: JobSpec, unit_run: asyncio.Task[JobState]) -> JobState:
        """How a unit ended. An error of ours is not the job's: of a job that was started nothing is known then."""
        error = unit_run.exception()
        if error is None:
            return unit_run.result()
        if not isinstance(error, Exception):
            raise error
        logger.error("Watching %s failed.", job.id, exc_info=error)
        return JobState(JobStatus.UNKNOWN, message=f"it could not be watched any more ({error!r})")

    def _attempt(self, job: JobSpec, units: Sequence[str], *, first: bool) -> tuple[int, JobState | None]:
        """Which attempt comes now, and the job's final state where there is nothing left to do."""
        entries = [e for u in units if (e := (self._before if first else self.ledger.latest()).get(u))]
        if not entries:
            return 1, None
        attempt = max(e.attempt for e in entries)
        current = [e for e in entries if e.attempt == attempt]
        ended = [e.state for e in current if e.event == "ENDED" and e.state]
        if len(ended) < len(units):
            if any(s.status is not JobStatus.SUCCEEDED for s in ended) and len(ended) == len(current):
                return attempt + 1, None  # a group of which a member failed before the others were submitted
            return attempt, None
        state = combine(ended)
        if state.status is JobStatus.SUCCEEDED:
            return attempt, state
        over = state.status is JobStatus.CANCELLED or not may_follow(self._executors[job.id][0], self._ends(job))
        if first and not self._rerun_failed and over:
            return attempt, state
        return attempt + 1, None

    async def _run_unit(self, job: JobSpec, unit: str, attempt: int) -> JobState:
        record = self.records[job.id]
        request = self.layout.request(self.spec, job, unit, units_of(job)[unit], attempt)
        executor = request.executors[0]
        run_logger = get_run_logger()
        try:
            ref = await self._submit(job.id, executor, request)
        except (NemoPrefectError, OSError) as error:
            if self._may_run(request):  # nobody can say: not a failure, and resume() looks it up first
                raise
            state = JobState(JobStatus.FAILED, Cause.LAUNCH_FAILED, message=str(error))
            run_logger.error("%s", error)
            self._note(request, "ENDED", state)
            return state
        if ref is None:
            return JobState(JobStatus.CANCELLED, Cause.CANCELLED, message="before it started")
        record.refs[unit] = ref
        self._see(job.id, unit, JobState(JobStatus.SUBMITTED))
        over = asyncio.Event()
        forwarding = asyncio.create_task(forward(executor, ref, record, unit, run_logger, self._tell, over))
        poller = self._pollers.setdefault((executor.executor_name, ref.cluster), Poller())
        stopping = asyncio.create_task(self._stop_when_asked(job.id, executor, ref, poller))
        deadline = Deadline(executor, ref, poller.look_now)

        def see(seen: JobState) -> None:
            deadline.see(seen)
            self._see(job.id, unit, seen)

        try:
            state = deadline.verdict(await poller.watch(executor, ref, see))
        except BaseException:
            forwarding.cancel()
            raise
        finally:
            deadline.close()
            stopping.cancel()
            over.set()
        self._note(request, "ENDED", state)
        done, _ = await asyncio.wait({forwarding}, timeout=30.0)
        if not done:
            forwarding.cancel()
        elif failure := forwarding.exception():
            logger.warning("Not all output of %s reached the server (%r); it is in %s.", unit, failure, ref.directory)
        self._see(job.id, unit, state)
        return state

    async def _submit(self, job_id: str, executor: Executor, request: JobRequest) -> JobRef | None:
        """The running job for this request, exactly one; None where it was cancelled before."""
        before = self.ledger.latest().get(request.job_id)
        known = before if before is not None and before.key == request.key else None
        if known is not None:
            if found := known.ref or await self._find_twice(executor, request):
                if known.ref is None:
                    self._note(request, "SUBMITTED", found)
                return found
        tries, pause = 0, FIND_PAUSE
        while True:
            if self._stop[job_id].is_set():
                return None
            tries += 1
            (request.directory / "artifacts").mkdir(parents=True, exist_ok=True)
            self.ledger.write(request.job_id, request.attempt, request.key, "SUBMITTING")
            try:
                ref = await executor.launch(request)
                break
            except UnreachableError as error:  # nothing was sent, so there is nothing to look up
                if not error.transient or (tries >= SUBMISSIONS and not self._was_reached(executor)):
                    self._refused.add(request.key)
                    raise
                logger.warning("%s cannot be submitted yet (%s). Trying again.", request.job_id, error)
                await asyncio.wait({stopped := asyncio.create_task(self._stop[job_id].wait())}, timeout=pause)
                stopped.cancel()
                pause = min(pause * 2, 60.0)
            except (ExecutorError, OSError) as error:
                if isinstance(error, ExecutorError) and not error.transient:
                    self._refused.add(request.key)
                    raise
                found = await self._find_twice(executor, request)  # an answer that got lost may have started it
                if found:
                    ref = found
                    break
                if tries >= SUBMISSIONS or isinstance(error, OSError):
                    self._refused.add(request.key)
                    raise
        self._note(request, "SUBMITTED", ref)
        return ref

    def _note(self, request: JobRequest, event: Event, what: JobRef | JobState) -> None:
        """Write down what has happened. It has, also where the disk is full: then the job's own records must do."""
        try:
            self.ledger.write(request.job_id, request.attempt, request.key, event, what)
        except OSError as error:
            logger.error("The ledger of %s could not be written: %s", self.spec.id, error)

    def _may_run(self, request: JobRequest) -> bool:
        """Whether a submission was announced of which nothing is known: not that it worked, nor that it was refused."""
        entry = self.ledger.latest().get(request.job_id)
        announced = entry is not None and entry.key == request.key and entry.event == "SUBMITTING"
        return announced and request.key not in self._refused

    def _was_reached(self, executor: Executor) -> bool:
        """Whether this experiment has had a job there: then it is no wrong address, and will be there again."""
        there = (executor.executor_name, executor.cluster)
        return any((e.ref.executor, e.ref.cluster) == there for e in self.ledger.latest().values() if e.ref)

    async def _find_twice(self, executor: Executor, request: JobRequest) -> JobRef | None:
        if found := await self._find(executor, request):
            return found
        await asyncio.sleep(min(executor.lost_after, 10.0))
        return await self._find(executor, request)

    async def _find(self, executor: Executor, request: JobRequest) -> JobRef | None:
        """Look a submission up. Of a cluster that does not answer nothing is known: another try might double the job."""
        pause = FIND_PAUSE
        while True:
            try:
                return await executor.find(request)
            except ExecutorError as error:
                if not error.transient:
                    raise
                logger.warning("Whether %s was submitted cannot be asked yet (%s). Asking again.", request.job_id, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 60.0)

    async def _stop_when_asked(self, job_id: str, executor: Executor, ref: JobRef, poller: Poller) -> None:
        await self._stop[job_id].wait()
        await executor.cancel([ref])
        poller.look_now()

    async def _cancel_units(self, job: JobSpec) -> None:
        record = self.records[job.id]
        executor = self._executors[job.id][0]
        running = [ref for unit, ref in record.refs.items() if not record.members[unit].status.is_terminal]
        if running:
            await executor.cancel(running)

    # States ----------------------------------------------------------------------------------------------------------

    def _see(self, job_id: str, unit: str, state: JobState) -> None:
        """A unit's state, as its executor tells it, on its way up to the job's."""
        record = self.records[job_id]
        record.members[unit] = state
        if state.status is JobStatus.RUNNING or state.status is JobStatus.SUCCEEDED:
            record.running = record.running or time.time()
        if unit != job_id and state.status.is_terminal:
            self._tell("on_change", record)
            return
        if not state.status.is_terminal and state != record.state:
            self._set(job_id, state)
            _prefect.announce(self._task_runs[job_id], to_prefect(state))

    def _set(self, job_id: str, state: JobState) -> None:
        record = self.records[job_id]
        if state != record.state:
            record.state = state
            self._tell("on_change", record)

    def _tell(self, what: str, *about: Any) -> None:
        """Tell the observer. One that cannot listen any more (a closed pipe: ``| head``) must not end an experiment."""
        if self._observer is not None:
            try:
                getattr(self._observer, what)(*about)
            except OSError as error:
                logger.warning("What happens is not shown any more (%s). The experiment goes on.", error)
                self._observer = None

    # Beside the jobs -------------------------------------------------------------------------------------------------

    async def _watch_flow_run(self, flow_run_id: UUID) -> None:
        """Carry out what the UI, the CLI or another process asks of this run by setting states on the server."""
        cancelling = TaskRunFilter(state=TaskRunFilterState(type=StateTypeFilter(any_=[StateType.CANCELLING])))
        mine = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
        answers = True
        async with get_client() as client:
            while not self.cancelled:
                await asyncio.sleep(WATCH_INTERVAL)
                try:
                    if (await client.read_flow_run(flow_run_id)).state_type in (
                        StateType.CANCELLING,
                        StateType.CANCELLED,
                    ):
                        self.cancel()
                    for run in await client.read_task_runs(
                        flow_run_filter=mine, task_run_filter=cancelling, sort=TaskRunSort.ID_DESC, limit=200
                    ):
                        self.cancel_job(run.name)
                    answers = True
                except ObjectNotFound:
                    logger.warning("The flow run of %s was deleted from the server. Its jobs go on.", self.spec.id)
                    return
                except Exception as error:  # noqa: BLE001 - whatever the server answers, the jobs go on
                    if answers:
                        logger.warning("The Prefect server does not answer (%r). The jobs go on; asking again.", error)
                    answers = False

    async def _is_cancelled(self, flow_run_id: UUID) -> bool:
        async with get_client() as client:
            run = await client.read_flow_run(flow_run_id)
        return run.state_type in (StateType.CANCELLING, StateType.CANCELLED)

    async def _end_jobs(self) -> None:
        for job in self.spec.jobs:
            if self.records[job.id].refs:
                await self._cancel_units(job)

    async def _publish(self) -> None:
        """Show the table of jobs on the server while an experiment runs that takes more than a few seconds."""
        pause = 3.0
        while True:
            await asyncio.sleep(pause)
            pause = 10.0
            await self._publish_now()

    async def _publish_now(self) -> None:
        records = list(self.records.values())
        self._published = await publish_summary(self.spec.title, records, self._published)
        await self._progress.publish(records)


def _body(engine: Engine, job: JobSpec) -> Any:
    def body() -> Coroutine[Any, Any, State[Any]]:
        return engine.body(job)

    return body


def _topological(jobs: Sequence[JobSpec]) -> list[JobSpec]:
    """The jobs with every one after its dependencies."""
    left, done, ordered = list(jobs), set[str](), list[JobSpec]()
    while left:
        ready = [job for job in left if done.issuperset(job.dependencies)]
        ordered += ready
        done |= {job.id for job in ready}
        left = [job for job in left if job.id not in done]
    return ordered
