"""What a copy of a directory is made of, for the ways of copying that do it themselves."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path


def is_excluded(path: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns means this path (relative to the tree's root), as rsync understands them."""
    parts = path.split("/")
    for pattern in patterns:
        wanted = pattern.strip("/").split("/")
        if "/" not in pattern.rstrip("/"):
            if fnmatchcase(parts[-1], wanted[0]):
                return True
        elif len(wanted) == len(parts) and all(fnmatchcase(p, w) for p, w in zip(parts, wanted, strict=True)):
            return True
    return False


def rsync_pattern(pattern: str) -> str:
    """The same pattern for ``rsync --exclude``, which takes one with a slash as a path only if it begins with one."""
    bare = pattern.strip("/")
    return f"/{bare}" if "/" in pattern.rstrip("/") else bare


def walk(root: Path, exclude: Sequence[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every entry below `root` with its path from there, directories before what they hold; links are not followed."""
    stack = [""]
    while stack:
        folder = stack.pop()
        with os.scandir(root / folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                path = f"{folder}/{entry.name}" if folder else entry.name
                if is_excluded(path, exclude):
                    continue
                yield path, entry
                if entry.is_dir(follow_symlinks=False):
                    stack.append(path)


def kind_of(mode: int) -> str:
    """What an entry of this ``st_mode`` is: ``file``, ``dir``, ``link`` or ``other``."""
    for is_one, kind in ((stat.S_ISREG, "file"), (stat.S_ISDIR, "dir"), (stat.S_ISLNK, "link")):
        if is_one(mode):
            return kind
    return "other"
