"""Whether a machine is the one that it says it is: host keys are always verified, whatever a configuration file says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_prefect.errors import UnreachableError
from nemo_prefect.shell import join

#: Where OpenSSH looks unless its configuration says otherwise.
DEFAULT_FILES = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")


@dataclass
class KnownHosts:
    """The keys of known machines, and what came of looking for one machine's.

    Attributes:
        files: where to look, in OpenSSH's format. Files that do not exist are passed over.
        known: the keys that are written there for the machine.
        shown: the key that it showed and that is none of them.
    """

    files: Sequence[str]
    known: Sequence[Any] = ()
    shown: Any = None
    host: str = ""
    port: int | None = None
    _found: list[str] = field(default_factory=list)

    def __call__(self, host: str, addr: str, port: int | None) -> Any:
        """The keys to trust for a machine, as asyncssh asks for them."""
        from asyncssh import SSHKnownHosts

        hosts = SSHKnownHosts()
        for name in self.files:
            path = Path(name).expanduser()
            try:
                lines = path.read_text(errors="replace").splitlines()
            except (FileNotFoundError, IsADirectoryError, PermissionError, NotADirectoryError):
                continue
            self._found.append(str(path))
            for line in lines:
                try:
                    hosts.load(line)
                except ValueError:
                    continue  # as OpenSSH does
        found = hosts.match(host, addr, port)
        self.known, self.host, self.port = [*found[0], *found[1]], host, port
        return found

    def refusal(self, name: str) -> UnreachableError:
        """The error that says why the machine, which the user calls `name`, is not trusted."""
        file = self._found[0] if self._found else os.path.expanduser(self.files[0])
        entry = f"[{self.host}]:{self.port}" if self.port else self.host
        shown = f" It shows {self.shown.get_algorithm()} {self.shown.get_fingerprint()}." if self.shown else ""
        if self.known:
            return UnreachableError(
                f"The host key of {name} is not the one in {file}: either the machine was set up anew, or somebody else "
                f"answers in its place.{shown}",
                hint="Ask its administrators for the fingerprint. If the new key is right, remove the old one with "
                f"`{join(['ssh-keygen', '-f', file, '-R', entry])}`, log in once with ssh and confirm the new one.",
                transient=False,
            )
        where = join(["ssh", *(["-p", str(self.port)] if self.port else []), self.host])
        return UnreachableError(
            f"The host key of {name} is in none of {', '.join(self.files)}, so nothing says that it is the right machine."
            f"{shown}",
            hint=f"Log in once with `{where}` and confirm the fingerprint, or set known_hosts to a file that has the key.",
            transient=False,
        )
