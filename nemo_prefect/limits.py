"""Limits on jobs: how long one may run, and how many may run on an executor at once.

The second is a global concurrency limit on the Prefect server: it holds for everybody who uses that server, and is shown in
the UI. The value that was given last counts. A slot is leased: that of a driver that died is free again after some minutes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from nemo_prefect.errors import ExecutorError
from nemo_prefect.states import Cause, JobState, JobStatus

if TYPE_CHECKING:
    from nemo_prefect.executors.base import Executor
    from nemo_prefect.refs import JobRef

logger = logging.getLogger("nemo_prefect")

#: Seconds for which a slot is leased; it is renewed three times in that.
LEASE = 300.0
#: Seconds between two tries for a slot: at first, and at most.
TRY_AGAIN = (0.5, 10.0)


class Deadline:
    """Ends a job that runs longer than its executor's `timeout`. Time in a queue does not count, and a job that was taken
    over by another driver is timed from when it was first seen running.

    Args:
        executor: whose job it is.
        ref: the job.
        after_cancel: called once it was asked to end.
    """

    def __init__(self, executor: Executor, ref: JobRef, after_cancel: Callable[[], None]) -> None:
        self._executor, self._ref, self._after = executor, ref, after_cancel
        self._task: asyncio.Task[None] | None = None
        self._passed = False

    def see(self, state: JobState) -> None:
        """Told of each state of the job."""
        if self._executor.timeout is not None and self._task is None and state.status is JobStatus.RUNNING:
            left = self._since() + self._executor.timeout - time.time()
            self._task = asyncio.create_task(self._end_after(left))

    def verdict(self, state: JobState) -> JobState:
        """How the job ended, from how its executor says that it did: one that was ended for its time timed out. One that
        succeeded before it could be ended succeeded."""
        if not self._passed or state.status is JobStatus.SUCCEEDED:
            return state
        message = f"it ran longer than {self._executor.timeout:g} seconds"
        return JobState(JobStatus.FAILED, Cause.TIMEOUT, state.exit_code, state.signal, message)

    def close(self) -> None:
        """The job has ended, or is watched by somebody else."""
        if self._task is not None:
            self._task.cancel()

    def _since(self) -> float:
        mark = Path(self._ref.directory) / "running"
        try:
            return float(mark.read_text())
        except (OSError, ValueError):
            now = time.time()
            try:
                mark.write_text(repr(now))
            except OSError as error:
                logger.warning("Since when a job runs could not be noted: %s", error)
            return now

    async def _end_after(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
        self._passed = True
        while True:
            try:
                await self._executor.cancel([self._ref])
                self._after()
                return
            except ExecutorError as error:
                logger.warning("%s ran too long and could not be ended (%s). Trying again.", self._ref.handle, error)
            await asyncio.sleep(5.0)


def limit_name(executor: Executor) -> str:
    """The name of the executor's concurrency limit on the server: one for all jobs on one cluster."""
    return f"nemo-prefect-{executor.executor_name}-{executor.cluster}".replace("/", "-").replace(" ", "-")


@asynccontextmanager
async def slot(
    executor: Executor, adopted: bool, on_wait: Callable[[], None], stopped: asyncio.Event
) -> AsyncIterator[bool]:
    """One of the executor's slots, held inside; where it has no limit, nothing is held.

    Args:
        executor: whose slot.
        adopted: the job runs already: a slot is taken if there is one, and not waited for.
        on_wait: called once, when there is none.
        stopped: set when the slot is not wanted any more.

    Yields:
        Whether to go on: False once `stopped` was set while waiting.
    """
    if executor.concurrency_limit is None:
        yield True
        return
    lease = await _acquire(executor, adopted, on_wait, stopped)
    if lease is None:
        yield adopted
        return
    renewing = asyncio.create_task(_renew(lease))
    try:
        yield True
    finally:
        renewing.cancel()
        await _quietly(lambda: _release(lease))


async def _acquire(executor: Executor, adopted: bool, on_wait: Callable[[], None], stopped: asyncio.Event) -> UUID | None:
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError

    name, pause, waited, defined = limit_name(executor), TRY_AGAIN[0], False, False
    while not stopped.is_set():
        try:
            async with get_client() as client:
                if not defined:
                    await client.upsert_global_concurrency_limit_by_name(name, limit=executor.concurrency_limit or 1)
                    defined = True
                answer = await client.increment_concurrency_slots_with_lease(
                    names=[name], slots=1, mode="concurrency", lease_duration=LEASE
                )
                return UUID(str(answer.json()["lease_id"]))
        except (ObjectAlreadyExists, ObjectNotFound):
            await asyncio.sleep(0.05)  # another job made the limit at the same moment, or somebody has just deleted it
            defined = False
            continue
        except (PrefectHTTPStatusError, httpx.HTTPError) as error:
            status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
            if status != 423:
                logger.warning("The server was asked for a slot of %s and did not give an answer (%r).", name, error)
        if adopted:
            return None
        if not waited:
            waited = True
            on_wait()
        try:
            await asyncio.wait_for(stopped.wait(), pause)
        except asyncio.TimeoutError:
            pause = min(pause * 1.5, TRY_AGAIN[1])
    return None


async def _renew(lease: UUID) -> None:
    from prefect.client.orchestration import get_client

    async def once() -> None:
        async with get_client() as client:
            await client.renew_concurrency_lease(lease, LEASE)

    while True:
        await asyncio.sleep(LEASE / 3)
        await _quietly(once)


async def _release(lease: UUID) -> None:
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        await client.release_concurrency_slots_with_lease(lease)


async def _quietly(call: Callable[[], Awaitable[None]]) -> None:
    """A job goes on whether or not the server can be told of its slot: the lease runs out by itself."""
    import httpx

    try:
        await call()
    except httpx.HTTPError as error:
        logger.warning("A slot of a concurrency limit could not be kept or given back (%r).", error)
