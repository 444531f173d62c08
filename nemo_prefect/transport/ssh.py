"""The cluster behind a login node that SSH leads to."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import Field, FieldSerializationInfo, SecretStr, field_serializer, field_validator

from nemo_prefect._async import run_sync
from nemo_prefect.errors import ConfigError, ExecutorError
from nemo_prefect.shell import exports, join
from nemo_prefect.transport import remote_files
from nemo_prefect.transport.base import READ_LIMIT, CommandResult, Entry, Tunnel, check_argv, timed_out
from nemo_prefect.transport.connection import Connection, Login, TookTooLong, connection_for, load_asyncssh
from nemo_prefect.transport.loop import on_connection_loop

T = TypeVar("T")


class SSHTunnel(Tunnel):
    """Runs a cluster's commands on its login node, over SSH.

    What ``~/.ssh/config`` says of the host holds, as it does for ``ssh``; fields that are set here come first. Keys come
    from `identity`, the configuration, ``ssh-agent`` or ``~/.ssh``. Host keys are always verified. All tunnels of a process
    with the same login share one connection, which is made again when it was lost.

    Example:
        ```python
        from nemo_prefect import SSHTunnel

        tunnel = SSHTunnel(host="login.cluster", user="me", job_dir="/lustre/me/jobs")
        tunnel.run("sinfo").stdout
        ```
    """

    host: str = Field(description="The login node: a name, an address, or a Host of ~/.ssh/config.")
    user: str = Field(default="", description="The user there; by default what ~/.ssh/config says, or yours.")
    port: int | None = Field(default=None, ge=1, le=65535, description="The port; else that of ~/.ssh/config, or 22.")
    identity: str | None = Field(default=None, description="The file of the private key.")
    shell: str | None = Field(default=None, description="The shell for commands there, such as `bash -l`.")
    pre_command: str | None = Field(default=None, description="What to run before each command: `module load slurm`.")
    proxy_jump: str | None = Field(default=None, description="Machines to go through: user@host:port,…")
    known_hosts: str | None = Field(default=None, description="The host keys to trust, instead of ~/.ssh/known_hosts.")
    config_file: str | None = Field(default=None, description="The SSH configuration, instead of ~/.ssh/config.")
    connect_timeout: float = Field(default=10.0, gt=0, description="How long a machine may take to answer, in seconds.")
    max_sessions: int = Field(default=8, ge=1, description="Commands at a time; sshd allows 10 sessions by default.")
    use_rsync: bool = Field(default=True, description="Copy by rsync where both ends have it, else by SFTP.")
    password: SecretStr | None = Field(default=None, description="The password, where no key will do.")
    passphrase: SecretStr | None = Field(default=None, description="The passphrase of the private key.")

    @field_validator("job_dir")
    @classmethod
    def _check_job_dir(cls, value: str) -> str:
        if value and not value.startswith("/"):
            raise ConfigError(
                f"The job_dir {value!r} of an SSHTunnel is no absolute path.", hint="Write it out as the cluster sees it."
            )
        return value

    @field_validator("host", "user")
    @classmethod
    def _check_words(cls, value: str) -> str:
        if value != value.strip() or any(c.isspace() or not c.isprintable() for c in value) or value.startswith("-"):
            raise ConfigError(f"{value!r} is no name of a machine or a user.", hint="Remove what does not belong to it.")
        return value

    @field_validator("host")
    @classmethod
    def _check_host(cls, value: str) -> str:
        if not value:
            raise ConfigError("An SSHTunnel needs a host.", hint="Name the cluster's login node.")
        return value

    @field_serializer("password", "passphrase")
    def _write_secret(self, value: SecretStr | None, info: FieldSerializationInfo) -> Any:
        shown = bool(info.context and info.context.get("include_secrets"))
        if value is None or (info.mode == "python" and not shown):
            return value
        return value.get_secret_value() if shown else str(value)

    @property
    def key(self) -> str:
        return str(self._login())

    def directory_for(self, experiment_dir: Path) -> str:
        if not self.job_dir:
            raise ConfigError("An SSHTunnel needs a job_dir.", hint="Name a directory that the cluster's nodes all see.")
        return str(PurePosixPath(self.job_dir, experiment_dir.parent.name, experiment_dir.name))

    # The contract ----------------------------------------------------------------------------------------------------

    async def run_command(
        self,
        argv: Sequence[str],
        *,
        input: bytes | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> CommandResult:
        check_argv(argv)
        line, data = self._line(argv), input
        if env:
            # Over stdin, since the line shows in the login node's process list. (dd reads no byte too many.)
            settings = exports(env).encode(errors="surrogateescape")
            line = f'eval "$(dd bs=1 count={len(settings)} 2>/dev/null)" && {line}'
            data = settings + (input or b"")
        if self.shell:
            line = join([*shlex.split(self.shell), "-c", line])
        try:
            code, out, err = await self._with(lambda connection: connection.run(line, data, timeout))
        except TookTooLong:
            raise timed_out(argv, timeout or 0) from None
        return CommandResult(code, out.decode(errors="replace"), err.decode(errors="replace"))

    def _line(self, argv: Sequence[str]) -> str:
        """A line for the login shell. What `pre_command` says does not get into the command's output."""
        return f"{{ {self.pre_command}\n}} >&2 && {join(argv)}" if self.pre_command else join(argv)

    async def upload(self, local_dir: Path, remote_dir: str, *, exclude: Sequence[str] = ()) -> None:
        await self._with(lambda c: remote_files.upload(c, Path(local_dir).absolute(), remote_dir, exclude, self._rsync()))

    async def download(self, remote_dir: str, local_dir: Path, *, exclude: Sequence[str] = ()) -> None:
        await self._with(lambda c: remote_files.download(c, remote_dir, Path(local_dir).absolute(), exclude, self._rsync()))

    def _rsync(self) -> Callable[[Sequence[str]], str] | None:
        return self._line if self.use_rsync else None

    async def write_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        await self._with(lambda connection: remote_files.write_file(connection, path, data, mode))

    async def read_file(self, path: str, offset: int = 0, limit: int | None = None) -> bytes | None:
        return await self._with(lambda connection: remote_files.read_file(connection, path, offset, limit))

    async def read_many(self, requests: Mapping[str, int], limit: int = READ_LIMIT) -> dict[str, bytes]:
        return await self._with(lambda connection: remote_files.read_many(connection, requests, limit))

    async def list_dir(self, path: str) -> list[Entry]:
        return await self._with(lambda connection: remote_files.list_dir(connection, path))

    async def exists(self, path: str) -> bool:
        return await self._with(lambda c: c.sftp(lambda sftp: sftp.exists(path), f"look at {path}"))

    async def mkdir(self, path: str, *, exist_ok: bool = True) -> None:
        await self._with(lambda connection: remote_files.make_dir(connection, path, exist_ok))

    async def remove_tree(self, path: str) -> None:
        if not path.strip("/"):
            raise ConfigError(f"{path!r} is not to be removed.", hint="Name a directory below it.")
        _, _, err = result = await self._with(lambda c: c.run(join(["rm", "-rf", "--", path]), None, None))
        if result[0]:
            raise ExecutorError(f"Could not remove {path} on {self.key}: {err.decode(errors='replace').strip()}.")

    async def open(self) -> None:
        async def connect(connection: Connection) -> None:
            await connection.ssh()

        await self._with(connect)

    async def close(self) -> None:
        await self._with(lambda connection: connection.close())

    async def copy_in(self, local_path: str, remote_path: str) -> None:
        if os.path.isdir(local_path):
            await self.upload(Path(local_path), remote_path)
        else:
            await self._with(lambda connection: remote_files.copy_in(connection, local_path, remote_path))

    async def copy_out(self, remote_path: str, local_path: str) -> None:
        await self._with(lambda connection: remote_files.copy_out(connection, remote_path, local_path, self._rsync()))

    def connect(self) -> None:
        """Connect, where this is not done yet. At a terminal, passwords and one-time codes are asked for.

        Raises:
            UnreachableError: it does not work; the message says why.
        """

        async def connect(connection: Connection) -> None:
            connection.ask = _ask if sys.stdin.isatty() and sys.stderr.isatty() else None
            try:
                await connection.ssh()
            finally:
                connection.ask = None

        run_sync(self._with(connect))

    # The connection --------------------------------------------------------------------------------------------------

    def _login(self) -> Login:
        return Login(
            host=self.host,
            user=self.user,
            port=self.port,
            identity=self.identity,
            proxy_jump=self.proxy_jump,
            known_hosts=self.known_hosts,
            config=self.config_file,
            connect_timeout=self.connect_timeout,
            max_sessions=self.max_sessions,
            password=self.password.get_secret_value() if self.password else None,
            passphrase=self.passphrase.get_secret_value() if self.passphrase else None,
        )

    async def _with(self, use: Callable[[Connection], Awaitable[T]]) -> T:
        """What `use` makes of the connection, on the connections' loop."""
        load_asyncssh()

        async def work() -> T:
            return await use(connection_for(self._login()))

        return await on_connection_loop(work())


async def _ask(prompt: str) -> str:
    from getpass import getpass

    return await asyncio.to_thread(getpass, prompt)
