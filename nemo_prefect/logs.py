"""Reading what jobs write: lines from files, by offset, so that nothing is read twice."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

STREAMS = ("stdout", "stderr")
#: A line longer than this many bytes is given in pieces, so that one endless line cannot fill the memory.
MAX_LINE = 64 * 1024


@dataclass(frozen=True)
class LogLine:
    """One line of a job's output, without its end.

    Attributes:
        text: the line; of a progress bar's redrawings (carriage returns) the last one.
        stream: ``stdout`` or ``stderr``; of a member ``0/stdout``.
        offset: where the stream stands after this line, in bytes.
        member: which member or rank wrote it, or "" where there is one only.
    """

    text: str
    stream: str
    offset: int
    member: str = ""


class LogFiles:
    """The growing ``stdout.log`` and ``stderr.log`` in a directory, and in the numbered directories below it: a job that is
    several (members of a group, nodes, ranks) has ``0/stdout.log``, ``1/stdout.log``, …

    Args:
        directory: where they are or will be.
        offsets: where to begin in each stream, in bytes, by its name: ``stdout``, ``0/stdout``.
        member: read that one member only.
    """

    def __init__(
        self, directory: str | os.PathLike[str], offsets: Mapping[str, int] | None = None, member: str = ""
    ) -> None:
        self._directory = Path(directory)
        self._offsets = dict(offsets or {})
        self._member = member

    def read(self, *, final: bool = False) -> Iterator[LogLine]:
        """The whole lines written since the last call; with `final`, an unfinished last line too."""
        for member in [self._member] if self._member else ["", *members(self._directory)]:
            for stream in STREAMS:
                yield from self._read(f"{member}/{stream}" if member else stream, member, final)

    def _read(self, stream: str, member: str, final: bool) -> Iterator[LogLine]:
        try:
            file = (self._directory / f"{stream}.log").open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._offsets.get(stream, 0))
            while chunk := file.readline(MAX_LINE):
                if not chunk.endswith(b"\n") and len(chunk) < MAX_LINE and not final:
                    return
                self._offsets[stream] = self._offsets.get(stream, 0) + len(chunk)
                yield LogLine(clean(chunk), stream, self._offsets[stream], member)


def members(directory: str | os.PathLike[str]) -> list[str]:
    """The numbered directories in `directory`, in order."""
    try:
        names = [entry.name for entry in os.scandir(directory) if entry.name.isdigit() and entry.is_dir()]
    except FileNotFoundError:
        return []
    return sorted(names, key=int)


def clean(raw: bytes) -> str:
    """A line as a person would see it: decoded, and of what carriage returns overwrote only the last."""
    text = raw.decode("utf-8", errors="replace").rstrip("\r\n")
    return text.rpartition("\r")[2].replace("\0", "")


def tail(directory: str | os.PathLike[str], count: int) -> list[str]:
    """The last `count` lines of a job's output: of stderr where it wrote any, else of stdout."""
    for stream in (
        "stderr",
        *(f"{m}/stderr" for m in members(directory)),
        "stdout",
        *(f"{m}/stdout" for m in members(directory)),
    ):
        path = Path(directory) / f"{stream}.log"
        try:
            with path.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - MAX_LINE))
                lines = [clean(line) for line in file.read().splitlines() if line.strip()]
        except FileNotFoundError:
            continue
        if lines:
            return lines[-count:]
    return []
