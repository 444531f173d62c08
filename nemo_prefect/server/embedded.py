"""The embedded Prefect server: started once in the background, found again by every process of the user.

Its record (address, password) is a file that only the user can read. The server holds a lock on a second file for as
long as it lives, which says more than a process id can: ids are used again, and on a shared home directory the server may
run on another host.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from nemo_prefect.errors import ServerError

#: Ports that are tried in turn before any free one is taken. (4200 is left to a server that the user starts.)
PORTS = range(4210, 4230)
#: Seconds that a server may take to answer: on a cold machine with a new database half a minute is usual.
START_TIMEOUT = 120.0

#: Prefect's own settings for the server. Batches make task runs appear at once: by default 500 of them lag by 15 s
#: (a flush interval below 1 is cut to 0 and spins).
SERVER_SETTINGS = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    # The second UI asks hosts on the internet for things, whatever the settings say.
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
}


@dataclass(frozen=True)
class Record:
    """How to reach the embedded server.

    Attributes:
        host: the host that it runs on.
        port: its port on that host's loopback.
        pid: its process id there.
        auth: ``user:password`` for Prefect's basic authentication.
    """

    host: str
    port: int
    pid: int
    auth: str

    @property
    def url(self) -> str:
        """The address of its UI."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        """The address of its API."""
        return f"{self.url}/api"


class EmbeddedServer:
    """The embedded server whose database lies in `home` (PREFECT_HOME, by default ``~/.prefect``)."""

    def __init__(self, home: str | os.PathLike[str] | None = None) -> None:
        self.home = Path(home or os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
        self.directory = self.home / "nemo_prefect"
        self.log = self.directory / "server.log"
        self._record = self.directory / "server.json"

    def find(self) -> Record | None:
        """The running server, whether or not it answers yet, or None.

        Raises:
            ServerError: it runs on another host, from where it cannot be reached.
        """
        if not self._alive():
            return None
        try:
            record = Record(**json.loads(self._record.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        if record.host != socket.gethostname():
            raise ServerError(
                f"Your Prefect server runs on {record.host}, and this is {socket.gethostname()}.",
                hint="Work there, or stop it there (nemo-prefect server stop), or set PREFECT_API_URL to a server that "
                "both hosts reach.",
            )
        return record

    def start(self) -> Record:
        """The running server; one is started where none runs. Returns once it answers.

        Raises:
            ServerError: it does not come up; the message shows the end of its log.
        """
        if (record := self.find()) and healthy(record):
            return record
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked("start.lock"):  # of two starters one starts, the other waits here and finds it
            record = self.find() or self._spawn()
            self._wait(record)
        return record

    def stop(self) -> bool:
        """End the server; False where none runs.

        Raises:
            ServerError: it does not end within ten seconds.
        """
        record = self.find()
        if record is None:
            return False
        os.kill(record.pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while self._alive():
            if time.monotonic() > deadline:
                raise ServerError(f"The server (process {record.pid}) does not end.", hint=f"Try kill -9 {record.pid}.")
            time.sleep(0.05)
        self._record.unlink(missing_ok=True)
        return True

    def _spawn(self) -> Record:
        listener = _listen()
        record = Record(
            host=socket.gethostname(),
            port=listener.getsockname()[1],
            pid=0,
            auth=self._password(),
        )
        life = os.open(self.directory / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(life, fcntl.LOCK_EX)
        env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("NEMO_PREFECT_")},
            **SERVER_SETTINGS,
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": record.api_url,
            "PREFECT_SERVER_UI_API_URL": record.api_url,
            "PREFECT_SERVER_API_AUTH_STRING": record.auth,
            "PREFECT_API_AUTH_STRING": record.auth,
        }
        with open(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "nemo_prefect.server.app", str(listener.fileno())],
                env=env,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # It inherits the lock with the descriptor, and the listening socket: from now on callers can connect.
                pass_fds=(listener.fileno(), life),
            )
        process.returncode = 0  # it is meant to outlive this process: no warning that it still runs
        os.close(life)
        listener.close()
        record = Record(record.host, record.port, process.pid, record.auth)
        temporary = self._record.with_suffix(f".{os.getpid()}.tmp")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            json.dump(asdict(record), out)
        temporary.replace(self._record)
        return record

    def _password(self) -> str:
        """``user:password``, the same at every start, so that browsers stay signed in."""
        file = self.directory / "password"
        try:
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(f"{_user()}:{secrets.token_urlsafe(24)}")
        except FileExistsError:
            pass
        return file.read_text()

    def _wait(self, record: Record) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not healthy(record, timeout=max(1.0, deadline - time.monotonic())):
            if not self._alive() or time.monotonic() > deadline:
                said = self.log.read_text(errors="replace").strip().splitlines()[-8:] if self.log.exists() else []
                raise ServerError(
                    "The embedded Prefect server did not come up:\n  " + "\n  ".join(said or ["(its log is empty)"]),
                    hint=f"Its log is {self.log}; `nemo-prefect doctor` checks the installation.",
                )
            time.sleep(0.05)

    def _alive(self) -> bool:
        try:
            descriptor = os.open(self.directory / "server.lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        descriptor = os.open(self.directory / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def healthy(record: Record, timeout: float = 5.0) -> bool:
    """Whether the server answers within `timeout` seconds. (One that is starting holds the question until it is up.)"""
    request = http.client.HTTPConnection("127.0.0.1", record.port, timeout=timeout)
    try:
        request.request("GET", "/api/health")
        return request.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        request.close()


def _listen() -> socket.socket:
    for port in (*PORTS, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            listener.close()
            continue
        listener.listen(512)
        return listener
    raise ServerError("No port on 127.0.0.1 is free.", hint="Set PREFECT_API_URL to a server elsewhere.")


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "me"
