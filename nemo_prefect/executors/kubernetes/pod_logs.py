"""A pod's log, copied to a file piece by piece: nothing twice, nothing left out, also after a crash in between.

The API gives a log from a second on, each record with its time. Records of one second cannot be told apart by their time,
and two streams of a container may be written down a little out of order; so what was read is remembered as a second S and
the number of records since S that the file holds already. Of the answer that begins with S exactly so many are left out.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from nemo_prefect.executors.kubernetes.api import Api, ApiError
from nemo_prefect.executors.kubernetes.manifests import CONTAINER

#: Bytes after which runtimes break a line; the API gives each part a time of its own, in the middle of the line.
PART = 16 * 1024
#: Seconds by which records may be out of order.
SLACK = 2
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d) ")
#: How a line begins that holds a piece of an artifact (see worker/pod.py): it is put back, and is no output.
FRAME = b"::nemo-prefect-artifact:: "
GAP = b"[some of the output may be missing here: the node rotated the log before it was read]\n"


@dataclass
class Cursor:
    """How far a pod's log was copied.

    Attributes:
        pod: the pod's uid.
        since: seconds since 1970 from which to read next, or None for the beginning.
        seen: records since then that are in the file.
        first: the time of the first of them, as the API wrote it.
        last: the time of the last.
        size: the file's size in bytes once all of them were in it.
    """

    pod: str
    since: int | None = None
    seen: int = 0
    first: str = ""
    last: str = ""
    size: int = 0


@dataclass
class Reader:
    """Takes an answer's bytes as they come; what is new of it is `new`."""

    cursor: Cursor
    gap: bool = False
    _buffer: bytes = b""
    _count: int = 0
    _last: str = ""
    _seconds: dict[int, tuple[int, int, str]] = field(default_factory=dict)

    def feed(self, chunk: bytes, *, final: bool = False) -> Iterator[bytes]:
        """What `chunk` completes; with `final` also what has no end yet."""
        self._buffer += chunk
        position = 0
        while (found := _record(self._buffer, position, final)) is not None:
            stamp, content, position = found
            if self._take(stamp):
                yield content
        self._buffer = self._buffer[position:]

    def _take(self, stamp: str) -> bool:
        index, cursor = self._count, self.cursor
        self._count += 1
        if index == 0 and cursor.seen and stamp != cursor.first:
            self.gap = True
        second = _second(stamp)
        count, first, first_stamp = self._seconds.get(second, (0, index, stamp))
        self._seconds[second] = (count + 1, first, first_stamp)
        new = stamp > cursor.last if self.gap else index >= cursor.seen
        if new or not self._last:
            self._last = stamp
        return new

    def after(self, size: int) -> Cursor:
        """The cursor once all that was fed is in the file, which then has `size` bytes."""
        if not self._count:
            return Cursor(**{**asdict(self.cursor), "size": size})
        newest = max(self._seconds)
        since = newest - SLACK
        kept = {s: v for s, v in self._seconds.items() if s >= since}
        first = min(kept.values(), key=lambda v: v[1])[2]
        return Cursor(self.cursor.pod, since, sum(v[0] for v in kept.values()), first, self._last, size)


async def pull(
    api: Api, namespace: str, pod: str, uid: str, file: Path, mark: Path, artifacts: Path, *, final: bool
) -> None:
    """Append to `file` what its pod wrote since the last call.

    Args:
        api: the API.
        namespace: the pod's namespace.
        pod: its name.
        uid: its uid.
        file: where the output goes.
        mark: where the cursor is kept.
        artifacts: where the artifacts go that come with the output.
        final: the container has ended: a last line without an end is whole.

    Raises:
        ApiError: the log could not be read.
    """
    cursor = _load(mark, uid)
    file.parent.mkdir(parents=True, exist_ok=True)
    query = {"container": CONTAINER, "timestamps": "true"}
    if cursor.since is not None:
        query["sinceTime"] = datetime.fromtimestamp(cursor.since, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    reader = Reader(cursor)
    with file.open("ab") as out:
        # What was written after the cursor was saved comes again first, byte for byte.
        written = max(0, out.tell() - cursor.size)
        told = False
        try:
            async with api.stream(f"/api/v1/namespaces/{namespace}/pods/{pod}/log", query) as chunks:
                async for chunk in chunks:
                    for content in reader.feed(chunk):
                        if content.startswith(FRAME):
                            _put_back(content, artifacts)
                            continue
                        if reader.gap and not told:
                            told = bool(out.write(GAP))
                        skipped = min(written, len(content))
                        written -= skipped
                        out.write(content[skipped:])
        except ApiError as error:
            if error.status in (400, 404):  # it waits to start, or is gone
                return
            raise
        for content in reader.feed(b"", final=final):
            out.write(content[min(written, len(content)) :])
        out.flush()
        cursor = reader.after(out.tell())
    temporary = mark.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(cursor)))
    temporary.replace(mark)


def _put_back(frame: bytes, directory: Path) -> None:
    """Write a piece of an artifact to where it belongs; again does no harm. What is no such piece is left alone."""
    try:
        _, _, path, offset, size, piece = frame.decode().rstrip("\n").split(" ")
        relative = base64.b64decode(path).decode()
        target = Path(os.path.normpath(directory / relative))
        if not target.is_relative_to(directory) or target == directory or os.path.isabs(relative):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as out:
            out.seek(int(offset))
            out.write(base64.b64decode(piece))
            out.truncate(int(size))
    except ValueError:
        return


def _load(mark: Path, uid: str) -> Cursor:
    try:
        cursor = Cursor(**json.loads(mark.read_text()))
    except (OSError, ValueError, TypeError):
        return Cursor(uid)
    return cursor if cursor.pod == uid else Cursor(uid)


def _record(buffer: bytes, position: int, final: bool) -> tuple[str, bytes, int] | None:
    """The record at `position`: its time, its content, and where the next begins; None where it is not whole."""
    head = _STAMP.match(buffer, position)
    if head is None:
        end = buffer.find(b"\n", position)  # no record of a log at all: the runtime's own words
        if end < 0:
            return None
        return "", buffer[position : end + 1], end + 1
    stamp, start = head[0][:-1].decode(), head.end()
    end = buffer.find(b"\n", start, start + PART + 1)
    if end < 0 and _STAMP.match(buffer, start + PART):
        return stamp, buffer[start : start + PART], start + PART
    if end < 0 and (final or len(buffer) > start + PART + 40):
        end = buffer.find(b"\n", start)
    if end >= 0:
        return stamp, buffer[start : end + 1], end + 1
    return (stamp, buffer[start:], len(buffer)) if final and start < len(buffer) else None


def _second(stamp: str) -> int:
    if not stamp:
        return 0
    zone = "+00:00" if stamp.endswith("Z") else stamp[-6:]
    return int(datetime.fromisoformat(stamp[:19] + zone).timestamp())
