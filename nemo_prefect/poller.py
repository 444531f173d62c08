"""One batched, adaptive poll for all jobs of a cluster."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from nemo_prefect.executors.base import Executor
from nemo_prefect.refs import JobRef
from nemo_prefect.states import Cause, JobState, JobStatus

logger = logging.getLogger("nemo_prefect")


@dataclass
class _Watch:
    on_state: Callable[[JobState], None]
    future: asyncio.Future[JobState]
    last: JobState | None = None
    missing_since: float | None = None
    executor: Executor = field(repr=False, kw_only=True)


class Poller:
    """Watches jobs until they end. All jobs of one cluster share one: each round is one query.

    The interval starts at the executor's shortest and grows with the time since anything changed, up to its longest; it is
    never shorter than five times what a query takes. A failed query says nothing of any job: it doubles the interval.
    """

    def __init__(self) -> None:
        self._watches: dict[JobRef, _Watch] = {}
        self._loop: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    async def watch(self, executor: Executor, ref: JobRef, on_state: Callable[[JobState], None]) -> JobState:
        """Wait until the job ends, and return how. `on_state` is told of every change on the way."""
        future: asyncio.Future[JobState] = asyncio.get_running_loop().create_future()
        self._watches[ref] = _Watch(on_state, future, executor=executor)
        self._wake.set()
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run())
        try:
            return await future
        finally:
            self._watches.pop(ref, None)

    def abandon(self, reason: BaseException) -> None:
        """Stop watching: every `watch` raises `reason`."""
        for watch in self._watches.values():
            if not watch.future.done():
                watch.future.set_exception(reason)

    def look_now(self) -> None:
        """Poll at once: something has just been done to a job."""
        self._wake.set()

    async def _run(self) -> None:
        failures = 0
        interval = 0.0
        while self._watches:
            self._wake.clear()
            executor = next(iter(self._watches.values())).executor
            shortest, longest = executor.poll_interval
            began = time.monotonic()
            try:
                states = await executor.poll(list(self._watches))
                failures = 0
            except Exception as error:  # noqa: BLE001 - however a query fails, it says nothing of any job
                failures += 1
                states = {}
                logger.warning("Could not ask %s about its jobs (%s). Asking again.", executor.cluster, error)
            cost = time.monotonic() - began
            changed = any([self._take(ref, state) for ref, state in states.items() if ref in self._watches])
            interval = shortest if changed or not interval else min(interval * 1.3, longest)
            pause = max(interval, 5 * cost if cost > 0.1 else 0) * 2 ** min(failures, 6)
            try:
                await asyncio.wait_for(self._wake.wait(), min(pause, longest * 8) * random.uniform(0.9, 1.1))
                interval = 0.0
            except asyncio.TimeoutError:
                pass

    def _take(self, ref: JobRef, state: JobState) -> bool:
        watch = self._watches[ref]
        if state.status is JobStatus.UNKNOWN and state.cause is Cause.LOST:
            now = time.monotonic()
            watch.missing_since = watch.missing_since or now
            if now - watch.missing_since < watch.executor.lost_after:
                return False
            state = JobState(JobStatus.FAILED, Cause.LOST, message=state.message)
        else:
            watch.missing_since = None
        if state == watch.last:
            return False
        watch.last = state
        if state.status.is_terminal:
            if not watch.future.done():
                watch.future.set_result(state)
        else:
            watch.on_state(state)
        return True
