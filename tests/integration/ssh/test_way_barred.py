"""What bars the way to a login node is said in words, within seconds, and never gets around the host key."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_prefect.errors import ConfigError, UnreachableError
from nemo_prefect.transport import CommandResult, SSHTunnel


def run(tunnel: SSHTunnel, *argv: str) -> CommandResult:
    return asyncio.run(tunnel.run_command(argv or ["true"]))


def test_an_unknown_host_key(sshd: Any, tmp_path: Path) -> None:
    empty = tmp_path / "known hosts"
    tunnel = SSHTunnel(**sshd.login(known_hosts=str(empty)))
    for content in (
        None,
        "",
        "other.host ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBSnbmNRsMPM7WHBqKbcpG8zMmmjsF4tjVHvqFQKDkcq\nnonsense\n",
    ):
        if content is not None:
            empty.write_text(content)
        with pytest.raises(UnreachableError, match="is in none of") as caught:
            run(tunnel)
        assert not caught.value.transient
        assert str(empty) in str(caught.value)
        assert f"ssh -p {sshd.port} 127.0.0.1" in caught.value.hint
        assert "SHA256:" in str(caught.value)
        asyncio.run(tunnel.close())


@pytest.mark.parametrize("line", ["StrictHostKeyChecking no\nUserKnownHostsFile /dev/null", "UserKnownHostsFile none"])
def test_no_configuration_switches_host_keys_off(sshd: Any, tmp_path: Path, line: str) -> None:
    (tmp_path / "config").write_text(f"Host *\n{line}\n")
    tunnel = SSHTunnel(**sshd.login(known_hosts=None, config_file=str(tmp_path / "config")))
    with pytest.raises(UnreachableError, match="host key of"):
        run(tunnel)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_a_changed_host_key(make_sshd: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    server = make_sshd()
    old = tmp_path / "known_hosts"
    shutil.copy(server.known_hosts, old)
    tunnel = SSHTunnel(**server.login(known_hosts=str(old)))
    assert run(tunnel).ok
    server.new_host_key(kind=kind)
    server.restart()
    for _ in range(20):  # a server that has just been started may still turn a first caller away
        with pytest.raises(UnreachableError) as caught:
            run(tunnel)
        if "Connection reset" not in str(caught.value):
            break
        time.sleep(0.5)
    assert "is not the one in" in str(caught.value)
    assert not caught.value.transient
    assert str(old) in str(caught.value)
    assert f"ssh-keygen -f {old} -R '[127.0.0.1]:{server.port}'" in caught.value.hint
    shutil.copy(server.known_hosts, old)  # as the hint says
    asyncio.run(tunnel.close())
    assert run(tunnel).ok


def test_a_key_that_is_not_let_in(sshd: Any, tmp_path: Path) -> None:
    sshd.new_key(tmp_path / "other")
    tunnel = SSHTunnel(**sshd.login(identity=str(tmp_path / "other")))
    with pytest.raises(UnreachableError, match="refused the login") as caught:
        run(tunnel)
    assert not caught.value.transient
    assert "identity" in caught.value.hint
    before = sshd.log.read_text().count("Connection from")
    with pytest.raises(UnreachableError, match="refused the login"):
        run(tunnel)
    assert sshd.log.read_text().count("Connection from") == before, "who was refused does not knock again at once"
    with pytest.raises(UnreachableError, match="refused the login"):
        tunnel.connect()


def test_identities_that_cannot_be_used(sshd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(ConfigError, match="does not exist"):
        run(SSHTunnel(**sshd.login(identity=str(tmp_path / "none"))))
    (tmp_path / "text").write_text("no key")
    with pytest.raises(ConfigError, match="cannot be used"):
        run(SSHTunnel(**sshd.login(identity=str(tmp_path / "text"))))
    locked = tmp_path / "locked"
    sshd.new_key(locked, passphrase="open sesame", kind="rsa", form="PEM")  # (OpenSSH's own form needs bcrypt)
    with (sshd.folder / "authorized_keys").open("a") as keys:
        keys.write(Path(f"{locked}.pub").read_text())
    with pytest.raises(ConfigError, match="passphrase"):
        run(SSHTunnel(**sshd.login(identity=str(locked))))
    with pytest.raises(ConfigError, match="cannot be used"):
        run(SSHTunnel(**sshd.login(identity=str(locked), passphrase="wrong")))
    assert run(SSHTunnel(**sshd.login(identity=str(locked), passphrase="open sesame"))).ok


def test_nobody_listens(sshd: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening
        tunnel = SSHTunnel(**sshd.login(port=taken.getsockname()[1]))
        with pytest.raises(UnreachableError, match=r"cannot be reached.*refused") as caught:
            run(tunnel)
    assert caught.value.transient


def test_somebody_listens_and_says_nothing(sshd: Any) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(UnreachableError, match=r"does not answer within 1.5 s") as caught:
            run(SSHTunnel(**sshd.login(port=silent.getsockname()[1], connect_timeout=1.5)))
    assert caught.value.transient
    assert time.monotonic() - began < 60


def test_somebody_listens_who_speaks_no_ssh(sshd: Any) -> None:
    async def story() -> None:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(UnreachableError, match=r"ended the connection|reset by peer"):
                await SSHTunnel(**sshd.login(port=port)).run_command(["true"])

    asyncio.run(story())


def test_a_name_that_nobody_has(sshd: Any) -> None:
    with pytest.raises(UnreachableError, match=r"no machine .*no-such-host.invalid") as caught:
        run(SSHTunnel(**sshd.login(host="no-such-host.invalid")))
    assert caught.value.transient


def test_configuration_files_that_cannot_be_used(sshd: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        run(SSHTunnel(**sshd.login(config_file=str(tmp_path / "none"))))
    (tmp_path / "config").write_text("Port many\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        run(SSHTunnel(**sshd.login(config_file=str(tmp_path / "config"))))


def test_what_may_not_be_written_is_said(sshd: Any, tmp_path: Path) -> None:
    from nemo_prefect.errors import ExecutorError

    (tmp_path / "file").write_text("in the way")
    tunnel = SSHTunnel(**sshd.login())
    for work in (
        tunnel.write_file(str(tmp_path / "file" / "below"), b"x"),
        tunnel.mkdir(str(tmp_path / "file" / "below")),
        tunnel.upload(Path(__file__).parent, str(tmp_path / "file" / "below")),
        tunnel.copy_out(str(tmp_path / "none"), str(tmp_path / "here")),
    ):
        with pytest.raises(ExecutorError, match="Could not "):
            asyncio.run(work)
    assert os.listdir(tmp_path) == ["file"]
