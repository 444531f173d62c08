"""The way to a cluster: run commands there, bring files there and back. One contract for this machine and for others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from pydantic import Field

from nemo_prefect._async import run_sync
from nemo_prefect.errors import ConfigError, ExecutorError
from nemo_prefect.polymorphic import Polymorphic
from nemo_prefect.shell import join

#: Bytes that `read_many` brings of one file at most.
READ_LIMIT = 1 << 20


@dataclass(frozen=True)
class CommandResult:
    """How a command ended.

    Attributes:
        exit_code: its exit code; ``-N`` where the signal N ended it.
        stdout: what it wrote, decoded as UTF-8 (what is none is replaced).
        stderr: likewise.
    """

    exit_code: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0

    @property
    def failed(self) -> bool:
        """Whether the exit code is not 0."""
        return not self.ok

    @property
    def return_code(self) -> int:
        """The exit code, as NeMo-Run's results name it."""
        return self.exit_code

    @property
    def exited(self) -> int:
        """The exit code, as NeMo-Run's results name it."""
        return self.exit_code


@dataclass(frozen=True)
class Entry:
    """One entry of a directory.

    Attributes:
        name: its name, without the directory.
        kind: ``file``, ``dir``, ``link`` or ``other``.
        size: bytes.
        mtime: when it was last written, in seconds since the epoch.
    """

    name: str
    kind: str
    size: int
    mtime: float


class Tunnel(Polymorphic):
    """The way to a cluster's login node.

    The asynchronous methods are the contract with executors; `connect`, `run`, `put`, `get`, `setup` and `cleanup` are
    NeMo-Run's. Every method raises `ExecutorError` when the way there is barred: ``transient`` says whether it may be open
    again later (a dropped connection, a login node that does not answer), or never will be (a host key that changed). A
    `run_command` that raises a transient error may or may not have run the command.
    """

    #: Whether commands run, and files lie, on this machine.
    is_local: ClassVar[bool] = False

    job_dir: str = Field(default="", description="The directory on the cluster below which experiments get theirs.")
    packaging_jobs: dict[str, Any] = Field(
        default_factory=dict, description="Accepted for NeMo-Run's sake; what is packed follows from the packager."
    )

    @property
    @abstractmethod
    def key(self) -> str:
        """Names the machine that this leads to: tunnels of one key see the same scheduler."""

    def directory_for(self, experiment_dir: Path) -> str:
        """Where the experiment's directory is (to be) on the cluster: ``<job_dir>/<title>/<id>``."""
        return str(PurePosixPath(self.job_dir, experiment_dir.parent.name, experiment_dir.name))

    # The contract with executors -------------------------------------------------------------------------------------

    @abstractmethod
    async def run_command(
        self,
        argv: Sequence[str],
        *,
        input: bytes | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> CommandResult:
        """Run a command to its end. No shell looks at its arguments.

        Args:
            argv: the program and its arguments.
            input: what it reads from stdin; nothing by default.
            timeout: seconds after which it is ended and a transient error raised.
            env: variables on top of those it has anyway. They appear in no process list.

        Raises:
            ExecutorError: it could not be run, or it is not known how it ended (``transient``).
            ConfigError: an argument holds a NUL byte, or a variable cannot be set.
        """

    @abstractmethod
    async def upload(self, local_dir: Path, remote_dir: str, *, exclude: Sequence[str] = ()) -> None:
        """Make `remote_dir` hold what `local_dir` holds: files with their modes and times, links as links. What is there
        already and the same is not sent again; what is only there stays. No file is ever seen half-written.

        Args:
            local_dir: a directory on this machine.
            remote_dir: an absolute path; made where it is missing.
            exclude: shell patterns of what to leave out: of names, or, where they hold a slash, of paths from `local_dir`.

        Raises:
            ExecutorError: something could not be written.
        """

    @abstractmethod
    async def download(self, remote_dir: str, local_dir: Path, *, exclude: Sequence[str] = ()) -> None:
        """`upload` the other way round. A `remote_dir` that does not exist brings nothing."""

    @abstractmethod
    async def write_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file in one step (a temporary one, renamed), with exactly this mode; makes its directory."""

    @abstractmethod
    async def read_file(self, path: str, offset: int = 0, limit: int | None = None) -> bytes | None:
        """A file's content from `offset` on, at most `limit` bytes; None where there is no such file."""

    @abstractmethod
    async def read_many(self, requests: Mapping[str, int], limit: int = READ_LIMIT) -> dict[str, bytes]:
        """What many growing files hold past an offset of each, in as few round trips as one file takes.

        Args:
            requests: an offset in bytes for each path.
            limit: bytes of each file at most. Ask again from the new offset where this much came.

        Returns:
            The bytes by path; files that do not exist are left out, those that did not grow give ``b""``.
        """

    @abstractmethod
    async def list_dir(self, path: str) -> list[Entry]:
        """The entries of a directory by name, without ``.`` and ``..``; none where there is no such directory."""

    @abstractmethod
    async def exists(self, path: str) -> bool:
        """Whether there is such a file or directory."""

    @abstractmethod
    async def mkdir(self, path: str, *, exist_ok: bool = True) -> None:
        """Make a directory and those above it.

        Raises:
            ExecutorError: it cannot be made, or exists and `exist_ok` is false (then nothing has changed).
        """

    @abstractmethod
    async def remove_tree(self, path: str) -> None:
        """Remove a file or a directory with all it holds. Links are removed, not followed; a missing path is fine."""

    @abstractmethod
    async def open(self) -> None:
        """Connect, where this is not done yet; other methods do so by themselves."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connection that tunnels to this machine share. The next call opens a new one."""

    @abstractmethod
    async def copy_in(self, local_path: str, remote_path: str) -> None:
        """Bring one file or one directory there."""

    @abstractmethod
    async def copy_out(self, remote_path: str, local_path: str) -> None:
        """Bring one file or one directory here."""

    # NeMo-Run's names ------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect, where this is not done yet.

        Raises:
            ExecutorError: it does not work; the message says why.
        """
        run_sync(self.open())

    def run(self, command: str, hide: bool = True, warn: bool = False, **kwargs: Any) -> CommandResult:
        """Run a shell command.

        Args:
            command: a line for ``bash``.
            hide: accepted for NeMo-Run's sake; nothing is printed in any case.
            warn: return the result of a command that fails, in place of raising.
            **kwargs: ``timeout`` in seconds, ``env``; others are accepted for NeMo-Run's sake and have no effect.

        Raises:
            ExecutorError: the command failed, and `warn` is false.
        """
        timeout, env = kwargs.get("timeout"), kwargs.get("env")
        result = run_sync(self.run_command(["bash", "-c", command], timeout=timeout, env=env))
        if result.failed and not warn:
            raise command_failed(command, result)
        return result

    def put(self, local_path: str, remote_path: str) -> None:
        """Bring a file or a directory there."""
        run_sync(self.copy_in(local_path, remote_path))

    def get(self, remote_path: str, local_path: str) -> None:
        """Bring a file or a directory here."""
        run_sync(self.copy_out(remote_path, local_path))

    def setup(self) -> None:
        """Make `job_dir`."""
        if self.job_dir:
            run_sync(self.mkdir(self.job_dir))

    def cleanup(self) -> None:
        """Close the connection. The next call opens a new one."""
        run_sync(self.close())


def command_failed(command: str | Sequence[str], result: CommandResult) -> ExecutorError:
    """The error that says that a command failed, in its own words."""
    line = command if isinstance(command, str) else join(command)
    said = (result.stderr.strip() or result.stdout.strip() or "no message")[-2000:]
    return ExecutorError(f"`{line[:300]}` ended with exit code {result.exit_code}: {said}")


async def check(tunnel: Tunnel, argv: Sequence[str], **kwargs: Any) -> CommandResult:
    """`Tunnel.run_command`, and raise where it fails.

    Raises:
        ExecutorError: it failed, or could not be run.
    """
    result = await tunnel.run_command(argv, **kwargs)
    if result.failed:
        raise command_failed(argv, result)
    return result


def timed_out(argv: Sequence[str], timeout: float) -> ExecutorError:
    """The error that says that a command took too long."""
    return ExecutorError(f"`{join(argv)[:300]}` did not end within {timeout:g} s.", transient=True)


def check_argv(argv: Sequence[str]) -> None:
    """Refuse what no process can be given.

    Raises:
        ConfigError: there is no program, or an argument is no text or holds a NUL byte.
    """
    if not argv:
        raise ConfigError("There is no command to run.", hint="Give a program and its arguments.")
    for word in argv:
        if not isinstance(word, str) or "\0" in word:
            raise ConfigError(f"{word!r} cannot be an argument of a command.", hint="Pass text without NUL bytes.")
