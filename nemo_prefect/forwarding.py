"""Sends a job's output to its task run's log. The files are the source of truth; the server gets what it can take."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemo_prefect.executors.base import Executor
from nemo_prefect.records import JobRecord
from nemo_prefect.refs import JobRef

#: Lines a second of one job that go to the server. (It stores some 400 a second in all on SQLite.)
LINES_PER_SECOND = 200


async def forward(
    executor: Executor,
    ref: JobRef,
    record: JobRecord,
    unit: str,
    run_logger: Any,
    tell: Callable[..., None],
    ended: asyncio.Event,
) -> None:
    """Forward until the job has ended and all it wrote was read, from where an earlier driver left off.

    Args:
        executor: whose job it is.
        ref: the job.
        record: what is known of it; its last line is kept up to date.
        unit: the job's id, or that of a group's member.
        run_logger: the task run's logger.
        tell: called with ``"on_line"``, the record, the unit and the line.
        ended: set once the job has ended.
    """
    of_unit = unit.rpartition("/")[2] if unit != record.job.id else ""
    mark = Path(ref.directory) / "forwarded.json"
    offsets: dict[str, int] = json.loads(mark.read_text()) if mark.exists() else {}
    window, sent, dropped = time.monotonic(), 0, 0
    try:
        async for line in executor.logs(ref, follow=True, offsets=offsets, ended=ended):
            offsets[line.stream] = line.offset
            record.last_line = line.text or record.last_line
            tell("on_line", record, unit, line)
            now = time.monotonic()
            if now - window >= 1.0:
                if dropped:
                    run_logger.warning("%d lines are not shown here; all are in %s", dropped, ref.directory)
                window, sent, dropped = now, 0, 0
                mark.write_text(json.dumps(offsets))
            if sent < LINES_PER_SECOND:
                sent += 1
                member = line.member or of_unit
                run_logger.info("%s%s", f"[{member}] " if member else "", line.text)
            else:
                dropped += 1
        if dropped:
            run_logger.warning("%d lines are not shown here; all are in %s", dropped, ref.directory)
    finally:
        mark.write_text(json.dumps(offsets))
