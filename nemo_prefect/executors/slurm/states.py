"""Slurm's states and what they mean here: the one table."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nemo_prefect.states import Cause, JobState, JobStatus

logger = logging.getLogger("nemo_prefect")

#: ``(status, cause, note)`` for each of Slurm's states (job_state_codes in its documentation).
TABLE: dict[str, tuple[JobStatus, Cause, str]] = {
    "PENDING": (JobStatus.PENDING, Cause.NONE, ""),
    "CONFIGURING": (JobStatus.PENDING, Cause.NONE, "its nodes are being made ready"),
    "POWER_UP_NODE": (JobStatus.PENDING, Cause.NONE, "its nodes are being powered up"),
    "REQUEUED": (JobStatus.PENDING, Cause.NONE, "Slurm queued it again"),
    "REQUEUE_FED": (JobStatus.PENDING, Cause.NONE, "Slurm queued it again"),
    "REQUEUE_HOLD": (JobStatus.PENDING, Cause.NONE, "held after Slurm queued it again"),
    "SPECIAL_EXIT": (JobStatus.PENDING, Cause.NONE, "held by Slurm in a special state"),
    "RESV_DEL_HOLD": (JobStatus.PENDING, Cause.NONE, "held, its reservation was deleted"),
    "RUNNING": (JobStatus.RUNNING, Cause.NONE, ""),
    "COMPLETING": (JobStatus.RUNNING, Cause.NONE, "finishing"),
    "STAGE_OUT": (JobStatus.RUNNING, Cause.NONE, "its results are being moved"),
    "SUSPENDED": (JobStatus.RUNNING, Cause.NONE, "suspended by Slurm"),
    "STOPPED": (JobStatus.RUNNING, Cause.NONE, "stopped by Slurm"),
    "SIGNALING": (JobStatus.RUNNING, Cause.NONE, ""),
    "RESIZING": (JobStatus.RUNNING, Cause.NONE, ""),
    "EXPEDITING": (JobStatus.RUNNING, Cause.NONE, ""),
    "UPDATE_DB": (JobStatus.RUNNING, Cause.NONE, ""),
    "REVOKED": (JobStatus.RUNNING, Cause.NONE, "it runs on another cluster of the federation"),
    "COMPLETED": (JobStatus.SUCCEEDED, Cause.NONE, ""),
    "CANCELLED": (JobStatus.CANCELLED, Cause.CANCELLED, ""),
    "FAILED": (JobStatus.FAILED, Cause.EXIT_CODE, ""),
    "TIMEOUT": (JobStatus.FAILED, Cause.TIMEOUT, "it reached its time limit"),
    "DEADLINE": (JobStatus.FAILED, Cause.TIMEOUT, "it missed its deadline"),
    "OUT_OF_MEMORY": (JobStatus.FAILED, Cause.OUT_OF_MEMORY, "it used more memory than it asked for"),
    "NODE_FAIL": (JobStatus.FAILED, Cause.NODE_FAIL, "one of its nodes failed"),
    "BOOT_FAIL": (JobStatus.FAILED, Cause.NODE_FAIL, "its nodes could not be booted"),
    "LAUNCH_FAILED": (JobStatus.FAILED, Cause.NODE_FAIL, "its nodes could not start it"),
    "RECONFIG_FAIL": (JobStatus.FAILED, Cause.NODE_FAIL, "its nodes could not be reconfigured"),
    "PREEMPTED": (JobStatus.FAILED, Cause.PREEMPTED, "a job of higher priority took its place"),
}

#: Reasons for which a job would wait for ever: what it asks for does not exist or is not allowed.
NEVER = {
    "AccountNotAllowed",
    "BadConstraints",
    "DependencyNeverSatisfied",
    "InvalidAccount",
    "InvalidQOS",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "QOSNotAllowed",
}

_warned: set[str] = set()


@dataclass(frozen=True)
class Row:
    """One line of an answer.

    Attributes:
        job: the job as Slurm shows it: ``123``, ``123_4`` of an array, ``123+0`` of a heterogeneous job.
        state: its state, upper case, without what follows a blank (``CANCELLED by 1001``).
        reason: why it waits, or "".
        start: when it started or is expected to, or "".
        exit_code: ``code:signal``, or "" where the query does not say.
        said: the state as it was said.
    """

    job: str
    state: str
    reason: str = ""
    start: str = ""
    exit_code: str = ""
    said: str = ""


def parse_squeue(text: str) -> list[Row]:
    """The lines of ``squeue -h -o '%i|%T|%r|%S|%j'``."""
    rows = []
    for line in text.splitlines():
        parts = line.split("|", 4)
        if len(parts) == 5:
            job, state, reason, start, _name = parts
            rows.append(Row(job.strip(), state.strip().upper(), _blank(reason), _blank(start), said=state.strip()))
    return rows


def parse_sacct(text: str) -> list[Row]:
    """The lines of ``sacct -X -P -n --format=JobID,State,ExitCode,DerivedExitCode,End,Reason``."""
    rows = []
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) >= 3:
            state = parts[1].split()[0].upper() if parts[1].split() else ""
            rows.append(Row(parts[0], state, _blank(parts[5]) if len(parts) > 5 else "", "", parts[2], parts[1]))
    return rows


def indices(array: str) -> list[int]:
    """The indices that an array specification names: ``0-4:2,7%3`` gives 0, 2, 4, 7."""
    found: set[int] = set()
    for part in array.partition("%")[0].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        found.update(range(int(first), int(last or first) + 1, int(step or 1)))
    return sorted(found)


def _blank(text: str) -> str:
    return "" if text.strip() in ("None", "N/A", "Unknown", "(null)") else text.strip()


def state_of(row: Row, before: JobState | None = None) -> JobState:
    """What a line says of its job. A state that nobody knows is none: the one `before` stays."""
    if row.state not in TABLE:
        if row.state not in _warned:
            _warned.add(row.state)
            logger.warning("Slurm shows the state %r, which is not known here; it changes nothing.", row.said)
        return before or JobState(JobStatus.SUBMITTED)
    status, cause, note = TABLE[row.state]
    code, number = _exit_code(row.exit_code)
    if status is JobStatus.PENDING and row.reason in NEVER:
        return JobState(JobStatus.FAILED, Cause.LAUNCH_FAILED, message=f"Slurm will never start it: {row.reason}")
    if status is JobStatus.PENDING:
        expected = f", expected to start at {row.start}" if row.start else ""
        waits = f"waits for {row.reason}{expected}" if row.reason else ""
        return JobState(status, cause, message=note or waits)
    if status is JobStatus.SUCCEEDED and (code, number) not in ((None, None), (0, None)):
        return JobState(JobStatus.FAILED, Cause.EXIT_CODE, code, number, "Slurm calls it completed")
    if row.state == "FAILED" and number is not None:
        return JobState(status, Cause.SIGNAL, None, number)
    if status is JobStatus.CANCELLED and " by " in row.said:
        note = "by user " + row.said.split(" by ")[1]
    if status.is_terminal:
        return JobState(status, cause, 0 if status is JobStatus.SUCCEEDED else code or None, None, note)
    return JobState(status, cause, message=note)


def _exit_code(text: str) -> tuple[int | None, int | None]:
    code, _, number = text.partition(":")
    if not code.isdigit():
        return None, None
    return int(code), int(number) if number.isdigit() and int(number) else None


def combine(states: Sequence[JobState]) -> JobState:
    """One state for a job of several parts: it runs while one of them does, and succeeds if all do."""
    going = [s for s in states if not s.status.is_terminal]
    for status in (JobStatus.RUNNING, JobStatus.PENDING):
        if found := next((s for s in going if s.status is status), None):
            return found if len(going) == len(states) else JobState(JobStatus.RUNNING)
    if going:
        return going[0]
    for status in (JobStatus.FAILED, JobStatus.CANCELLED):
        if found := next((s for s in states if s.status is status), None):
            return found
    return states[0]


def base_of(job: str) -> str:
    """The id of the whole array or heterogeneous job that `job` is a part of."""
    return re.split(r"[_+]", job)[0]


class Answer:
    """The lines of an answer, by job."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._exact: dict[str, list[Row]] = {}
        self._parts: dict[str, list[Row]] = {}
        for row in rows:
            self._exact.setdefault(row.job, []).append(row)
            self._parts.setdefault(base_of(row.job), []).append(row)

    def about(self, job: str) -> list[Row]:
        """The lines that are about a job: its own, or those of all its parts. Slurm shows the tasks of an array that wait
        as one line: ``123_[7-9]``."""
        if found := self._exact.get(job) or self._parts.get(job):
            return found
        base, _, index = job.partition("_")
        return [row for row in self._parts.get(base, ()) if index and _covers(row.job, int(index))]


def _covers(job: str, index: int) -> bool:
    listed = re.fullmatch(r"\d+_\[([\d,:-]+)(?:%\d+)?\]", job)
    return listed is not None and index in indices(listed[1])
