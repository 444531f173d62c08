"""One connection for all that a process does on a login node, whatever becomes of it."""

from __future__ import annotations

import asyncio
import os
import pty
import pwd
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nemo_prefect.transport.connection as connection_module
from nemo_prefect.errors import ExecutorError, UnreachableError
from nemo_prefect.testing.tunnels import make_tree, snapshot
from nemo_prefect.transport import SSHTunnel, rsync


@pytest.fixture
def server(make_sshd: Callable[..., Any]) -> Iterator[Any]:
    """An sshd of the test's own."""
    server = make_sshd()
    yield server
    server.stop()


def echo(tunnel: SSHTunnel, text: str = "hello") -> str:
    return asyncio.run(tunnel.run_command(["echo", text])).stdout.strip()


def until_it_works(call: Callable[[], Any]) -> Any:
    """Its result, once no transient error comes in its place: what is under way when a connection drops may say so."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return call()
        except ExecutorError as error:
            if not error.transient or time.monotonic() > deadline:
                raise


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])), max_size=5))
def test_any_words_arrive_unchanged(sshd: Any, words: list[str]) -> None:
    env = {f"WORD_{i}": word for i, word in enumerate(words)}
    show = 'printf "%s\\0" "$@"; ' + "".join(f'printf "%s\\0" "$WORD_{i}"; ' for i in range(len(words)))

    async def story() -> None:
        result = await SSHTunnel(**sshd.login()).run_command(["sh", "-c", show, "sh", *words], env=env)
        # (Without words printf still prints once.)
        assert result.stdout.split("\0")[:-1] == (words + words if words else [""])

    asyncio.run(story())


def test_one_login_for_many_commands_loops_and_tunnels(server: Any) -> None:
    async def story() -> None:
        tunnels = [SSHTunnel(**server.login(job_dir=f"/jobs/{i}")) for i in range(50)]
        results = await asyncio.gather(
            *(tunnel.run_command(["sh", "-c", f"sleep 0.1; echo {i}"]) for i, tunnel in enumerate(tunnels))
        )
        assert [r.stdout for r in results] == [f"{i}\n" for i in range(50)]

    asyncio.run(story())
    asyncio.run(story())
    tunnel = SSHTunnel(**server.login())
    assert tunnel.run("echo sync").stdout == "sync\n"
    assert tunnel.key == f"{server.user}@127.0.0.1:{server.port}"
    assert server.logins() == 1
    tunnel.cleanup()
    assert tunnel.run("echo sync").stdout == "sync\n"
    assert server.logins() == 2


def test_a_server_that_allows_one_session_at_a_time(make_sshd: Callable[..., Any], tmp_path: Path) -> None:
    server = make_sshd("MaxSessions 1")
    tunnel = SSHTunnel(**server.login())

    async def story() -> None:
        await tunnel.write_file(str(tmp_path / "file"), b"x")
        results = await asyncio.gather(*(tunnel.run_command(["echo", str(i)]) for i in range(6)))
        assert [r.stdout for r in results] == [f"{i}\n" for i in range(6)]
        assert await tunnel.read_file(str(tmp_path / "file")) == b"x"

    asyncio.run(story())
    server.stop()


def test_a_connection_that_drops_between_two_commands_is_made_again(server: Any, tmp_path: Path) -> None:
    tunnel = SSHTunnel(**server.login())
    assert echo(tunnel) == "hello"
    asyncio.run(tunnel.write_file(str(tmp_path / "file"), b"content"))
    assert server.kill_sessions()
    assert until_it_works(lambda: echo(tunnel)) == "hello"
    assert server.kill_sessions()
    assert asyncio.run(tunnel.read_file(str(tmp_path / "file"))) == b"content"


def test_a_connection_that_drops_under_a_command_says_so(server: Any, tmp_path: Path) -> None:
    tunnel = SSHTunnel(**server.login())

    async def story() -> None:
        running = asyncio.create_task(tunnel.run_command(["sh", "-c", f"touch '{tmp_path}/began'; sleep 600"]))
        while not (tmp_path / "began").exists():
            await asyncio.sleep(0.02)
        assert server.kill_sessions()
        with pytest.raises(ExecutorError, match="was lost") as caught:
            await running
        assert caught.value.transient
        assert not isinstance(caught.value, UnreachableError), "it was sent, so it may have run"
        assert (await tunnel.run_command(["echo", "again"])).stdout == "again\n"

    asyncio.run(story())


def test_a_login_node_that_is_away_for_a_while(server: Any) -> None:
    tunnel = SSHTunnel(**server.login())
    assert echo(tunnel) == "hello"
    server.stop()
    for _ in range(3):
        with pytest.raises(ExecutorError) as caught:
            echo(tunnel)
        assert caught.value.transient
    server.start()
    assert echo(tunnel) == "hello"


def test_a_connection_that_only_looks_alive_is_found_out(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "KEEPALIVE", (0.5, 2))
    tunnel = SSHTunnel(**server.login())

    async def story() -> None:
        running = asyncio.create_task(tunnel.run_command(["sh", "-c", f"touch '{tmp_path}/began'; sleep 600"]))
        while not (tmp_path / "began").exists():
            await asyncio.sleep(0.02)
        frozen = server.sessions()
        for process in frozen:
            process.suspend()  # as a network that swallows packets
        try:
            with pytest.raises(ExecutorError, match="was lost") as caught:
                await asyncio.wait_for(running, 60)
            assert caught.value.transient
            assert (await tunnel.run_command(["echo", "again"])).stdout == "again\n"
        finally:
            for process in frozen:
                process.kill()

    asyncio.run(story())


def test_what_is_cancelled_or_too_slow_ends_on_the_other_side(server: Any) -> None:
    user = server.user
    if os.getuid() == 0:  # whose commands sshd does not signal
        ordinary = [a.pw_name for a in pwd.getpwall() if a.pw_uid and a.pw_shell in ("/bin/bash", "/bin/sh")]
        if not ordinary:
            pytest.skip("no account but root's: useradd -m somebody")
        user = ordinary[0]
        keys = f"AuthorizedKeysCommand /bin/cat {server.folder}/authorized_keys\nAuthorizedKeysCommandUser root"
        server.configure(f"{keys}\nUsePAM yes")
        server.restart()
    tunnel = SSHTunnel(**server.login(user=user))

    async def story() -> None:
        with pytest.raises(ExecutorError, match="did not end within"):
            await tunnel.run_command(["sleep", "987654"], timeout=0.5)
        running = asyncio.create_task(tunnel.run_command(["sleep", "987655"]))
        while not sleeping("987655"):
            await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        deadline = time.monotonic() + 60
        while sleeping("987654") or sleeping("987655"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)

    asyncio.run(story())


def sleeping(seconds: str) -> bool:
    return any(p.info["cmdline"] == ["sleep", seconds] for p in psutil.process_iter(["cmdline"]))


def test_values_of_variables_are_in_no_process_list(server: Any, tmp_path: Path) -> None:
    secret = f"hunter2-{os.getpid()}"
    for fields in ({}, {"shell": "bash --norc"}, {"pre_command": "true"}):
        tunnel = SSHTunnel(**server.login(**fields))

        async def story(tunnel: SSHTunnel = tunnel) -> None:
            look = 'echo "$TOKEN"; for f in /proc/[0-9]*/cmdline; do tr "\\0" " " < "$f"; done 2>/dev/null'
            result = await tunnel.run_command(["sh", "-c", look], env={"TOKEN": secret})
            assert result.stdout.count(secret) == 1
            assert "sshd" in result.stdout

        asyncio.run(story())


def test_through_other_machines(make_sshd: Callable[..., Any], server: Any, tmp_path: Path) -> None:
    first, second = make_sshd(), make_sshd()
    known = tmp_path / "known_hosts"
    for machine in (first, second):
        with (machine.folder / "authorized_keys").open("a") as keys:
            keys.write(Path(f"{server.identity}.pub").read_text())
    jumps = f"{first.user}@127.0.0.1:{first.port},{second.user}@127.0.0.1:{second.port}"
    tunnel = SSHTunnel(**server.login(proxy_jump=jumps, known_hosts=str(known)))
    known.write_text(server.known_hosts.read_text() + first.known_hosts.read_text())
    with pytest.raises(UnreachableError, match=f"host key of .*:{second.port} is in none"):
        echo(tunnel)
    asyncio.run(tunnel.close())
    known.write_text(known.read_text() + second.known_hosts.read_text())
    assert echo(tunnel) == "hello"
    assert (first.logins(), second.logins(), server.logins()) == (2, 1, 1)
    assert first.kill_sessions()
    assert until_it_works(lambda: echo(tunnel)) == "hello"
    second.stop()
    for _ in range(2):
        with pytest.raises(ExecutorError) as caught:
            echo(tunnel)
        assert caught.value.transient
    first.stop()


def test_what_the_configuration_says_of_a_host_holds(make_sshd: Callable[..., Any], server: Any, tmp_path: Path) -> None:
    door = make_sshd()
    config = tmp_path / "config"
    config.write_text(
        f"""
        Host cluster
            HostName 127.0.0.1
            Port {server.port}
            User {server.user}
            IdentityFile {server.identity}
            UserKnownHostsFile {server.known_hosts}
            ProxyJump door
        Host door
            HostName 127.0.0.1
            Port {door.port}
            User {door.user}
            IdentityFile {door.identity}
            UserKnownHostsFile {door.known_hosts}
        Host loop
            HostName 127.0.0.1
            ProxyJump loop
        """
    )
    tunnel = SSHTunnel(host="cluster", config_file=str(config))
    assert echo(tunnel) == "hello"
    assert (door.logins(), server.logins()) == (1, 1)
    make_tree(tmp_path / "tree")
    asyncio.run(tunnel.upload(tmp_path / "tree", str(tmp_path / "copy")))
    assert snapshot(tmp_path / "copy") == snapshot(tmp_path / "tree")
    with pytest.raises(Exception, match="in a circle"):
        echo(SSHTunnel(host="loop", config_file=str(config)))
    door.stop()


def test_a_key_in_the_agent(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():
            time.sleep(0.02)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        subprocess.run(["ssh-add", "-q", str(server.identity)], check=True)
        assert echo(SSHTunnel(**server.login(identity=None))) == "hello"
        # A key with a passphrase that only the agent knows is named by its file all the same.
        locked = tmp_path / "locked"
        server.new_key(locked, passphrase="open sesame")
        with (server.folder / "authorized_keys").open("a") as keys:
            keys.write(Path(f"{locked}.pub").read_text())
        ask = tmp_path / "ask"
        ask.write_text("#!/bin/sh\necho open sesame\n")
        ask.chmod(0o700)
        subprocess.run(
            ["ssh-add", "-q", str(locked)],
            check=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"},
        )
        assert echo(SSHTunnel(**server.login(identity=str(locked)))) == "hello"
    finally:
        agent.terminate()
        agent.wait()


def test_directories_go_by_rsync_where_both_ends_have_it(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[bool] = []
    original = rsync.rsync

    async def watched(*args: Any) -> bool:
        done.append(await original(*args))
        return done[-1]

    monkeypatch.setattr("nemo_prefect.transport.remote_files.rsync", watched)
    make_tree(tmp_path / "tree")
    remote = tmp_path / "co py[1]*"
    tunnel = SSHTunnel(**server.login())
    asyncio.run(tunnel.upload(tmp_path / "tree", str(remote)))
    (tmp_path / "co py1x").mkdir()  # which the name of the other means as a pattern
    (tmp_path / "co py1x" / "stray").touch()
    asyncio.run(tunnel.download(str(remote), tmp_path / "back"))
    assert done == [True, True]
    assert snapshot(tmp_path / "tree") == snapshot(remote) == snapshot(tmp_path / "back")
    monkeypatch.setenv("PATH", "/nowhere")
    asyncio.run(tunnel.upload(tmp_path / "tree", str(tmp_path / "again")))
    assert done == [True, True, False]
    assert snapshot(tmp_path / "tree") == snapshot(tmp_path / "again")


def test_a_copy_gives_its_session_back(server: Any, tmp_path: Path) -> None:
    tunnel = SSHTunnel(**server.login(max_sessions=1))
    make_tree(tmp_path / "tree")

    async def story() -> None:
        for i in range(4):
            await tunnel.upload(tmp_path / "tree", str(tmp_path / f"copy{i}"))
            await tunnel.download(str(tmp_path / f"copy{i}"), tmp_path / f"back{i}")
            assert (await asyncio.wait_for(tunnel.run_command(["echo", "free"]), 60)).stdout == "free\n"

    asyncio.run(story())
    assert snapshot(tmp_path / "back3") == snapshot(tmp_path / "tree")


def test_an_rsync_that_fails_is_no_failure(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "rsync").write_text("#!/bin/sh\necho this rsync is broken >&2\nexit 12\n")
    (tmp_path / "bin" / "rsync").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    make_tree(tmp_path / "tree")
    asyncio.run(SSHTunnel(**server.login()).upload(tmp_path / "tree", str(tmp_path / "copy")))
    assert snapshot(tmp_path / "tree") == snapshot(tmp_path / "copy")


@pytest.mark.parametrize("use_rsync", [True, False])
def test_an_upload_under_which_the_connection_drops(server: Any, tmp_path: Path, use_rsync: bool) -> None:
    tunnel = SSHTunnel(**server.login(use_rsync=use_rsync))
    (tmp_path / "tree").mkdir()
    for i in range(8):
        (tmp_path / "tree" / f"{i}").write_bytes(os.urandom(1 << 24))
    target = tmp_path / "copy"

    async def story() -> None:
        sending = asyncio.create_task(tunnel.upload(tmp_path / "tree", str(target)))
        while not (target.exists() and any(target.iterdir())):
            await asyncio.sleep(0.005)
        server.kill_sessions()
        outcome = (await asyncio.gather(sending, return_exceptions=True))[0]
        assert outcome is None or (isinstance(outcome, ExecutorError) and outcome.transient), outcome
        await tunnel.upload(tmp_path / "tree", str(target))

    asyncio.run(story())
    there = snapshot(target)
    assert {name: there[name] for name in snapshot(tmp_path / "tree")} == snapshot(tmp_path / "tree")


def test_a_forked_process_makes_a_connection_of_its_own(server: Any) -> None:
    tunnel = SSHTunnel(**server.login())
    assert echo(tunnel) == "hello"
    code = f"""
import asyncio, os, sys
from nemo_prefect.transport import SSHTunnel
tunnel = SSHTunnel.model_validate_json({tunnel.model_dump_json()!r})
assert tunnel.run("echo parent").stdout == "parent\\n"
child = os.fork()
if not child:
    assert tunnel.run("echo child").stdout == "child\\n"
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert tunnel.run("echo parent").stdout == "parent\\n"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert server.logins() == 3


def test_without_asyncssh_it_says_what_to_install() -> None:
    code = """
import sys
sys.modules["asyncssh"] = None
from nemo_prefect import SSHTunnel
SSHTunnel(host="h").run("true")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "pip install 'nemo-prefect[ssh]'" in done.stderr.splitlines()[-1]


# Passwords and one-time codes, for which sshd would need users of its own: asyncssh's server speaks the same protocol.

PASSWORD_SERVER = """
import asyncio, sys
import asyncssh

class Server(asyncssh.SSHServer):
    def password_auth_supported(self): return sys.argv[1] == "password"
    def validate_password(self, username, password): return (username, password) == ("me", "s3cret")
    def kbdint_auth_supported(self): return sys.argv[1] == "kbdint"
    def get_kbdint_challenge(self, *_): return "", "", "", [("Password: ", False), ("One-time code: ", True)]
    def validate_kbdint_response(self, username, responses): return list(responses) == ["s3cret", "123456"]

async def serve(process):
    process.stdout.write(process.command)
    process.exit(0)

async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=[key], process_factory=serve)
    port = server.sockets[0].getsockname()[1]
    print(port, f"[127.0.0.1]:{port} {key.export_public_key().decode().strip()}", flush=True)
    await server.wait_closed()

asyncio.run(main())
"""


@pytest.fixture(params=["password", "kbdint"])
def asks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A server that asks for a password, or for a password and a code; and what a tunnel to it needs."""
    process = subprocess.Popen(
        [sys.executable, "-c", PASSWORD_SERVER, request.param], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    port, _, known = process.stdout.readline().partition(" ")
    (tmp_path / "known_hosts").write_text(known)
    login = {"host": "127.0.0.1", "port": int(port), "user": "me", "known_hosts": str(tmp_path / "known_hosts")}
    yield request.param, login
    process.terminate()
    process.wait()
    process.stdout.close()


def test_a_password(asks: tuple[str, dict[str, Any]]) -> None:
    kind, login = asks
    tunnel = SSHTunnel(**login, password="s3cret")
    if kind == "password":
        assert "echo" in asyncio.run(tunnel.run_command(["echo"])).stdout
        again = SSHTunnel.model_validate_json(tunnel.model_dump_json(context={"include_secrets": True}))
        assert again == tunnel
    assert "s3cret" not in repr(tunnel) + str(tunnel) + tunnel.model_dump_json() + tunnel.key
    with pytest.raises(UnreachableError, match="refused the login") as caught:
        asyncio.run(SSHTunnel(**login, password="wr0ng").run_command(["echo"]))
    assert "wr0ng" not in str(caught.value)
    with pytest.raises(UnreachableError, match="refused the login"):
        asyncio.run(SSHTunnel(**login).run_command(["echo"]))


def test_at_a_terminal_connect_asks(asks: tuple[str, dict[str, Any]]) -> None:
    kind, login = asks
    code = f"""
from nemo_prefect import SSHTunnel
tunnel = SSHTunnel(**{login!r})
tunnel.connect()
print("RAN", tunnel.run("x").stdout)
"""
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-c", code])
    seen = ""
    answers = [("Password", "s3cret\n")] + ([("code", "123456\n")] if kind == "kbdint" else [])
    try:
        for prompt, answer in answers:
            while prompt not in seen:
                seen += os.read(terminal, 4096).decode()
            seen = seen.partition(prompt)[2]
            time.sleep(0.2)
            os.write(terminal, answer.encode())
        while "RAN" not in seen:
            seen += os.read(terminal, 4096).decode()
    except OSError as error:
        raise AssertionError(seen) from error
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    assert "s3cret" not in seen
