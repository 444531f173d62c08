"""Files on the other side of an SSH connection, by SFTP."""

from __future__ import annotations

import asyncio
import logging
import os
import posixpath
import secrets
import stat
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_prefect.errors import ExecutorError, UnreachableError
from nemo_prefect.shell import join
from nemo_prefect.transport.base import Entry
from nemo_prefect.transport.connection import Connection, load_asyncssh
from nemo_prefect.transport.rsync import Copy, rsync
from nemo_prefect.transport.trees import is_excluded, kind_of, walk

if TYPE_CHECKING:
    from asyncssh import SFTPAttrs, SFTPClient

logger = logging.getLogger("nemo_prefect")

#: Files that are copied, or read, at a time.
_AT_ONCE = 32

#: Makes an argument vector a line for the cluster's shell; None where rsync is not wanted.
Line = Callable[[Sequence[str]], str] | None


async def read_file(connection: Connection, path: str, offset: int, limit: int | None) -> bytes | None:
    """A file's content from `offset` on; None where there is none."""

    async def read(sftp: SFTPClient) -> bytes:
        async with sftp.open(path, "rb") as file:
            size = max(0, ((await file.stat()).size or 0) - offset)
            if not size:
                return b""
            data: bytes = await file.read(size if limit is None else min(limit, size), offset)
            return data

    try:
        return await connection.sftp(read, f"read {path}")
    except FileNotFoundError:
        return None


async def read_many(connection: Connection, requests: Mapping[str, int], limit: int) -> dict[str, bytes]:
    """What files hold past an offset of each. All are asked at once, and only those that grew are opened."""
    asyncssh = load_asyncssh()
    missing = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath, asyncssh.SFTPNotADirectory)

    async def look(sftp: SFTPClient) -> dict[str, bytes]:
        found: dict[str, bytes] = {}

        async def one(path: str, offset: int) -> None:
            try:
                size = (await sftp.stat(path)).size or 0
                found[path] = b""
                if size > offset:
                    async with sftp.open(path, "rb") as file:
                        found[path] = await file.read(min(limit, size - offset), offset)
            except missing:
                found.pop(path, None)

        await _gather(one(path, offset) for path, offset in requests.items())
        return found

    return await connection.sftp(look, f"read {len(requests)} files")


async def write_file(connection: Connection, path: str, data: bytes, mode: int) -> None:
    """Write a file in one step."""

    async def write(sftp: SFTPClient) -> None:
        beside = _beside(path)
        attrs = load_asyncssh().SFTPAttrs(permissions=mode & 0o700)
        try:
            async with sftp.open(beside, "wb", attrs) as file:
                await file.write(data)
            await sftp.chmod(beside, mode)
            await sftp.posix_rename(beside, path)
        except BaseException:
            await _unlink(sftp, beside)
            raise

    try:
        await connection.sftp(write, f"write {path}")
    except FileNotFoundError:
        await make_dir(connection, posixpath.dirname(path), True)
        await _found(connection.sftp(write, f"write {path}"))


async def list_dir(connection: Connection, path: str) -> list[Entry]:
    """A directory's entries by name."""
    try:
        names = await connection.sftp(lambda sftp: sftp.readdir(path), f"list {path}")
    except FileNotFoundError:
        return []
    entries = [
        Entry(str(n.filename), kind_of(n.attrs.permissions or 0), n.attrs.size or 0, float(n.attrs.mtime or 0))
        for n in names
        if n.filename not in (".", "..")
    ]
    return sorted(entries, key=lambda entry: entry.name)


async def make_dir(connection: Connection, path: str, exist_ok: bool) -> None:
    """Make a directory and those above it."""
    if not exist_ok:
        await make_dir(connection, posixpath.dirname(path), True)
        # SFTP's own answer to a directory that exists is a mere "Failure".
        code, _, err = await connection.run(join(["mkdir", "--", path]), None, None)
    else:
        code, _, err = await connection.run(join(["mkdir", "-p", "--", path]), None, None)
    if code:
        said = err.decode(errors="replace").strip()
        raise ExecutorError(f"Could not make {path} on {connection.login}: {said}.", transient="o space" in said)


async def copy_in(connection: Connection, local_path: str, remote_path: str) -> None:
    """Bring one file there."""
    await make_dir(connection, posixpath.dirname(remote_path) or ".", True)
    await _found(connection.sftp(lambda sftp: _send(sftp, local_path, remote_path), f"copy {local_path} to {remote_path}"))


async def copy_out(connection: Connection, remote_path: str, local_path: str, line: Line) -> None:
    """Bring one file or directory here."""

    async def copy(sftp: SFTPClient) -> bool:
        if await sftp.isdir(remote_path):
            return False
        await _fetch(sftp, remote_path, Path(local_path))
        return True

    if not await _found(connection.sftp(copy, f"copy {remote_path} to {local_path}")):
        await download(connection, remote_path, Path(local_path), (), line)


async def upload(connection: Connection, local_dir: Path, remote_dir: str, exclude: Sequence[str], line: Line) -> None:
    """Bring a directory there."""
    await make_dir(connection, remote_dir, True)
    if line and await _by_rsync(connection, Copy(str(local_dir), remote_dir, True, tuple(exclude)), line):
        return
    await _found(
        connection.sftp(lambda sftp: _send_tree(sftp, local_dir, remote_dir, exclude), f"copy {local_dir} to {remote_dir}")
    )


async def download(connection: Connection, remote_dir: str, local_dir: Path, exclude: Sequence[str], line: Line) -> None:
    """Bring a directory here, if it exists."""
    if not await connection.sftp(lambda sftp: sftp.isdir(remote_dir), f"look at {remote_dir}"):
        return
    local_dir.mkdir(parents=True, exist_ok=True)
    if line and await _by_rsync(connection, Copy(str(local_dir), remote_dir, False, tuple(exclude)), line):
        return
    await _found(
        connection.sftp(lambda sftp: _fetch_tree(sftp, remote_dir, local_dir, exclude), f"copy {remote_dir} to {local_dir}")
    )


async def _by_rsync(connection: Connection, copy: Copy, line: Callable[[Sequence[str]], str]) -> bool:
    """Whether rsync did it; where it is not there, or fails, SFTP will do it or say what is wrong."""
    try:
        return await rsync(connection, copy, line)
    except UnreachableError:
        raise
    except ExecutorError as error:
        if error.transient:
            raise
        logger.info("rsync failed (%s); copying by SFTP.", error)
        return False


async def _send_tree(sftp: SFTPClient, source: Path, target: str, exclude: Sequence[str]) -> None:
    asyncssh = load_asyncssh()
    files: list[Coroutine[Any, Any, None]] = []
    folders: list[tuple[str, int]] = []
    there: dict[str, SFTPAttrs] = await _listing(sftp, target, "")
    for path, entry in walk(source, exclude):
        place, known = posixpath.join(target, path), there.get(path)
        if entry.is_symlink():
            files.append(_send_link(sftp, os.readlink(entry.path), place))
        elif entry.is_dir(follow_symlinks=False):
            if known is None or not stat.S_ISDIR(known.permissions or 0):
                await sftp.mkdir(place)
            else:
                there |= await _listing(sftp, target, path)
            folders.append((place, stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)))
        elif entry.is_file(follow_symlinks=False):
            status = entry.stat(follow_symlinks=False)
            if known is None or (known.size, known.mtime) != (status.st_size, int(status.st_mtime)):
                files.append(_send(sftp, entry.path, place))
            elif stat.S_IMODE(known.permissions or 0) != stat.S_IMODE(status.st_mode):
                files.append(sftp.chmod(place, stat.S_IMODE(status.st_mode)))
    await _gather(files)
    for place, mode in reversed(folders):
        await sftp.setstat(place, asyncssh.SFTPAttrs(permissions=mode))


async def _fetch_tree(sftp: SFTPClient, source: str, target: Path, exclude: Sequence[str], below: str = "") -> None:
    files: list[Coroutine[Any, Any, None]] = []
    for path, attrs in (await _listing(sftp, source, below)).items():
        if is_excluded(path, exclude):
            continue
        place, origin = target / path, posixpath.join(source, path)
        mode = attrs.permissions or 0
        if stat.S_ISLNK(mode):
            files.append(_fetch_link(sftp, origin, place))
        elif stat.S_ISDIR(mode):
            place.mkdir(exist_ok=True)
            await _fetch_tree(sftp, source, target, exclude, path)
            place.chmod(stat.S_IMODE(mode))
        elif stat.S_ISREG(mode):
            have = place.lstat() if os.path.lexists(place) else None
            if have is None or (have.st_size, int(have.st_mtime)) != (attrs.size, attrs.mtime):
                files.append(_fetch(sftp, origin, place))
    await _gather(files)


async def _listing(sftp: SFTPClient, root: str, below: str) -> dict[str, SFTPAttrs]:
    """The entries of one directory of a tree, by their path from the tree's root."""
    found = {}
    for entry in await sftp.readdir(posixpath.join(root, below)):
        name = str(entry.filename)
        if name in (".", ".."):
            continue
        if "/" in name or not name:
            raise ExecutorError(f"{root} holds an entry with the name {name!r}.", hint="Its server is not to be trusted.")
        found[posixpath.join(below, name)] = entry.attrs
    return found


async def _send(sftp: SFTPClient, local: str, remote: str) -> None:
    beside = _beside(remote)
    try:
        await sftp.put(local, beside, preserve=True)
        await sftp.posix_rename(beside, remote)
    except BaseException:
        await _unlink(sftp, beside)
        raise


async def _send_link(sftp: SFTPClient, goal: str, remote: str) -> None:
    beside = _beside(remote)
    await sftp.symlink(goal, beside)
    try:
        await sftp.posix_rename(beside, remote)
    except BaseException:
        await _unlink(sftp, beside)
        raise


async def _fetch(sftp: SFTPClient, remote: str, local: Path) -> None:
    local.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=local.parent, prefix=".")
    os.close(handle)
    try:
        await sftp.get(remote, beside, preserve=True)
        os.replace(beside, local)
    except BaseException:
        os.unlink(beside)
        raise


async def _fetch_link(sftp: SFTPClient, remote: str, local: Path) -> None:
    goal = str(await sftp.readlink(remote))
    beside = local.parent / _beside(local.name)
    os.symlink(goal, beside)
    os.replace(beside, local)


def _beside(path: str) -> str:
    folder, name = posixpath.split(path)
    return posixpath.join(folder, f".{name[:100]}.{secrets.token_hex(4)}")


async def _unlink(sftp: SFTPClient, path: str) -> None:
    try:
        await sftp.remove(path)
    except load_asyncssh().Error:
        pass  # it was never made, or the connection is gone


async def _gather(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all, some at a time; the first error ends the rest."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(coroutine: Coroutine[Any, Any, None]) -> None:
        async with slots:
            await coroutine

    tasks = [asyncio.create_task(one(coroutine)) for coroutine in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _found(work: Awaitable[Any]) -> Any:
    """The result, where a file that is missing is an error like any other."""
    try:
        return await work
    except OSError as error:
        raise ExecutorError(f"{error}.") from error
