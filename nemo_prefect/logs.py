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
        stream: ``stdout`` or ``stderr``.
        offset: where the stream stands after this line, in bytes.
        member: which member or rank wrote it, or "" where there is one only.
    """

    text: str
    stream: str
    offset: int
    member: str = ""


class LogFiles:
    """The growing ``stdout.log`` and ``stderr.log`` in a directory.

    Args:
        directory: where they are or will be.
        offsets: where to begin in each, in bytes.
    """

    def __init__(self, directory: str | os.PathLike[str], offsets: Mapping[str, int] | None = None) -> None:
        self._directory = Path(directory)
        self._offsets = {stream: (offsets or {}).get(stream, 0) for stream in STREAMS}

    def read(self, *, final: bool = False) -> Iterator[LogLine]:
        """The whole lines written since the last call; with `final`, an unfinished last line too."""
        for stream in STREAMS:
            yield from self._read(stream, final)

    def _read(self, stream: str, final: bool) -> Iterator[LogLine]:
        try:
            file = (self._directory / f"{stream}.log").open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._offsets[stream])
            while chunk := file.readline(MAX_LINE):
                if not chunk.endswith(b"\n") and len(chunk) < MAX_LINE and not final:
                    return
                self._offsets[stream] += len(chunk)
                yield LogLine(clean(chunk), stream, self._offsets[stream])


def clean(raw: bytes) -> str:
    """A line as a person would see it: decoded, and of what carriage returns overwrote only the last."""
    text = raw.decode("utf-8", errors="replace").rstrip("\r\n")
    return text.rpartition("\r")[2].replace("\0", "")


def tail(directory: str | os.PathLike[str], count: int) -> list[str]:
    """The last `count` lines of a job's output: of stderr where it wrote any, else of stdout."""
    for stream in ("stderr", "stdout"):
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
