"""A real sshd on loopback, for the tests of tunnels and of clusters behind one."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


class Sshd:
    """An sshd of its own, with a host key, a user's key that it lets in, and a file of known hosts that has it.

    Attributes:
        host: always 127.0.0.1.
        port: where it listens.
        folder: holds all its files.
        identity: the private key that it lets in.
        known_hosts: a known_hosts file with its key.
        log: what it says.
    """

    def __init__(self, folder: Path, extra: str = "") -> None:
        self.folder, self.host = folder, "127.0.0.1"
        self.user = getpass.getuser()
        self.identity, self.known_hosts, self.log = folder / "id", folder / "known_hosts", folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind((self.host, 0))
            self.port = probe.getsockname()[1]
        self.new_key(self.identity)
        shutil.copy(f"{self.identity}.pub", folder / "authorized_keys")
        self.new_host_key()
        self.configure(extra)
        self.start()

    def configure(self, extra: str = "") -> None:
        """Write its configuration, with more lines where wanted (first, so that they win)."""
        (self.folder / "sshd_config").write_text(
            f"""{extra}
            ListenAddress {self.host}
            Port {self.port}
            HostKey {self.folder}/host_key
            AuthorizedKeysFile {self.folder}/authorized_keys
            PidFile {self.folder}/pid
            PasswordAuthentication no
            KbdInteractiveAuthentication no
            PermitRootLogin prohibit-password
            StrictModes no
            UsePAM no
            MaxStartups 100
            LogLevel VERBOSE
            Subsystem sftp internal-sftp
            """
        )

    @staticmethod
    def new_key(path: Path, passphrase: str = "", kind: str = "ed25519", form: str = "RFC4716") -> None:
        """Make a key pair."""
        for old in (path, Path(f"{path}.pub")):
            old.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-m", form, "-N", passphrase, "-f", str(path)], check=True)

    def new_host_key(self, kind: str = "ed25519") -> None:
        """Give it another host key (`restart` lets it use that); `known_hosts` has it from then on."""
        self.new_key(self.folder / "host_key", kind=kind)
        public = (self.folder / "host_key.pub").read_text()
        self.known_hosts.write_text(f"[{self.host}]:{self.port} {public}")

    def start(self) -> None:
        """Start it, and wait until it listens."""
        if os.getuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        self.process = subprocess.Popen([SSHD, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.log)])
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((self.host, self.port)) == 0:
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"sshd does not start: {self.log.read_text()}")
            time.sleep(0.05)

    def sessions(self) -> list[psutil.Process]:
        """Its processes that serve a connection."""
        if self.process is None:
            return []
        return [p for p in psutil.Process(self.process.pid).children(recursive=True) if p.name().startswith("sshd")]

    def kill_sessions(self) -> int:
        """Cut every connection, as a login node does that goes down; returns how many processes there were."""
        killed = 0
        for process in self.sessions():
            try:
                process.send_signal(signal.SIGKILL)
                killed += 1
            except psutil.NoSuchProcess:
                pass
        return killed

    def stop(self) -> None:
        """Stop it, connections included."""
        if self.process is not None:
            self.kill_sessions()
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def restart(self) -> None:
        """Stop it and start it again on the same port."""
        self.stop()
        self.start()

    def logins(self) -> int:
        """How many logins there were."""
        return self.log.read_text().count("Accepted publickey for ")

    def login(self, **fields: Any) -> dict[str, Any]:
        """What an `SSHTunnel` needs to get in; `fields` come on top."""
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "identity": str(self.identity),
            "known_hosts": str(self.known_hosts),
            **fields,
        }


@pytest.fixture(scope="session")
def make_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Sshd]]:
    """Starts sshds: ``make_sshd("MaxSessions 2")``. Skips where none is installed."""
    if not os.path.exists(SSHD) or not shutil.which("ssh-keygen"):
        pytest.skip("no sshd here: apt-get install openssh-server")
    started: list[Sshd] = []

    def make(extra: str = "") -> Sshd:
        started.append(Sshd(tmp_path_factory.mktemp("sshd") / "server", extra))
        return started[-1]

    yield make
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def sshd(make_sshd: Callable[..., Sshd]) -> Sshd:
    """One sshd for all tests that leave it as it is."""
    return make_sshd()
