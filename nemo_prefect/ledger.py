"""The write-ahead record of every submission: what makes "exactly once" and adoption true.

One file of JSON lines an experiment. A line is on the disk before the act that it announces, so that whoever comes after a
crash knows which submissions may have happened.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from nemo_prefect.refs import JobRef
from nemo_prefect.states import Cause, JobState, JobStatus

Event = Literal["SUBMITTING", "SUBMITTED", "ENDED"]


@dataclass(frozen=True)
class Entry:
    """The last that is known of one attempt at a job."""

    job_id: str
    attempt: int
    key: str
    event: Event
    time: float
    ref: JobRef | None = None
    state: JobState | None = None


class Ledger:
    """The ledger of the experiment in `directory`.

    Raises:
        OSError: the directory cannot be written to.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = Path(directory) / "ledger.jsonl"

    def write(self, job_id: str, attempt: int, key: str, event: Event, payload: JobRef | JobState | None = None) -> None:
        """Append a line and wait until it is on the disk."""
        line: dict[str, Any] = {"time": time.time(), "job": job_id, "attempt": attempt, "key": key, "event": event}
        if isinstance(payload, JobRef):
            line["ref"] = asdict(payload)
        elif isinstance(payload, JobState):
            line["state"] = payload.to_dict()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, json.dumps(line).encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def latest(self) -> dict[str, Entry]:
        """For each job its latest attempt, by job id."""
        entries: dict[str, Entry] = {}
        for line in self._lines():
            job_id, attempt = line["job"], line["attempt"]
            before = entries.get(job_id)
            same = before is not None and before.attempt == attempt
            entries[job_id] = Entry(
                job_id=job_id,
                attempt=attempt,
                key=line["key"],
                event=line["event"],
                time=line["time"],
                ref=JobRef(**line["ref"]) if "ref" in line else (before.ref if before and same else None),
                state=_state(line["state"]) if "state" in line else None,
            )
        return entries

    def ends(self, units: Iterable[str]) -> dict[int, dict[str, JobState]]:
        """How each attempt's units ended, by attempt and unit; of units that did not, nothing."""
        wanted, ends = set(units), dict[int, dict[str, JobState]]()
        for line in self._lines():
            if line["job"] in wanted and line["event"] == "ENDED" and "state" in line:
                ends.setdefault(line["attempt"], {})[line["job"]] = _state(line["state"])
        return ends

    def refs(self, attempt: int) -> dict[str, JobRef]:
        """Where the units of that attempt ran, by unit."""
        return {line["job"]: JobRef(**line["ref"]) for line in self._lines() if line["attempt"] == attempt and "ref" in line}

    def _lines(self) -> list[dict[str, Any]]:
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return []
        # A crash can cut the last line short; what it announced had not begun, as its write had not returned.
        return [json.loads(line) for line in raw.split(b"\n")[:-1] if line.strip()]


def _state(data: dict[str, Any]) -> JobState:
    return JobState(**{**data, "status": JobStatus(data["status"]), "cause": Cause(data["cause"])})
