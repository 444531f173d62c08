"""What is kept beside a job's logs of its pods: ``kubernetes.json`` in the attempt's directory."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nemo_prefect.exit_record import FILE as EXIT_FILE
from nemo_prefect.exit_record import read_json
from nemo_prefect.states import Cause, JobState, JobStatus

FILE = "kubernetes.json"


@dataclass
class Record:
    """What was seen of a job's pods.

    Attributes:
        directory: the attempt's directory.
        pods: the uid of the first pod of each rank.
        verdict: how the job ended, once that is known; nothing that is seen later changes it.
        ending: when the verdict was reached, in seconds since 1970.
        missing: since when a rank's Job has been missing, or None.
        over: all that the job left was fetched, and nothing of it is left in the cluster.
    """

    directory: str
    pods: dict[str, str] = field(default_factory=dict)
    verdict: dict[str, Any] | None = None
    ending: float = 0.0
    missing: float | None = None
    over: bool = False

    @classmethod
    def of(cls, directory: str) -> Record:
        """The record in `directory`, an empty one where there is none."""
        data = read_json(Path(directory) / FILE)
        return cls(**{**data, "directory": directory}) if data else cls(directory)

    def save(self) -> None:
        """Write it down."""
        write_json(Path(self.directory) / FILE, asdict(self))

    @property
    def state(self) -> JobState | None:
        """The verdict as a state."""
        if self.verdict is None:
            return None
        return JobState(
            **{**self.verdict, "status": JobStatus(self.verdict["status"]), "cause": Cause(self.verdict["cause"])}
        )


def write_json(path: Path, data: Any) -> None:
    """Write a file of JSON that a reader sees whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(data))
    temporary.replace(path)


def write_exit(directory: Path, state: JobState, known: dict[str, Any]) -> None:
    """Write an exit record.

    Args:
        directory: where.
        state: how it ended.
        known: what is known besides: host, start, end, key, attempt.
    """
    record = {
        **known,
        "exit_code": state.exit_code,
        "signal": state.signal,
        "cancelled": state.status is JobStatus.CANCELLED,
        "message": state.message,
        "cause": state.cause.value,
    }
    write_json(directory / EXIT_FILE, record)


@asynccontextmanager
async def only_one(directory: str) -> AsyncIterator[None]:
    """Held by whoever appends to the logs in `directory`: tasks of this process and other processes wait."""
    with open(os.path.join(directory, ".fetching"), "w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.05)
        yield
