"""One job outside of experiments: what `Executor.submit` gives in anybody's Prefect flow.

The job gets a directory, a ledger and a key as an experiment's job does, so that it is started once, its exit code is true,
and ``nemo-prefect experiment status|logs|cancel ID`` know it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.blocks.abstract import JobRun

from nemo_prefect._async import in_async_context, run_sync
from nemo_prefect.errors import ExecutorError, ExperimentCancelled, ExperimentFailed, FailedJob, UsageError
from nemo_prefect.ledger import Ledger
from nemo_prefect.logs import tail
from nemo_prefect.poller import Poller
from nemo_prefect.single import one_job
from nemo_prefect.states import JobState, JobStatus

if TYPE_CHECKING:
    from nemo_prefect.executors.base import Executor, JobRequest
    from nemo_prefect.refs import JobRef

#: Lines of the output that a result and an error hold.
LINES = 20


def dual(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """A method for both kinds of caller: in async code it returns the coroutine, to be awaited; else its result."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        coroutine = function(*args, **kwargs)
        return coroutine if in_async_context() else run_sync(coroutine)

    return call


@dataclass(frozen=True)
class JobResult:
    """How a job ended.

    Attributes:
        id: the id under which ``nemo-prefect experiment`` knows the job.
        state: its final state.
        directory: what it left: ``stdout.log``, ``stderr.log``, ``exit.json``, ``artifacts/``.
        lines: the last lines of its output.
    """

    id: str
    state: JobState
    directory: Path
    lines: tuple[str, ...]


class ExecutorJobRun(JobRun[JobResult]):
    """A job that was submitted. Its methods can be called from sync and from async code."""

    def __init__(self, executor: Executor, request: JobRequest, ref: JobRef) -> None:
        self.executor, self.request, self.ref = executor, request, ref
        self._ended: JobState | None = None

    @property
    def id(self) -> str:
        """The id under which ``nemo-prefect experiment`` knows the job."""
        return self.request.experiment_id

    @dual
    async def status(self) -> JobState:
        """The job's state now.

        Raises:
            ExecutorError: it cannot be asked for now.
        """
        return self._ended or (await self.executor.poll([self.ref]))[self.ref]

    @dual
    async def cancel(self) -> None:
        """End the job, and return once it ended."""
        await self.executor.cancel([self.ref])

    @dual
    async def wait_for_completion(self) -> None:
        """Wait until the job has ended, with its output in the run's log. A caller that is cancelled meanwhile (a flow run
        cancelled in the UI) ends the job.

        Raises:
            ExperimentFailed: the job failed; the error has its exit code and its last lines.
            ExperimentCancelled: it was cancelled.
        """
        if self._ended is None:
            try:
                self._ended = await self._watch()
            except asyncio.CancelledError:
                await asyncio.shield(self.executor.cancel([self.ref]))
                raise
        if self._ended.status is not JobStatus.SUCCEEDED:
            kind = ExperimentCancelled if self._ended.status is JobStatus.CANCELLED else ExperimentFailed
            job = FailedJob(self.request.job_id, self._ended.describe(), self._lines())
            raise kind(self.id, [job], hint=f"Its output is in {self.ref.directory}.")

    @dual
    async def fetch_result(self) -> JobResult:
        """How the job ended, also where it failed.

        Raises:
            UsageError: it has not ended, or nobody waited for it.
        """
        if self._ended is None:
            raise UsageError("The job has not ended.", hint="Call wait_for_completion() first.")
        return JobResult(self.id, self._ended, Path(self.ref.directory), self._lines())

    def _lines(self) -> tuple[str, ...]:
        return tuple(tail(self.ref.directory, LINES))

    async def _watch(self) -> JobState:
        over = asyncio.Event()
        output = asyncio.create_task(self._forward(over))
        try:
            state = await Poller().watch(self.executor, self.ref, lambda s: self.logger.info("%s", s.describe()))
            Ledger(self.request.experiment_dir).write(self.request.job_id, 1, self.request.key, "ENDED", state)
            over.set()
            done, _ = await asyncio.wait({output}, timeout=30.0)
            if done and (failure := output.exception()):
                self.logger.warning("Not all output could be read (%r).", failure)
        finally:
            output.cancel()
        return state

    async def _forward(self, over: asyncio.Event) -> None:
        """The output, as the run's log; of many lines in a second those that the server can take."""
        from nemo_prefect.forwarding import LINES_PER_SECOND

        window, sent, dropped = time.monotonic(), 0, 0
        async for line in self.executor.logs(self.ref, follow=True, ended=over):
            if time.monotonic() - window >= 1.0:
                window, sent = time.monotonic(), 0
            sent += 1
            if sent <= LINES_PER_SECOND:
                self.logger.info("%s", line.text)
            else:
                dropped += 1
        if dropped:
            self.logger.warning("%d lines are not shown here; all are in %s", dropped, self.ref.directory)


async def submit(executor: Executor, task: Any, name: str) -> ExecutorJobRun:
    """Start `task` on `executor`, once.

    Raises:
        ConfigError: it is no task, or one that the executor could never run.
        SubmissionError: the job could not be started.
    """
    request = await asyncio.to_thread(one_job, executor, task, name, os.getcwd())
    ledger = Ledger(request.experiment_dir)
    (request.directory / "artifacts").mkdir(parents=True, exist_ok=True)
    ledger.write(request.job_id, 1, request.key, "SUBMITTING")
    own = request.executors[0]
    try:
        ref = await own.launch(request)
    except ExecutorError as error:
        # An answer that got lost may have started it: only then is there something to be found.
        found = await _find(own, request) if error.transient else None
        if found is None:
            failed = JobState(JobStatus.FAILED, message=error.message)
            ledger.write(request.job_id, 1, request.key, "ENDED", failed)
            raise
        ref = found
    ledger.write(request.job_id, 1, request.key, "SUBMITTED", ref)
    return ExecutorJobRun(own, request, ref)


async def _find(executor: Executor, request: JobRequest) -> JobRef | None:
    pause = 1.0
    while True:
        try:
            if (found := await executor.find(request)) is not None:
                return found
            await asyncio.sleep(min(executor.lost_after, 10.0))
            return await executor.find(request)
        except ExecutorError as error:
            if not error.transient:
                raise
            logging.getLogger("nemo_prefect").warning("Whether the job was submitted cannot be asked yet (%s).", error)
        await asyncio.sleep(pause)
        pause = min(pause * 2, 60.0)
