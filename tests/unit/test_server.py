from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from nemo_prefect.errors import ServerError
from nemo_prefect.server import EmbeddedServer, Record, connected
from nemo_prefect.server.embedded import healthy
from nemo_prefect.server.sign_in import check_key, link, make_key


def test_it_is_found_again_and_only_the_user_can_read_its_password(server: Record, homes: Path) -> None:
    embedded = EmbeddedServer()
    assert embedded.start() == server
    assert embedded.find() == server
    for file in embedded.directory.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


def test_other_processes_find_the_same(server: Record) -> None:
    code = "from nemo_prefect.server import EmbeddedServer; print(EmbeddedServer().start().port)"
    many = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert {p.communicate()[0].strip() for p in many} == {str(server.port)}


def test_without_the_password_the_api_answers_401(server: Record) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{server.api_url}/admin/version")
    assert caught.value.code == 401
    caught.value.close()


def test_the_password_is_not_in_the_process_list(server: Record) -> None:
    listing = subprocess.run(["ps", "-axo", "args"], capture_output=True, text=True, check=True).stdout
    assert "nemo_prefect.server.app" in listing
    assert server.auth.partition(":")[2] not in listing


def test_it_listens_on_loopback_only(server: Record) -> None:
    import psutil

    listening = [c.laddr for c in psutil.Process(server.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert [a.ip for a in listening] == ["127.0.0.1"]


def test_keys_of_links_expire_and_cannot_be_forged() -> None:
    key = make_key("me:secret", time.time() + 60)
    assert check_key("me:secret", key)
    assert not check_key("me:other", key)
    assert not check_key("me:secret", make_key("me:secret", time.time() - 1))
    until, _, digest = key.partition(".")
    assert not check_key("me:secret", f"{int(until) + 3600}.{digest}")
    assert not check_key("me:secret", "")
    assert "secret" not in link("http://x", "me:secret", "/runs")


def test_the_sign_in_page_exchanges_a_key_for_the_password(server: Record) -> None:
    page = f"{server.url}/sign-in"
    with urllib.request.urlopen(page) as answer:
        assert answer.headers["Cache-Control"] == "no-store"
    good = urllib.request.Request(page, data=make_key(server.auth, time.time() + 9).encode(), method="POST")
    with urllib.request.urlopen(good) as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(page, data=b"9999999999.0", method="POST"))
    assert caught.value.code == 403
    caught.value.close()


@pytest.mark.slow
def test_start_stop_and_start_again(tmp_path: Path) -> None:
    embedded = EmbeddedServer(tmp_path / "prefect")
    assert embedded.find() is None
    assert embedded.stop() is False
    code = f"from nemo_prefect.server import EmbeddedServer; print(EmbeddedServer({str(embedded.home)!r}).start().pid)"
    try:
        two = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
        pids = {p.communicate()[0].strip() for p in two}
        assert len(pids) == 1, "two starters started two servers"
        record = embedded.find()
        assert record is not None
        assert healthy(record)
        os.kill(record.pid, 9)
        deadline = time.monotonic() + 5
        while embedded.find() is not None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert embedded.start().pid != record.pid
    finally:
        assert embedded.stop() is True
    assert embedded.find() is None


def test_a_server_that_does_not_answer_is_an_error_that_says_so() -> None:
    code = """
import nemo_prefect as run
with run.Experiment("t") as exp:
    exp.add(run.Script(inline="true"), name="a")
    exp.run()
"""
    env = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert "The Prefect server at http://127.0.0.1:9/api does not answer" in done.stderr
    assert "PREFECT_API_URL" in done.stderr
    assert not (Path(os.environ["NEMORUN_HOME"]) / "experiments/t").exists()


def test_a_server_on_another_host_is_named(tmp_path: Path, server: Record) -> None:
    import fcntl
    import json

    embedded = EmbeddedServer(tmp_path)
    embedded.directory.mkdir()
    (embedded.directory / "server.json").write_text(json.dumps({"host": "login7", "port": 1, "pid": 1, "auth": "a:b"}))
    with (embedded.directory / "server.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ServerError, match="runs on login7"):
            embedded.find()


def test_connected_points_the_client_at_it(server: Record) -> None:
    from prefect.settings import get_current_settings

    with connected() as connection:
        assert connection is not None
        assert get_current_settings().api.url == server.api_url
    assert get_current_settings().api.url is None
