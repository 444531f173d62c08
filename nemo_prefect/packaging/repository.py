"""What git knows of a working tree. Asks only: nothing in the tree, the index or the repository is written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from nemo_prefect.errors import PackagingError

# Set where we run from a git hook: they would turn every question to that repository and its temporary index.
_HOOK_ENV = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")
_GITLINK = b"160000"
# Whatever the user's configuration says, a diff is one that `git apply` takes.
_DIFF = (
    "diff",
    "--no-renames",
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--submodule=short",
    "--ignore-submodules=dirty",
)


class Repository:
    """One working tree.

    Args:
        root: its top directory.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    @classmethod
    def containing(cls, path: Path) -> Repository:
        """The working tree that `path` is in.

        Raises:
            PackagingError: it is in none, or git refuses to work there.
        """
        top = cls(str(path))._ask(
            ["rev-parse", "--show-toplevel"],
            f"{path} cannot be packed with git",
            "Run from a git repository, set the packager's basepath to one, or use run.PatternPackager.",
        )
        return cls(_lines(top, b"\n")[0])

    def commit(self, ref: str) -> str:
        """The commit that `ref` names.

        Raises:
            PackagingError: there is none.
        """
        hint = "Give a branch, a tag or a commit that is in this clone."
        if not ref or ref.startswith("-"):  # git would take it for an option
            raise PackagingError(f"{ref!r} cannot be a git ref.", hint=hint)
        question = ["rev-parse", "--verify", f"{ref}^{{commit}}"]
        return self._ask(question, f"{self.root} has no git ref {ref!r}", hint).decode().strip()

    def holds_directory(self, commit: str, path: str) -> bool:
        """Whether `path` is a directory in that commit."""
        return self._run(["cat-file", "-t", f"{commit}:{path}"]).stdout.strip() == b"tree"

    def archive(self, commit: str, path: str, out: IO[bytes], *, worktree_attributes: bool) -> None:
        """Write a tar file of the files below `path` in that commit, as a checkout would give them.

        Args:
            commit: the commit.
            path: a directory that it holds; "" for all.
            out: where to.
            worktree_attributes: take attributes (such as export-ignore) from the working tree, not from the commit.
        """
        options = ["--worktree-attributes"] if worktree_attributes else []
        only = ["--", path] if path else []
        # Not the commit: its id would be written into the archive, and tarfile cannot read that where no file follows.
        tree = f"{commit}^{{tree}}"
        self._ask(["archive", "--format=tar", *options, tree, *only], f"{self.root} cannot be packed", out=out)

    def changes(self, commit: str) -> dict[str, str]:
        """The tracked files that differ from that commit, with git's letter for how: D, A, M, T or U."""
        fields = _lines(self._ask([*_DIFF, "--name-status", "-z", commit, "--"], f"{self.root} cannot be compared"))
        return dict(zip(fields[1::2], fields[::2], strict=True))

    def diff(self, commit: str, path: str) -> str:
        """The patch from that commit to the tracked files below `path`; bytes that are no UTF-8 as lone surrogates."""
        only = [path] if path else []
        prefixes = ["--src-prefix=a/", "--dst-prefix=b/"]
        patch = self._ask([*_DIFF, "--binary", "--full-index", *prefixes, commit, "--", *only], f"{self.root} has no diff")
        return patch.decode("utf-8", "surrogateescape")

    def untracked(self) -> list[str]:
        """The files that are neither tracked nor ignored; a repository among them by its name and a slash."""
        return _lines(self._ask(["ls-files", "--others", "--exclude-standard", "-z"], f"{self.root} cannot be listed"))

    def submodules(self, commit: str | None = None) -> dict[str, str]:
        """The submodules and their recorded commits: those of that commit, or of the index."""
        listing = ["ls-tree", "-r", "-z", "--full-tree", commit] if commit else ["ls-files", "--stage", "-z"]
        found: dict[str, str] = {}
        for line in self._ask(listing, f"{self.root} cannot be listed").split(b"\0"):
            if line.startswith(_GITLINK):
                info, _, path = line.partition(b"\t")
                found[os.fsdecode(path)] = info.split()[2 if commit else 1].decode()
        return found

    def submodule(self, path: str) -> Repository | None:
        """The submodule at `path`, if it is checked out."""
        root = os.path.join(self.root, path)
        return Repository(root) if os.path.lexists(os.path.join(root, ".git")) else None

    def export_ignored(self, paths: Iterable[str]) -> set[str]:
        """Those of `paths` that the attribute export-ignore, their own or a directory's, keeps out of archives."""
        above = {path: [path[: i + 1] for i, char in enumerate(path) if char == "/"] for path in paths}
        names = sorted({name for path, parents in above.items() for name in (path, *parents)})
        if not names:
            return set()
        text = b"".join(os.fsencode(name) + b"\0" for name in names)
        question = ["check-attr", "-z", "--stdin", "export-ignore"]
        fields = _lines(self._ask(question, f"{self.root} cannot be read", stdin=text))
        ignored = {name for name, value in zip(fields[::3], fields[2::3], strict=True) if value == "set"}
        return {path for path, parents in above.items() if ignored.intersection((path, *parents))}

    def _ask(
        self, args: Sequence[str], problem: str, hint: str = "", *, stdin: bytes = b"", out: IO[bytes] | None = None
    ) -> bytes:
        done = self._run(args, stdin, out)
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip() or f"git ended with exit code {done.returncode}"
            raise PackagingError(f"{problem}: {words}", hint=hint or "Check the repository with git status.")
        return done.stdout or b""

    def _run(
        self, args: Sequence[str], stdin: bytes = b"", out: IO[bytes] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        env = {name: value for name, value in os.environ.items() if name not in _HOOK_ENV}
        env["GIT_OPTIONAL_LOCKS"] = "0"  # don't refresh the index on disk: the user may be committing
        argv = ["git", "--literal-pathspecs", "-C", self.root, *args]
        try:
            return subprocess.run(argv, input=stdin, stdout=out or subprocess.PIPE, stderr=subprocess.PIPE, env=env)
        except FileNotFoundError as error:
            raise PackagingError("git is not installed.", hint="Install it, or use run.PatternPackager.") from error


def _lines(output: bytes, end: bytes = b"\0") -> list[str]:
    return [os.fsdecode(line) for line in output.removesuffix(end).split(end)] if output else []
