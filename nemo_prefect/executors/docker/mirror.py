"""Copies what a container wrote from the engine to files, each byte once.

The engine gives its log as messages with timestamps. ``logs.json`` beside the files says how far they are: how long each
file is, and which messages of the last seconds it holds. A copy that was interrupted goes on from there, in another process
too; messages are told apart by their time and not by their place, so neither an engine that was restarted nor one that
throws old messages away leads to lines that are missing or doubled.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_prefect.exit_record import read_json
from nemo_prefect.logs import STREAMS

if TYPE_CHECKING:
    from docker import DockerClient

CURSOR = "logs.json"
#: Seconds of messages that are read once more, in case the engine's clock was set back or messages were reordered.
OVERLAP = 2


def mirror(client: DockerClient, container: str, directory: Path) -> None:
    """Append what `container` wrote since the last call to ``stdout.log`` and ``stderr.log`` in `directory`.

    The caller holds the directory's lock. What the client raises is passed on; the files are in order even then.
    """
    directory.mkdir(parents=True, exist_ok=True)
    cursors = read_json(directory / CURSOR) or {}
    for stream in STREAMS:
        cursor = cursors.get(stream, {})
        since = max(0, int(cursor.get("since", 0)))
        messages = client.api.logs(
            container,
            stdout=stream == "stdout",
            stderr=stream == "stderr",
            timestamps=True,
            stream=True,
            follow=False,
            **({"since": since} if since else {}),
        )
        try:
            after, failure = _append(directory / f"{stream}.log", cursor, messages)
        finally:
            messages.close()
        if after != cursor:
            cursors[stream] = after
            write_json(directory / CURSOR, cursors)
        if failure is not None:
            raise failure


def _append(file: Path, cursor: dict[str, Any], messages: Iterable[bytes]) -> tuple[dict[str, Any], BaseException | None]:
    """Append the messages that `cursor` does not know; returns the cursor after them, and what broke off, if any."""
    known, recent = Counter(cursor.get("seen", {})), Counter(cursor.get("seen", {}))
    failure: BaseException | None = None
    with open(os.open(file, os.O_WRONLY | os.O_CREAT, 0o644), "wb") as out:
        out.truncate(cursor.get("size", 0))  # what was appended just before a crash comes again
        out.seek(0, os.SEEK_END)
        try:
            for message in messages:
                time, _, text = message.partition(b" ")
                stamp = time.decode("ascii")
                if known[stamp] > 0:
                    known[stamp] -= 1
                    continue
                out.write(text)
                recent[stamp] += 1
        except Exception as error:  # noqa: BLE001 - raised again, once the files are in order
            failure = error
        out.flush()
        size = out.tell()
    if not recent:
        return cursor, failure
    since = max(int(cursor.get("since", 0)), _seconds(max(recent)) - OVERLAP)
    seen = {stamp: count for stamp, count in recent.items() if _seconds(stamp) >= since}
    return {"size": size, "since": since, "seen": seen}, failure


def _seconds(stamp: str) -> int:
    """Seconds since 1970 of a time such as ``2026-01-31T12:00:00.123456789Z``."""
    return int(datetime.fromisoformat(stamp[:19] + "+00:00").timestamp())


def write_json(path: Path, data: Any) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w") as out:
        json.dump(data, out)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)
