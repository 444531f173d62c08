"""One SSH connection to one login node, shared by all that the process does there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from nemo_prefect.errors import ConfigError, ExecutorError, NemoPrefectError, UnreachableError
from nemo_prefect.transport.known_hosts import DEFAULT_FILES, KnownHosts
from nemo_prefect.transport.loop import at_end

if TYPE_CHECKING:
    import asyncssh

T = TypeVar("T")

#: Seconds between two signs of life, and how many in a row may go unanswered.
KEEPALIVE = (15.0, 3)
#: Seconds for which a login node that refused us is not asked again: some lock out who asks too often.
REFUSED = 10.0
#: Seconds for which opening one more session is tried where the server allows fewer than we thought.
SESSION_WAIT = 30.0
#: Machines on the way to a machine.
_MAX_JUMPS = 8


def load_asyncssh() -> Any:
    """The module asyncssh.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import asyncssh
    except ImportError as error:
        raise ConfigError(
            "SSHTunnel needs asyncssh, which is not installed.", hint="Run `pip install 'nemo-prefect[ssh]'`."
        ) from error
    return asyncssh


class TookTooLong(Exception):
    """A command was ended because its time was up."""


@dataclass(frozen=True)
class Login:
    """All that says where to connect to, and as whom. Logins that are equal share a connection."""

    host: str
    user: str = ""
    port: int | None = None
    identity: str | None = None
    proxy_jump: str | None = None
    known_hosts: str | None = None
    config: str | None = None
    connect_timeout: float = 10.0
    max_sessions: int = 8
    password: str | None = None
    passphrase: str | None = None

    def __repr__(self) -> str:
        return f"Login({self})"

    def __str__(self) -> str:
        where = f"{self.host}:{self.port}" if self.port else self.host
        return f"{self.user}@{where}" if self.user else where


class Connection:
    """A connection that is made when it is first used, and made again when it was lost. Lives on the connections' loop."""

    def __init__(self, login: Login) -> None:
        self.login = login
        self._ssh: asyncssh.SSHClientConnection | None = None
        self._hops: list[asyncssh.SSHClientConnection] = []
        self._sftp: asyncssh.SFTPClient | None = None
        self._sftp_lock = asyncio.Lock()
        self._connecting: asyncio.Task[asyncssh.SSHClientConnection] | None = None
        self._slots = asyncio.Semaphore(login.max_sessions)
        self._refusal: tuple[float, NemoPrefectError] | None = None
        self.ask: Callable[[str], Awaitable[str]] | None = None
        self.has_rsync: bool | None = None

    # Being connected -------------------------------------------------------------------------------------------------

    async def ssh(self) -> asyncssh.SSHClientConnection:
        """The connection, made if need be. All who wait for it share one try."""
        if self._ssh is not None and not self._ssh.is_closed():
            return self._ssh
        if self._refusal and time.monotonic() < self._refusal[0] and self.ask is None:
            raise self._refusal[1]
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> asyncssh.SSHClientConnection:
        await self._drop()
        try:
            self._ssh = await self._reach(self.login.host, self.login.user, self.login.port, str(self.login))
        except NemoPrefectError as error:
            if not error.transient:
                self._refusal = (time.monotonic() + REFUSED, error)
            await self._drop()
            raise
        self._refusal = None
        return self._ssh

    async def _reach(
        self,
        host: str,
        user: str,
        port: int | None,
        name: str,
        *,
        depth: int = 0,
        through: asyncssh.SSHClientConnection | None = None,
    ) -> asyncssh.SSHClientConnection:
        """A connection to one machine, through `through`, or else through those that the configuration puts before it."""
        ssh_library, login = load_asyncssh(), self.login
        if login.config and not Path(login.config).expanduser().is_file():
            raise ConfigError(f"The SSH configuration {login.config} does not exist.", hint="Name another one, or none.")
        asked: dict[str, Any] = {
            "host": host,
            "config": [str(Path(login.config).expanduser())] if login.config else (),
            "ignore_encrypted": login.identity is None or bool(os.environ.get("SSH_AUTH_SOCK")),
            "passphrase": login.passphrase,
            "password": login.password if depth == 0 else None,
            "login_timeout": 180 if self.ask else max(30.0, login.connect_timeout),
            "connect_timeout": login.connect_timeout,
            "keepalive_interval": KEEPALIVE[0],
            "keepalive_count_max": KEEPALIVE[1],
            "agent_forwarding": False,
            "x11_forwarding": False,
        }
        if user:
            asked["username"] = user
        if port:
            asked["port"] = port
        if login.identity:
            asked["client_keys"] = [self._identity(login.identity)]
        with _explained(name, login, None):
            options = ssh_library.SSHClientConnectionOptions(**asked)
        # A configuration can say "none" here, which would mean to trust anyone.
        written = [str(f) for f in options.known_hosts] if isinstance(options.known_hosts, list) else []
        hosts = KnownHosts([login.known_hosts] if login.known_hosts else written or DEFAULT_FILES)
        if through is None:
            for hop in self._jumps(options.tunnel, depth):
                through = await self._hop(hop, depth + 1, through)
        client = _client_class(self.ask is not None)
        with _explained(name, login, hosts):
            try:
                ssh = await ssh_library.connect(
                    **asked, tunnel=through, known_hosts=hosts, client_factory=lambda: client(hosts, self.ask, name)
                )
            except (ssh_library.ConnectionLost, ssh_library.KeyExchangeFailed):
                # A machine that has no key of a kind that we know just hangs up. That is another machine, then.
                hosts.shown = await _shown_key(asked, through)
                if hosts.shown and hosts.known and hosts.shown not in hosts.known:
                    raise hosts.refusal(name) from None
                raise
        return cast("asyncssh.SSHClientConnection", ssh)

    def _jumps(self, configured: object, depth: int) -> list[str]:
        # The field speaks of the login node; for the machines before it their own configuration holds.
        jumps = (self.login.proxy_jump or configured) if depth == 0 else configured
        if not isinstance(jumps, str) or jumps in ("", "none"):
            return []
        if depth >= _MAX_JUMPS:
            raise ConfigError(f"The way to {self.login} jumps in a circle.", hint="Look at ProxyJump in ~/.ssh/config.")
        return [hop.strip() for hop in jumps.split(",")]

    async def _hop(self, hop: str, depth: int, through: asyncssh.SSHClientConnection | None) -> asyncssh.SSHClientConnection:
        user, _, where = hop.removeprefix("ssh://").rpartition("@")
        host, _, port = where.rpartition(":") if where.count(":") == 1 else (where, "", "")
        if not host or (port and not port.isdigit()):
            raise ConfigError(f"{hop!r} is no machine to jump through.", hint="Write user@host:port.")
        ssh = await self._reach(host, user, int(port) if port else None, hop, depth=depth, through=through)
        self._hops.append(ssh)
        return ssh

    @staticmethod
    def _identity(name: str) -> str:
        path = Path(name).expanduser()
        if not path.is_file() or not os.access(path, os.R_OK):
            what = "cannot be read" if path.exists() else "does not exist"
            raise ConfigError(f"The identity file {path} {what}.", hint="Name another one, or make one with ssh-keygen.")
        return str(path)

    async def _drop(self) -> None:
        """Close whatever is open."""
        sftp, ssh, hops = self._sftp, self._ssh, self._hops
        self._sftp, self._ssh, self._hops, self.has_rsync = None, None, [], None
        if sftp is not None:
            sftp.exit()
        for connection in [*([ssh] if ssh else []), *reversed(hops)]:
            connection.close()
            try:
                await asyncio.wait_for(connection.wait_closed(), 2.0)
            except (asyncio.TimeoutError, load_asyncssh().Error, OSError):
                connection.abort()

    async def close(self) -> None:
        """Close the connection; the next use makes a new one."""
        if self._connecting is not None and not self._connecting.done():
            self._connecting.cancel()
        self._refusal = None
        await self._drop()

    # Using it --------------------------------------------------------------------------------------------------------

    async def run(self, command: str, data: bytes | None, timeout: float | None) -> tuple[int, bytes, bytes]:
        """Run a line of shell; returns its exit code and what it wrote.

        Raises:
            ExecutorError: the connection was lost meanwhile, so that nobody knows what became of it (transient).
            UnreachableError: it was never sent.
            TookTooLong: it took longer than `timeout` seconds, and was ended.
        """
        asyncssh = load_asyncssh()
        async with self.session(command, stdin=asyncssh.DEVNULL if data is None else asyncssh.PIPE) as process:
            if data == b"":
                process.stdin.write_eof()
            talk = asyncio.ensure_future(process.communicate(data))
            try:  # (wait_for raises what a socket may raise as well.)
                if not (await asyncio.wait({talk}, timeout=timeout))[0]:
                    raise TookTooLong
            finally:
                talk.cancel()
            out, err = talk.result()
            return self.outcome(process), out, err

    def outcome(self, process: asyncssh.SSHClientProcess[bytes]) -> int:
        """The exit code of a process that is over.

        Raises:
            ExecutorError: it is over only as far as we can see.
        """
        if process.returncode is None:
            raise self.lost()
        return process.returncode

    @asynccontextmanager
    async def session(self, command: str, **kwargs: Any) -> AsyncIterator[asyncssh.SSHClientProcess[bytes]]:
        """A process there, one of at most `Login.max_sessions`; ended when the block is left before it is."""
        asyncssh = load_asyncssh()
        async with self._slots:
            process = await self._start(command, kwargs)
            try:
                yield process
            except (asyncssh.Error, OSError) as error:
                raise self.lost(error) from error
            finally:
                if process.returncode is None:
                    with contextlib.suppress(asyncssh.Error, OSError):
                        process.kill()
                process.close()

    async def _start(self, command: str, kwargs: dict[str, Any]) -> asyncssh.SSHClientProcess[bytes]:
        async def start(ssh: asyncssh.SSHClientConnection) -> asyncssh.SSHClientProcess[bytes]:
            return await ssh.create_process(command, encoding=None, **kwargs)

        return await self._open(start, self._release_sftp)

    async def _open(
        self,
        start: Callable[[asyncssh.SSHClientConnection], Awaitable[T]],
        make_room: Callable[[], Awaitable[None]],
    ) -> T:
        """A session of the connection, opened by `start`."""
        asyncssh = load_asyncssh()
        deadline, pause = time.monotonic() + SESSION_WAIT, 0.1
        while True:
            ssh = await self.ssh()
            try:
                return await start(ssh)
            except asyncssh.ChannelOpenError as error:
                # No session was opened, so nothing was run: the connection was lost before, or the server allows no more.
                if time.monotonic() > deadline:
                    raise UnreachableError(
                        f"{self.login} opens no more sessions: {error.reason}.", hint="Lower max_sessions of the tunnel."
                    ) from error
            except (asyncssh.Error, OSError) as error:
                raise self.lost(error) from error
            if not ssh.is_closed():
                await make_room()
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)

    def lost(self, error: Exception | None = None) -> ExecutorError:
        """The error that says that the connection is gone."""
        why = f": {error}" if error and str(error) else ""
        return ExecutorError(f"The connection to {self.login} was lost{why}.", transient=True)

    async def sftp(self, use: Callable[[asyncssh.SFTPClient], Awaitable[T]], doing: str, *, again: bool = True) -> T:
        """What `use` makes of the connection's SFTP client.

        Args:
            use: what to do; done a second time after the connection was lost on the way.
            doing: what that is, in words, for an error: ``read /a/b``.
            again: whether doing it twice is the same as doing it once.

        Raises:
            ExecutorError: it did not work.
            FileNotFoundError: there is no such file.
            FileExistsError: there is one already.
        """
        asyncssh = load_asyncssh()
        while True:
            client = await self._sftp_client()
            try:
                return await use(client)
            except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath) as error:
                raise FileNotFoundError(f"Could not {doing}: {error.reason}") from error
            except asyncssh.SFTPFileAlreadyExists as error:
                raise FileExistsError(f"Could not {doing}: {error.reason}") from error
            except (
                *(asyncssh.SFTPNoConnection, asyncssh.SFTPConnectionLost, asyncssh.DisconnectError),
                *(ConnectionError, TimeoutError),
            ) as error:
                self._sftp = None
                if not again:
                    raise self.lost(error) from error
                again = False
            except asyncssh.SFTPError as error:
                final = isinstance(error, asyncssh.SFTPPermissionDenied)
                raise ExecutorError(f"Could not {doing} on {self.login}: {error.reason}.", transient=not final) from error

    async def _sftp_client(self) -> asyncssh.SFTPClient:
        async def start(ssh: asyncssh.SSHClientConnection) -> asyncssh.SFTPClient:
            return await ssh.start_sftp_client(path_errors="surrogateescape")

        async def make_room() -> None:
            """Commands end by themselves."""

        async with self._sftp_lock:
            await self.ssh()  # (a new connection brings no SFTP client along)
            if self._sftp is None:
                self._sftp = await self._open(start, make_room)
            return self._sftp

    async def _release_sftp(self) -> None:
        """Give the session that SFTP holds back: on a server that allows one at a time it is the one that is missing."""
        async with self._sftp_lock:
            if self._sftp is not None:
                self._sftp.exit()
                self._sftp = None


async def _shown_key(asked: Mapping[str, Any], through: asyncssh.SSHClientConnection | None) -> Any:
    """The host key that a machine shows, for an error message; None where it shows none."""
    library = load_asyncssh()
    about = {name: asked[name] for name in ("host", "port", "config") if name in asked}
    try:
        return await asyncio.wait_for(library.get_server_host_key(**about, tunnel=through or ()), asked["connect_timeout"])
    except (library.Error, OSError, asyncio.TimeoutError, ValueError):
        return None


@contextlib.contextmanager
def _explained(name: str, login: Login, hosts: KnownHosts | None) -> Iterator[None]:
    """Say what is wrong with a way to a machine, and what to do about it."""
    asyncssh = load_asyncssh()
    try:
        yield
    except asyncssh.HostKeyNotVerifiable as error:
        raise (hosts or KnownHosts(DEFAULT_FILES)).refusal(name) from error
    except asyncssh.PermissionDenied as error:
        raise UnreachableError(
            f"{name} refused the login: {error.reason}.",
            hint=f"Check that `ssh {name}` works without a question asked, set the tunnel's user and identity, or load the "
            "key into ssh-agent.",
            transient=False,
        ) from error
    except asyncssh.KeyExchangeFailed as error:
        raise UnreachableError(f"{name} and this machine have no way to talk: {error.reason}.", transient=False) from error
    except (asyncssh.KeyEncryptionError, asyncssh.KeyImportError) as error:
        raise ConfigError(
            f"The identity file {login.identity} cannot be used: {error}.",
            hint="Run `pip install bcrypt`, or load the key into ssh-agent."
            if "bcrypt" in str(error)
            else "If it has a passphrase, load it into ssh-agent or set the tunnel's passphrase.",
        ) from error
    except asyncssh.ConfigParseError as error:
        raise ConfigError(
            f"The SSH configuration cannot be read: {error}.", hint="Correct it; ssh -G HOST shows it."
        ) from error
    except (asyncio.TimeoutError, TimeoutError) as error:
        raise UnreachableError(
            f"{name} does not answer within {login.connect_timeout:g} s.", hint="Is the network (a VPN) up?"
        ) from error
    except socket.gaierror as error:
        raise UnreachableError(
            f"There is no machine {name}: {error.strerror}.", hint="Is the network (a VPN) up?"
        ) from error
    except asyncssh.ChannelOpenError as error:
        raise UnreachableError(f"{name} cannot be reached from the machine before it: {error.reason}.") from error
    except OSError as error:
        raise UnreachableError(f"{name} cannot be reached: {os.strerror(error.errno) if error.errno else error}.") from error
    except asyncssh.Error as error:
        raise UnreachableError(f"{name} ended the connection: {error.reason}.") from error


@lru_cache(maxsize=2)
def _client_class(asks: bool) -> Any:
    base: Any = load_asyncssh().SSHClient

    class Client(base):  # type: ignore[misc]
        """Remembers the key of a machine that nobody knows."""

        def __init__(self, hosts: KnownHosts, ask: Callable[[str], Awaitable[str]] | None, name: str) -> None:
            self.hosts, self.ask, self.name, self.asked = hosts, ask, name, 0

        def validate_host_public_key(self, host: str, addr: str, port: int, key: Any) -> bool:
            self.hosts.shown = key
            return False

    class Asking(Client):
        """Asks whoever sits at the terminal."""

        async def password_auth_requested(self) -> str | None:
            self.asked += 1
            return await self.ask(f"Password for {self.name}: ") if self.ask and self.asked <= 3 else None

        def kbdint_auth_requested(self) -> str | None:
            self.asked += 1
            return "" if self.asked <= 3 else None

        async def kbdint_challenge_received(
            self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
        ) -> list[str] | None:
            return [await self.ask(f"{self.name}: {prompt}") for prompt, _ in prompts] if self.ask else None

    return Asking if asks else Client


_connections: dict[Login, Connection] = {}


def connection_for(login: Login) -> Connection:
    """The process's connection for this login. To be called on the connections' loop."""
    if login not in _connections:
        _connections[login] = Connection(login)
    return _connections[login]


async def _close_all() -> None:
    await asyncio.gather(*(connection.close() for connection in _connections.values()), return_exceptions=True)


at_end(_close_all)
os.register_at_fork(after_in_child=_connections.clear)
