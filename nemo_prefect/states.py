"""What a job can be in, and the one table from there to Prefect's states.

Executors own the tables from their native states to `JobStatus`; nothing else in the package names a Prefect state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


class JobStatus(str, Enum):
    """The states NeMo-Run's users know, with the same names."""

    UNSUBMITTED = "UNSUBMITTED"
    SUBMITTED = "SUBMITTED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"

    def __str__(self) -> str:
        return self.value

    @property
    def is_terminal(self) -> bool:
        """Whether a job in this state has ended for good."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


class Cause(str, Enum):
    """Why a job is in the state that it is in, where more is known than the state itself says."""

    NONE = ""
    EXIT_CODE = "EXIT_CODE"
    SIGNAL = "SIGNAL"
    TIMEOUT = "TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    LOST = "LOST"
    LAUNCH_FAILED = "LAUNCH_FAILED"
    UPSTREAM_FAILED = "UPSTREAM_FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_infrastructure(self) -> bool:
        """Whether the machine is to blame, not the task."""
        return self in (Cause.NODE_FAIL, Cause.PREEMPTED, Cause.LOST)


@dataclass(frozen=True)
class JobState:
    """The state of one job.

    Attributes:
        status: the state.
        cause: why, where it is known.
        exit_code: the exit code of the job's command (0 to 255), or None where it has none (not ended, or by a signal).
        signal: the number of the signal that ended it, or None.
        message: more for a person to read.
    """

    status: JobStatus
    cause: Cause = Cause.NONE
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""

    def describe(self) -> str:
        """The state in a few words: ``FAILED (exit code 3)``."""
        if self.signal is not None:
            detail = f"signal {self.signal}"
        elif self.exit_code:
            detail = f"exit code {self.exit_code}"
        else:
            detail = self.cause.value.replace("_", " ").lower()
        text = f"{self.status}" + (f" ({detail})" if detail and detail != self.status.value.lower() else "")
        return f"{text}: {self.message}" if self.message else text

    def with_message(self, message: str) -> JobState:
        """This state with another message."""
        return replace(self, message=message)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for the ledger and for ``--json``."""
        return {**asdict(self), "status": self.status.value, "cause": self.cause.value}


def ended(exit_code: int | None, signal: int | None = None, message: str = "") -> JobState:
    """The state of a job that ended by itself: success is exit code 0 and no signal, and nothing else is."""
    if signal is not None:
        return JobState(JobStatus.FAILED, Cause.SIGNAL, None, signal, message)
    if exit_code == 0:
        return JobState(JobStatus.SUCCEEDED, Cause.NONE, 0, None, message)
    return JobState(JobStatus.FAILED, Cause.EXIT_CODE, exit_code, None, message)


#: Prefect's state names for causes; the state's type follows from `to_prefect`.
_NAMES = {
    Cause.TIMEOUT: "TimedOut",
    Cause.OUT_OF_MEMORY: "OutOfMemory",
    Cause.NODE_FAIL: "NodeFail",
    Cause.PREEMPTED: "Preempted",
    Cause.LOST: "Lost",
}


def to_prefect(state: JobState) -> State[Any]:
    """The Prefect state that says the same.

    Failures of the machine become Crashed, not Failed: Prefect's retries, which are the user's, are not spent on them.
    """
    from prefect import states
    from prefect.client.schemas.objects import State, StateType

    message = state.describe()
    name = _NAMES.get(state.cause)
    if state.status is JobStatus.SUCCEEDED:
        return states.Completed(message=message)
    if state.status is JobStatus.CANCELLED:
        return states.Cancelled(message=message)
    if state.status is JobStatus.FAILED:
        make = states.Crashed if state.cause.is_infrastructure else states.Failed
        return make(message=message, name=name) if name else make(message=message)
    if state.status is JobStatus.RUNNING:
        return states.Running(message=message)
    # A job in a scheduler's queue is, to Prefect, a running task run: the engine is at work on it.
    label = {JobStatus.PENDING: "Queued", JobStatus.SUBMITTED: "Submitted"}.get(state.status, "Unknown")
    return State(type=StateType.RUNNING, name=label, message=message)


def from_prefect(state_type: str | None, name: str | None, message: str | None) -> JobState:
    """The job's state as far as a task run's Prefect state tells it."""
    text = message or ""
    cause = next((c for c, n in _NAMES.items() if n == name), Cause.NONE)
    if state_type == "COMPLETED":
        return JobState(JobStatus.SUCCEEDED)
    if state_type in ("FAILED", "CRASHED"):
        return JobState(JobStatus.FAILED, cause, message=text)
    if state_type in ("CANCELLED", "CANCELLING"):
        return JobState(JobStatus.CANCELLED if state_type == "CANCELLED" else JobStatus.RUNNING)
    if state_type == "RUNNING":
        queued = {"Queued": JobStatus.PENDING, "Submitted": JobStatus.SUBMITTED}
        return JobState(queued.get(name or "", JobStatus.RUNNING))
    if name == "NotReady":
        return JobState(JobStatus.UNSUBMITTED, Cause.UPSTREAM_FAILED)
    return JobState(JobStatus.UNSUBMITTED)


def overall(states: Iterable[JobState]) -> JobStatus:
    """The state of a whole experiment whose jobs ended so: any failure wins over any cancellation."""
    seen = {s.status for s in states if s.cause is not Cause.UPSTREAM_FAILED}
    for status in (JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.UNKNOWN):
        if status in seen:
            return status
    return JobStatus.SUCCEEDED if seen <= {JobStatus.SUCCEEDED} else JobStatus.RUNNING
