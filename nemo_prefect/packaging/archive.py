"""Archives that are the same bytes for the same content, whoever packs them, where and when.

An archive is a mapping of names to `Member`. Names are POSIX paths below the archive's root, as ``os.fsdecode`` gives
them, so that those that are no UTF-8 survive too.
"""

from __future__ import annotations

import gzip
import os
import posixpath
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from nemo_prefect.errors import PackagingError

#: 1980-01-02 in UTC. Zip files, and so wheels built from the unpacked code, know no time before 1980 in any time zone.
MTIME = 315619200


@dataclass(frozen=True)
class Member:
    """A file, or a symbolic link.

    Args:
        mode: its permissions.
        link: where the link points to; "" for a file.
        open: opens the file's content, which can be sought in.
    """

    mode: int
    link: str = ""
    open: Callable[[], IO[bytes]] | None = None


Members = dict[str, Member]


def on_disk(path: str) -> Member | None:
    """The member for a file or link on disk; None for what cannot travel: directories, sockets and the like.

    Raises:
        OSError: there is no such file.
    """
    info = os.lstat(path)
    if stat.S_ISLNK(info.st_mode):
        return Member(0o777, link=os.readlink(path))
    if stat.S_ISREG(info.st_mode):
        return Member(stat.S_IMODE(info.st_mode) & 0o777, open=lambda: open(path, "rb"))
    return None


def from_tar(stream: IO[bytes], stack: ExitStack) -> Members:
    """The files and links of a tar file.

    Args:
        stream: an uncompressed tar file, which must stay open as long as the members are used.
        stack: closes what is opened here.

    Raises:
        PackagingError: a member lies outside the archive's root.
    """
    stream.seek(0)
    tar = stack.enter_context(tarfile.open(fileobj=stream, mode="r:"))  # noqa: SIM115 (the stack closes it)
    members: Members = {}
    for info in tar:
        if info.issym():
            members[inside(info.name)] = Member(0o777, link=info.linkname)
        elif info.isreg() or info.islnk():
            members[inside(info.name)] = Member(info.mode & 0o777, open=_opener(tar, info))
    return members


def from_archive(path: str, stack: ExitStack) -> Members:
    """The files and links of a ``.tar.gz`` file.

    Raises:
        PackagingError: a member lies outside the archive's root.
    """
    plain = scratch_file(os.path.dirname(path), stack)  # to seek in: gzip would start over
    with gzip.open(path) as packed:
        shutil.copyfileobj(packed, plain)
    return from_tar(plain, stack)


def scratch_file(directory: str, stack: ExitStack) -> IO[bytes]:
    """A file in `directory` that has no name and is gone when `stack` closes."""
    return stack.enter_context(tempfile.TemporaryFile(dir=directory))


def below(path: str, root: str) -> bool:
    """Whether `path` is `root` or in it, both written alike; everything is below ""."""
    return not root or path == root or path.startswith(root.rstrip("/") + "/")


def inside(name: str) -> str:
    """`name` without ``.`` and doubled slashes; "" for the root itself.

    Raises:
        PackagingError: it is absolute or leads out of the root.
    """
    normal = posixpath.normpath(name) if name else "."
    if posixpath.isabs(normal) or below(normal, ".."):
        raise PackagingError(f"{name!r} lies outside the root of the archive.", hint="Use a path relative to and below it.")
    return "" if normal == "." else normal


def write(members: Mapping[str, Member], job_dir: str, name: str) -> str:
    """Write ``<job_dir>/<name>.tar.gz``, which is there whole or as it was before, and readable by its owner only.

    Returns:
        The archive's path.

    Raises:
        PackagingError: there are no members, or one lies below a file or link.
    """
    if not members:
        raise PackagingError("There is nothing to pack.", hint="Check the packager's paths and patterns.")
    for member in members:
        parent = posixpath.dirname(member)
        while parent:
            if parent in members:
                raise PackagingError(
                    f"{member!r} cannot be packed below {parent!r}, which is a file or a link.",
                    hint="Two of the packed sources disagree about that path: leave one out.",
                )
            parent = posixpath.dirname(parent)
    target = _target(job_dir, name, ".tar.gz")
    with (
        replacing(target) as out,
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=out, mtime=0) as packed,
        # GNU's format stores names as the bytes they are, and the tar of small images (busybox) reads it.
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for member in sorted(members, key=os.fsencode):
            _add(tar, member, members[member])
    return str(target)


def provenance_file(job_dir: str, name: str) -> Path:
    """Where the origin of the archive `name` is written down."""
    return _target(job_dir, name, ".provenance.json")


@contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """A new private file that takes the place of `target` once it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name[:100]}.", suffix=".tmp", dir=target.parent)
    try:
        with open(descriptor, "wb") as out:
            yield out
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


@contextmanager
def packing(what: str) -> Iterator[None]:
    """Tell of files that cannot be read or written as `PackagingError`.

    Args:
        what: what is being packed, for the message.
    """
    try:
        yield
    except (OSError, EOFError, tarfile.TarError) as error:
        raise PackagingError(
            f"{what} cannot be packed: {error}.", hint="Check that the files can be read and that the disk has room."
        ) from error


def _target(job_dir: str, name: str, ending: str) -> Path:
    return Path(os.path.join(job_dir, name + ending))


def _opener(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    return lambda: cast(IO[bytes], tar.extractfile(info))  # never None for a file or a hard link


def _add(tar: tarfile.TarFile, name: str, member: Member) -> None:
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = member.mode, MTIME
    if member.open is None:
        info.type, info.linkname = tarfile.SYMTYPE, member.link
        tar.addfile(info)
        return
    with member.open() as content:
        info.size = content.seek(0, os.SEEK_END)
        content.seek(0)
        tar.addfile(info, content)
