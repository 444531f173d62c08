"""What is known of a job while its experiment runs, and who is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from nemo_prefect.logs import LogLine
from nemo_prefect.refs import JobRef
from nemo_prefect.spec import JobSpec
from nemo_prefect.states import JobState, JobStatus


@dataclass
class JobRecord:
    """What is known of a job while the experiment runs."""

    job: JobSpec
    state: JobState = JobState(JobStatus.UNSUBMITTED)
    attempt: int = 0
    started: float | None = None
    running: float | None = None  # since when the latest attempt was seen running
    ended: float | None = None
    gpus: int | None = None
    last_line: str = ""
    refs: dict[str, JobRef] = field(default_factory=dict)
    members: dict[str, JobState] = field(default_factory=dict)


class Observer(Protocol):
    """Who is told what happens, on the engine's thread: a terminal, a test."""

    def on_start(self, records: dict[str, JobRecord]) -> None:
        """The jobs, once."""

    def on_change(self, record: JobRecord) -> None:
        """A job's state changed."""

    def on_line(self, record: JobRecord, unit: str, line: LogLine) -> None:
        """A job wrote a line."""
