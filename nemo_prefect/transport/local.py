"""The cluster whose login node this machine is: plain files and processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from nemo_prefect.errors import ExecutorError
from nemo_prefect.shell import check_env, join
from nemo_prefect.transport.base import READ_LIMIT, CommandResult, Entry, Tunnel, check_argv, timed_out
from nemo_prefect.transport.trees import kind_of, walk

T = TypeVar("T")

#: What tells of a full or broken disk is transient: the next try may find it repaired.
_FINAL = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError, FileNotFoundError)


class LocalTunnel(Tunnel):
    """Runs a cluster's commands on this machine.

    With an empty `job_dir` jobs run in the experiment's own directory; another one gets a copy, as a cluster behind SSH does
    (for a home that the compute nodes do not see).
    """

    is_local: ClassVar[bool] = True

    @property
    def key(self) -> str:
        return "local"

    def directory_for(self, experiment_dir: Path) -> str:
        if not self.job_dir:
            return str(experiment_dir)
        return str(Path(self.job_dir).expanduser().absolute() / experiment_dir.parent.name / experiment_dir.name)

    async def run_command(
        self,
        argv: Sequence[str],
        *,
        input: bytes | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> CommandResult:
        check_argv(argv)
        check_env(env or {})
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL if input is None else asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **(env or {})},
                start_new_session=True,  # a Ctrl-C at the terminal is for us, not for a submission under way
            )
        except (FileNotFoundError, PermissionError) as error:
            # As over SSH, where a shell says it.
            return CommandResult(127 if isinstance(error, FileNotFoundError) else 126, "", f"{argv[0]}: {error.strerror}\n")
        except OSError as error:
            raise ExecutorError(f"`{join(argv)[:300]}` could not be started: {error}.", transient=True) from error
        try:
            out, err = await asyncio.wait_for(process.communicate(input), timeout)
        except asyncio.TimeoutError:
            raise timed_out(argv, timeout or 0) from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await asyncio.shield(process.wait())
        return CommandResult(process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace"))

    async def upload(self, local_dir: Path, remote_dir: str, *, exclude: Sequence[str] = ()) -> None:
        await self._files(f"copy {local_dir} to {remote_dir}", _copy_tree, Path(local_dir), Path(remote_dir), exclude)

    async def download(self, remote_dir: str, local_dir: Path, *, exclude: Sequence[str] = ()) -> None:
        if os.path.isdir(remote_dir):
            await self.upload(Path(remote_dir), str(local_dir), exclude=exclude)

    async def write_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        await self._files(f"write {path}", _write, path, data, mode)

    async def read_file(self, path: str, offset: int = 0, limit: int | None = None) -> bytes | None:
        return await self._files(f"read {path}", _read, path, offset, limit)

    async def read_many(self, requests: Mapping[str, int], limit: int = READ_LIMIT) -> dict[str, bytes]:
        def read() -> dict[str, bytes]:
            found = {path: _read(path, offset, limit) for path, offset in requests.items()}
            return {path: data for path, data in found.items() if data is not None}

        return await self._files(f"read {len(requests)} files", read)

    async def list_dir(self, path: str) -> list[Entry]:
        return await self._files(f"list {path}", _list, path)

    async def exists(self, path: str) -> bool:
        return await asyncio.to_thread(os.path.exists, path)

    async def mkdir(self, path: str, *, exist_ok: bool = True) -> None:
        await self._files(f"make {path}", lambda: os.makedirs(path, exist_ok=exist_ok))

    async def remove_tree(self, path: str) -> None:
        def remove() -> None:
            try:
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path)
                else:
                    os.unlink(path)
            except FileNotFoundError:
                pass

        await self._files(f"remove {path}", remove)

    async def open(self) -> None:
        """Nothing to do: this is the machine."""

    async def close(self) -> None:
        """Nothing to do: this is the machine."""

    async def copy_in(self, local_path: str, remote_path: str) -> None:
        def copy() -> None:
            if os.path.realpath(local_path) == os.path.realpath(remote_path):
                return
            if os.path.isdir(local_path):
                _copy_tree(Path(local_path), Path(remote_path), ())
            else:
                os.makedirs(os.path.dirname(remote_path) or ".", exist_ok=True)
                shutil.copy2(local_path, remote_path)

        await self._files(f"copy {local_path} to {remote_path}", copy)

    async def copy_out(self, remote_path: str, local_path: str) -> None:
        await self.copy_in(remote_path, local_path)

    async def _files(self, doing: str, function: Callable[..., T], *args: Any) -> T:
        try:
            return await asyncio.to_thread(function, *args)
        except OSError as error:
            raise ExecutorError(f"Could not {doing}: {error}.", transient=not isinstance(error, _FINAL)) from error


def _copy_tree(source: Path, target: Path, exclude: Sequence[str]) -> None:
    if os.path.realpath(source) == os.path.realpath(target):
        return
    os.makedirs(target, exist_ok=True)
    folders = []
    for path, entry in walk(source, exclude):
        place = target / path
        if entry.is_symlink():
            _link(os.readlink(entry.path), place)
        elif entry.is_dir(follow_symlinks=False):
            os.makedirs(place, exist_ok=True)
            folders.append((entry, place))
        elif entry.is_file(follow_symlinks=False):
            status = entry.stat(follow_symlinks=False)
            if not _is_same(place, status):
                _replace(place, lambda name, source=entry.path: shutil.copy2(source, name))  # type: ignore[misc]
            os.chmod(place, stat.S_IMODE(status.st_mode))
    for entry, place in reversed(folders):  # last, since a directory may be one that cannot be written to
        shutil.copystat(entry.path, place)


def _is_same(place: Path, status: os.stat_result) -> bool:
    try:
        there = os.stat(place, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(there.st_mode) and (there.st_size, int(there.st_mtime)) == (status.st_size, int(status.st_mtime))


def _link(goal: str, place: Path) -> None:
    if os.path.islink(place) and os.readlink(place) == goal:
        return
    name = tempfile.mktemp(dir=place.parent, prefix=".")
    os.symlink(goal, name)
    os.replace(name, place)


def _replace(place: str | Path, fill: Callable[[str], object]) -> None:
    handle, name = tempfile.mkstemp(dir=os.path.dirname(place), prefix=".")
    os.close(handle)
    try:
        fill(name)
        os.replace(name, place)
    except BaseException:
        os.unlink(name)
        raise


def _write(path: str, data: bytes, mode: int) -> None:
    def fill(name: str) -> None:
        with open(name, "wb") as out:
            out.write(data)
        os.chmod(name, mode)

    os.makedirs(os.path.dirname(path), exist_ok=True)
    _replace(path, fill)


def _read(path: str, offset: int, limit: int | None) -> bytes | None:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(-1 if limit is None else limit)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _list(path: str) -> list[Entry]:
    found = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                found.append(Entry(entry.name, kind_of(status.st_mode), status.st_size, status.st_mtime))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=lambda e: e.name)
