"""Which failed attempt is followed by another one: two budgets, one for the task's own failures, one for the machine's.

``Executor.retries`` is spent on failures of the task: an exit code, a signal, no memory, a timeout. ``infra_retries`` is
spent on losses of the machine: a node that failed, a preemption, a job that is lost. Neither pays for the other's failures.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from nemo_prefect.errors import ExecutorError
from nemo_prefect.states import Cause, JobState, JobStatus

if TYPE_CHECKING:
    from nemo_prefect.executors.base import Executor
    from nemo_prefect.refs import JobRef

logger = logging.getLogger("nemo_prefect")

#: Seconds before the first attempt after a loss of the machine; they double from one to the next, up to the second figure.
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 600.0
#: Seconds between two questions to a cluster that does not answer whether a lost job is gone.
ASK_AGAIN = 5.0


def combine(states: Sequence[JobState]) -> JobState:
    """A group's state from its members': where the machine failed under one, that is why the others failed; else the first
    failure, else what is not a success, else success."""
    for state in states:
        if state.status is JobStatus.FAILED and state.cause.is_infrastructure:
            return state
    for status in (JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.UNKNOWN):
        if found := next((s for s in states if s.status is status), None):
            return found
    return states[0]


def spent(ends: Iterable[JobState]) -> tuple[int, int]:
    """How many of these attempts failed by the task's own fault, and how many by the machine's."""
    failed = [s for s in ends if s.status is JobStatus.FAILED]
    infra = sum(s.cause.is_infrastructure for s in failed)
    return len(failed) - infra, infra


def may_follow(executor: Executor, ends: Sequence[JobState]) -> bool:
    """Whether another attempt follows the last of `ends`, the ends of all attempts that count, oldest first."""
    if not ends:
        return True
    if ends[-1].status is not JobStatus.FAILED:
        return False
    own, infra = spent(ends)
    return infra <= executor.infra_budget if ends[-1].cause.is_infrastructure else own <= executor.retries


def pause_before(executor: Executor, ends: Sequence[JobState]) -> float:
    """Seconds to wait before the attempt that follows `ends`."""
    if not ends or not ends[-1].cause.is_infrastructure:
        return executor.retry_delay if ends else 0.0
    return min(max(FIRST_PAUSE, executor.retry_delay) * 2.0 ** (spent(ends)[1] - 1), LONGEST_PAUSE)


async def is_gone(executor: Executor, ends: Mapping[str, tuple[JobRef | None, JobState]], stopped: asyncio.Event) -> bool:
    """Whether none of these units (by id: where it ran, how it ended) can still run, so that another attempt doubles
    nothing. One that a query no longer showed is cancelled first, and the executor has to say that it does not run; it is
    asked until it answers, or until `stopped` is set.

    Returns:
        False where the executor cannot say so, or says that it still runs.
    """
    lost = [ref for ref, state in ends.values() if state.cause is Cause.LOST or not state.status.is_terminal]
    refs = [ref for ref in lost if ref is not None]
    if len(refs) < len(lost):
        return False
    while refs and not stopped.is_set():
        try:
            await executor.cancel(refs)
            states = await executor.poll(refs)
        except ExecutorError as error:
            if not error.transient:
                logger.warning("Whether a lost job still runs cannot be found out: %s", error)
                return False
            await asyncio.sleep(ASK_AGAIN)
            continue
        return all(states[r].status.is_terminal or states[r].cause is Cause.LOST for r in refs)
    return not refs
