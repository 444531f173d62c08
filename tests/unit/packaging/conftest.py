"""Git repositories and trees for the packagers' tests."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_IDENTITY = {f"GIT_{who}_{what}": "nobody@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
#: A file's content, or a link's target, and whether the file can be executed.
Tree = dict[str, tuple[bytes, bool] | str]


class Repo:
    """A repository to write files to and commit."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *args: str) -> str:
        command = ["git", "-c", "protocol.file.allow=always", *args]
        return subprocess.run(
            command, cwd=self.root, check=True, capture_output=True, text=True, errors="replace"
        ).stdout.strip()

    def file(self, name: str, text: str, mode: int = 0o644) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def commit(self, message: str = "more") -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def submodule(self, source: Repo, path: str) -> None:
        self.git("submodule", "--quiet", "add", str(source.root), path)
        self.git("submodule", "--quiet", "update", "--init", "--recursive")


@pytest.fixture(autouse=True, scope="module")
def own_git() -> Iterator[None]:
    """No configuration but the repository's own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("GIT_")]:
            patch.delenv(name)
        for name, value in {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **_IDENTITY}.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def new_repo() -> Callable[[Path], Repo]:
    """Makes a repository without a commit."""
    return Repo


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """A repository with one commit: ``train.py`` and ``pkg/model.py``."""
    repo = Repo(tmp_path / "repo")
    repo.file("train.py", "print('train')\n")
    repo.file("pkg/model.py", "layers = 2\n")
    repo.commit()
    return repo


@pytest.fixture
def jobs(tmp_path: Path) -> str:
    """A job's directory."""
    return str(tmp_path / "jobs")


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], Tree]:
    """Lists the files and links below a directory."""
    return _tree


@pytest.fixture(scope="session")
def unpack() -> Callable[[str], Tree]:
    """Lists what the system's own tar makes of an archive."""
    return _unpack


@pytest.fixture(scope="session")
def texts() -> Callable[[str], dict[str, str]]:
    """Reads the files of an archive: their content by name, in the order of the archive."""
    return _texts


def _tree(root: Path) -> Tree:
    found: Tree = {}
    for directory, directories, names in os.walk(root):
        directories[:] = [d for d in directories if d != ".git"]
        for path in (Path(directory, n) for n in [*names, *directories]):
            name = str(path.relative_to(root))
            if path.is_symlink():
                found[name] = os.readlink(path)
            elif path.is_file():
                found[name] = (path.read_bytes(), bool(path.stat().st_mode & stat.S_IXUSR))
    return found


def _unpack(archive: str) -> Tree:
    with tempfile.TemporaryDirectory() as into:
        subprocess.run(["tar", "-xzf", archive, "-C", into], check=True, capture_output=True)
        return _tree(Path(into))


def _texts(archive: str) -> dict[str, str]:
    with tarfile.open(archive) as tar:
        return {m.name: tar.extractfile(m).read().decode() for m in tar if m.isfile()}  # type: ignore[union-attr]
