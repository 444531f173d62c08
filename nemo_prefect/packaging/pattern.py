"""`PatternPackager`: files chosen by paths and glob patterns, with or without git."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import Field

from nemo_prefect.errors import PackagingError
from nemo_prefect.packaging.archive import Members, below, on_disk, packing, write
from nemo_prefect.packaging.base import Packager


class PatternPackager(Packager):
    """Packs the files that patterns name: a file, a directory with all that is in it, or a glob pattern.

    Symbolic links are packed as links. Files keep their permissions.
    """

    include_pattern: str | list[str] = Field(
        description="Files, directories or glob patterns to pack; relative ones start at the root of the code."
    )
    relative_path: str | list[str] = Field(
        description="For each pattern the directory that becomes the root of the archive; what it matches lies below it."
    )

    def package(self, path: Path, job_dir: str, name: str) -> str:
        """Pack what the patterns match.

        Args:
            path: the root of the user's code, where relative patterns start.
            job_dir: the directory to put the archive into; nothing in it is packed.
            name: the archive's name, without an ending.

        Returns:
            The path of ``<job_dir>/<name>.tar.gz``.

        Raises:
            PackagingError: a pattern matches nothing or something outside its directory, the two lists differ in length,
                or a file cannot be read.
        """
        with packing(f"{self.include_pattern!r}"):
            members = matching(self.include_pattern, self.relative_path, path, skip=[os.path.realpath(job_dir)])
            return write(members, job_dir, name)


def matching(
    patterns: str | Sequence[str], roots: str | Sequence[str], start: Path, *, skip: Collection[str], default_root: str = ""
) -> Members:
    """What `patterns` match, named relative to `roots`.

    Args:
        patterns: files, directories or glob patterns; an empty one matches nothing.
        roots: for each pattern the directory that becomes the archive's root; an empty one stands for `default_root`.
        start: where relative patterns and roots start.
        skip: resolved directories that are left out.
        default_root: the root where none is given; by default `start`.

    Raises:
        PackagingError: a pattern matches nothing or lies outside its root, or the lists differ in length.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    roots = [roots] if isinstance(roots, str) else roots
    if len(patterns) != len(roots):
        raise PackagingError(
            f"There are {len(patterns)} patterns to include but {len(roots)} relative paths.",
            hint="Give one relative path for each pattern.",
        )
    members: Members = {}
    for pattern, root in zip(patterns, roots, strict=True):
        if not pattern:
            continue
        base = os.path.abspath(os.path.join(start, root or default_root))
        found = _match(os.path.join(start, pattern), base, skip)
        if not found:
            raise PackagingError(f"The pattern {pattern!r} matches no file.", hint=f"It was looked for in {base}.")
        members.update(found)
    return members


def _match(pattern: str, root: str, skip: Collection[str]) -> Members:
    relative = _relative(pattern, root)
    # A name may look like a pattern: what is there is meant literally.
    exists = os.path.lexists(os.path.join(root, relative))
    names = [relative] if exists else glob.glob(relative, root_dir=root, recursive=True)
    members: Members = {}
    for name in names:
        for file in _walk(os.path.join(root, name), skip):
            if member := on_disk(file):
                members[os.path.relpath(file, root)] = member
    return members


def _relative(path: str, root: str) -> str:
    relative = os.path.relpath(path, root)
    if below(relative, ".."):  # perhaps only because one of them leads through a link, as /tmp does on macOS
        parent, name = os.path.split(os.path.abspath(path))
        relative = os.path.relpath(os.path.join(os.path.realpath(parent), name), os.path.realpath(root))
    if below(relative, ".."):
        raise PackagingError(
            f"{path} does not lie below {root}, so it has no place in the archive.",
            hint="Give the directory above it as its relative path.",
        )
    return relative


def _walk(path: str, skip: Collection[str]) -> list[str]:
    if os.path.islink(path) or not os.path.isdir(path):
        return [path]
    files: list[str] = []
    for directory, subdirectories, names in os.walk(path, onerror=_raise):
        if any(below(os.path.realpath(directory), other) for other in skip):
            subdirectories.clear()
            continue
        files += [os.path.join(directory, name) for name in names]
        files += [link for name in subdirectories if os.path.islink(link := os.path.join(directory, name))]
    return files


def _raise(error: OSError) -> None:
    raise error
