"""`GitArchivePackager`: the files that git tracks, as they are."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from nemo_prefect.errors import PackagingError
from nemo_prefect.home import experiments_dir
from nemo_prefect.packaging.archive import (
    Member,
    Members,
    below,
    from_tar,
    inside,
    on_disk,
    packing,
    provenance_file,
    replacing,
    scratch_file,
    write,
)
from nemo_prefect.packaging.base import Packager
from nemo_prefect.packaging.pattern import matching
from nemo_prefect.packaging.repository import Repository

logger = logging.getLogger(__name__)
_HEAD = "HEAD"


class GitArchivePackager(Packager):
    """Packs a git repository: for HEAD the tracked files as they are in the working tree, for another ref its commit.

    What git's attribute export-ignore excludes stays out. Beside the archive, ``<name>.provenance.json`` records the commit,
    whether there were uncommitted changes, and which, for the repository and each of its submodules. Submodules outside the
    subpath are packed too, as NeMo-Run does, under their path from the top of the repository.
    """

    basepath: str = Field(default="", description="A directory in the repository to pack, in place of the current one's.")
    subpath: str = Field(
        default="", description="A directory, relative to the top of the repository, that becomes the root of the archive."
    )
    ref: str = Field(default=_HEAD, description="The branch, tag or commit to pack.")
    include_submodules: bool = Field(default=True, description="Pack the submodules that are checked out as well.")
    include_pattern: str | list[str] = Field(
        default="", description="Further files, directories or glob patterns to pack, tracked or not."
    )
    include_pattern_relative_path: str | list[str] = Field(
        default="",
        description="For each pattern the directory that stands for the root of the archive; by default the repository's.",
    )
    check_uncommitted_changes: bool = Field(default=False, description="Refuse to pack where tracked files were changed.")
    check_untracked_files: bool = Field(default=False, description="Refuse to pack where there are untracked files.")
    include_untracked: bool = Field(
        default=False, description="With ref HEAD, pack the files that are neither tracked nor ignored, too."
    )

    def package(self, path: Path, job_dir: str, name: str) -> str:
        """Pack the repository that `path` is in.

        Args:
            path: a directory in the repository; relative patterns start there.
            job_dir: the directory to put the archive into; untracked files in it are no part of the repository.
            name: the archive's name, without an ending.

        Returns:
            The path of ``<job_dir>/<name>.tar.gz``.

        Raises:
            PackagingError: there is no repository, ref, subpath or match of a pattern, a check refuses, or there is nothing
                to pack.
        """
        start = Path(os.path.abspath(path))
        repository = Repository.containing(start / self.basepath)
        commit = repository.commit(self.ref)
        scope = inside(self.subpath)
        skip = [os.path.realpath(job_dir), os.path.realpath(experiments_dir())]
        self._check(repository, skip)
        with ExitStack() as stack, packing(repository.root):
            os.makedirs(job_dir, exist_ok=True)
            snapshot = _Snapshot(self, stack, job_dir, skip)
            tracked, provenance = snapshot.take(repository, commit, scope)
            wanted = {file.removeprefix(scope).lstrip("/"): m for file, m in tracked.items() if below(file, scope)}
            if scope and (not wanted or "" in wanted):
                raise PackagingError(
                    f"{repository.root} has no directory {self.subpath!r} with files in it at the ref {self.ref}.",
                    hint="It is relative to the top of the repository; untracked and export-ignored files do not count.",
                )
            elsewhere = {file: member for file, member in tracked.items() if not below(file, scope)}
            members = {file: _as_git(member) for file, member in {**elsewhere, **wanted}.items()}
            extra, roots = self.include_pattern, self.include_pattern_relative_path
            members.update(matching(extra, roots, start, skip=skip, default_root=repository.root))
            archive = write(members, job_dir, name)
            with replacing(provenance_file(job_dir, name)) as out:
                out.write(json.dumps({"root": repository.root, "ref": self.ref, **provenance}, indent=1).encode())
            return archive

    def _check(self, repository: Repository, skip: list[str]) -> None:
        if self.check_uncommitted_changes:
            if names := self._in_all(repository, lambda one: one.changes(_HEAD)):
                raise PackagingError(
                    f"{repository.root} has uncommitted changes: {_listed(names)}.",
                    hint="Commit or stash them, or set check_uncommitted_changes=False.",
                )
        if self.check_untracked_files:
            if names := self._in_all(repository, lambda one: _untracked(one, skip)):
                raise PackagingError(
                    f"{repository.root} has untracked files: {_listed(names)}.",
                    hint="Add them to git or to .gitignore, or set check_untracked_files=False.",
                )

    def _in_all(self, repository: Repository, what: Callable[[Repository], Iterable[str]]) -> list[str]:
        names = list(what(repository))
        for path in repository.submodules() if self.include_submodules else ():
            if submodule := repository.submodule(path):
                names += [f"{path}/{name}" for name in self._in_all(submodule, what)]
        return names


class _Snapshot:
    """Collects the files of a repository and of what it contains.

    Args:
        options: what to collect.
        stack: closes what is opened, once the archive is written.
        scratch: the directory for temporary files.
        skip: resolved directories whose untracked files are left out.
    """

    def __init__(self, options: GitArchivePackager, stack: ExitStack, scratch: str, skip: list[str]) -> None:
        self.options = options
        self.stack = stack
        self.scratch = scratch
        self.skip = skip
        self.live = options.ref == _HEAD

    def take(self, repository: Repository, commit: str, scope: str) -> tuple[Members, dict[str, Any]]:
        """The files below `scope` and in submodules, named from the repository's top, and the record of their origin."""
        members: Members = {}
        record: dict[str, Any] = {"commit": commit, "dirty": False, "diff": "", "untracked": [], "submodules": {}}
        if repository.holds_directory(commit, scope):
            tar = scratch_file(self.scratch, self.stack)
            repository.archive(commit, scope, tar, worktree_attributes=self.live)
            members = from_tar(tar, self.stack)
        nested = repository.submodules(None if self.live else commit) if self.options.include_submodules else {}
        if self.live:
            changes = {path: how for path, how in repository.changes(commit).items() if below(path, scope)}
            found = _untracked(repository, self.skip) if self.options.include_untracked else []
            untracked = [path for path in found if below(path.rstrip("/"), scope) or below(scope, path.rstrip("/"))]
            nested.update({path.rstrip("/"): _HEAD for path in untracked if path.endswith("/")})
            self._overlay(members, repository, changes, untracked)
            record["dirty"] = bool(changes or untracked)
            record["diff"] = repository.diff(commit, scope) if changes else ""
            record["untracked"] = untracked
        for path, recorded in sorted(nested.items()):
            submodule = repository.submodule(path)
            if submodule is None:
                logger.warning("The submodule %s is not checked out, so it is not packed.", path)
                continue
            rest = scope.removeprefix(path).lstrip("/") if below(scope, path) else ""
            at = submodule.commit(_HEAD if self.live else recorded)
            files, origin = self.take(submodule, at, rest)
            members.update({f"{path}/{file}": member for file, member in files.items()})
            record["submodules"][path] = origin
            record["dirty"] = record["dirty"] or origin["dirty"]
        return members, record

    def _overlay(self, members: Members, repository: Repository, changes: dict[str, str], untracked: list[str]) -> None:
        """Replace what the commit holds by what is in the working tree."""
        present = [path for path, how in changes.items() if how != "D"] + [p for p in untracked if not p.endswith("/")]
        ignored = repository.export_ignored(present)
        for path in changes:
            members.pop(path, None)
        for path in present:
            file = os.path.join(repository.root, path)
            if path not in ignored and os.path.lexists(file) and (member := on_disk(file)):
                members[path] = member


def _as_git(member: Member) -> Member:
    """The permissions that git knows: whether a file can be executed."""
    return member if member.link else replace(member, mode=0o755 if member.mode & 0o100 else 0o644)


def _untracked(repository: Repository, skip: list[str]) -> list[str]:
    root = os.path.realpath(repository.root)
    return [p for p in repository.untracked() if not any(below(os.path.join(root, p), other) for other in skip)]


def _listed(names: list[str], limit: int = 10) -> str:
    shown = ", ".join(repr(name) if not name.isprintable() else name for name in sorted(names)[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
