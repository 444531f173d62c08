"""The exit record: what a job writes when it ends, and what outlives every queue.

``exit.json`` in an attempt's directory (in ``0/``, ``1/``, … of it for the members of a group or the nodes of a job that was
one submission) holds ``{"exit_code", "signal", "cancelled", "start", "end", "host", "attempt", "key", "message", "cause"}``;
the last seven may be missing. A ``cause`` is the name of a `Cause`, where the exit code alone does not tell:
``OUT_OF_MEMORY``. The file is written under another name first, so that a reader sees all of it or nothing.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_prefect.states import Cause, JobState, JobStatus, ended

FILE = "exit.json"


def read_exit(directory: str | os.PathLike[str]) -> JobState | None:
    """How the job ended whose attempt has this directory, or None where there is no record of that."""
    record = read_json(Path(directory) / FILE)
    if record is None:
        return None
    if record.get("cancelled"):
        said = record.get("message", "")
        return JobState(JobStatus.CANCELLED, Cause.CANCELLED, record["exit_code"], record["signal"], said)
    state = ended(record["exit_code"], record["signal"], record.get("message", ""))
    return replace(state, status=JobStatus.FAILED, cause=Cause(record["cause"])) if record.get("cause") else state


def read_json(path: Path) -> dict[str, Any] | None:
    """A file of JSON, or None where there is none."""
    try:
        data: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return data
