"""Directories by rsync, through the SSH connection that is there already: no second login, no second look at host keys."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_prefect.errors import ExecutorError
from nemo_prefect.shell import join
from nemo_prefect.transport import rsync_bridge
from nemo_prefect.transport.connection import Connection, load_asyncssh
from nemo_prefect.transport.trees import rsync_pattern

#: rsync's exit code for files that vanished while it looked: a job may well remove some.
_VANISHED = 24
#: Seconds that the other half may take to end after this one.
_PARTING = 10.0
#: Bytes that are handed on at a time.
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Copy:
    """What is to be copied: a directory to another, `upload` from here to there, else from there to here."""

    local: str
    remote: str
    upload: bool
    exclude: tuple[str, ...] = ()

    def argv(self) -> list[str]:
        """rsync's command. Paths and patterns travel in its own protocol (``-s``), past every shell."""
        there = self.remote if self.upload else re.sub(r"([\\*?\[])", r"\\\1", self.remote)
        ends = [f"{self.local}/", f"cluster:{there}/"]
        bridge = join([sys.executable, "-I", "-S", rsync_bridge.__file__])
        return [
            *("rsync", "-rlpts", "-e", bridge, *(f"--exclude={rsync_pattern(p)}" for p in self.exclude)),
            *("--", *(ends if self.upload else reversed(ends))),
        ]


async def rsync(connection: Connection, copy: Copy, line: Callable[[Sequence[str]], str]) -> bool:
    """Copy; False where one end has no rsync.

    Raises:
        ExecutorError: it failed, or the connection was lost (transient).
    """
    if shutil.which("rsync") is None:
        return False
    if connection.has_rsync is None:
        code, _, _ = await connection.run(line(["sh", "-c", "command -v rsync"]), None, None)
        connection.has_rsync = code == 0
    if not connection.has_rsync:
        return False
    lost: list[ExecutorError] = []
    serving: set[asyncio.Task[Any] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        try:
            words = (await reader.readline()).decode().split("\0")
            words[-1] = words[-1].rstrip("\n")
            await _carry(connection, line(words), reader, writer)
        except ExecutorError as error:
            lost.append(error)
        finally:
            writer.close()

    with tempfile.TemporaryDirectory(prefix="nemo-prefect-") as folder:  # which only this user can enter
        socket = str(Path(folder) / "s")
        async with await asyncio.start_unix_server(serve, socket):
            process = await asyncio.create_subprocess_exec(
                *copy.argv(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, rsync_bridge.SOCKET: socket},
                start_new_session=True,
            )
            try:
                _, err = await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                if tasks := {task for task in serving if task is not None}:
                    for task in (await asyncio.wait(tasks, timeout=_PARTING))[1]:
                        task.cancel()
    if lost:
        raise lost[0]
    if process.returncode not in (0, _VANISHED):
        said = err.decode(errors="replace").strip()[-2000:]
        raise ExecutorError(f"rsync ended with exit code {process.returncode}: {said}.")
    return True


async def _carry(connection: Connection, command: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Run rsync's other half on the cluster, joined to these streams."""
    asyncssh: Any = load_asyncssh()
    async with connection.session(command, stderr=asyncssh.DEVNULL) as process:

        async def up() -> None:
            while data := await reader.read(_CHUNK):
                process.stdin.write(data)
                await process.stdin.drain()
            process.stdin.write_eof()

        sending = asyncio.create_task(up())
        try:
            while data := await process.stdout.read(_CHUNK):
                try:
                    writer.write(data)
                    await writer.drain()
                except ConnectionError:  # rsync ended here, and its exit code says how
                    return
            await process.wait_closed()
            connection.outcome(process)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
