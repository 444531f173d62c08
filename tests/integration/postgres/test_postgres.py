"""A shared server on a real PostgreSQL: what runs, fails, is scheduled and is looked at with SQLite does so here as well."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)

pytestmark = pytest.mark.skipif(BIN is None, reason="no PostgreSQL: apt-get install postgresql")

PROGRAM = """
import nemo_prefect as run
from nemo_prefect.errors import ExperimentFailed

def work(n: int) -> None:
    print("worked on", n)

if __name__ == "__main__":
    with run.Experiment("on-postgres") as exp:
        first = exp.add(run.Script(inline="echo first"), name="first")
        middle = [exp.add(run.Partial(work, n=n), name=f"work-{n}", dependencies=[first]) for n in range(5)]
        exp.add([run.Script(inline="echo a"), run.Script(inline="echo b")], name="pair", dependencies=middle)
        exp.run()
    try:
        with run.Experiment("fails-on-postgres") as exp:
            exp.add(run.Script(inline="exit 3"), name="broken")
            exp.add(run.Script(inline="true"), name="after", dependencies=["broken"])
            exp.run()
    except ExperimentFailed as error:
        print("FAILED AS IT SHOULD:", error.jobs[0].state)
    with run.Experiment("detached-on-postgres") as exp:
        exp.add(run.Script(inline="sleep 600"), name="long")
        exp.run(detach=True)
    exp.cancel()
    print("CANCELLED:", exp.status(return_dict=True)["long"]["status"])
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def shared() -> Iterator[dict[str, str]]:
    """A PostgreSQL and a Prefect server of the test's own, on loopback; what a user sets to use it."""
    root = Path(tempfile.mkdtemp(prefix="nemo-prefect-postgres-"))
    as_user: dict[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        owner = pwd.getpwnam("postgres")
        os.chown(root, owner.pw_uid, owner.pw_gid)
        as_user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    port, api = free_port(), free_port()
    data = root / "data"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "NEMO"))}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        subprocess.run(
            [f"{BIN}/initdb", "-D", data, "-A", "trust", "-U", "prefect"],
            check=True,
            capture_output=True,
            cwd=root,
            **as_user,
        )
        arguments = [f"{BIN}/postgres", "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(root)]
        processes.append(
            subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=root, **as_user)
        )
        ready = [f"{BIN}/pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        patiently(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0)
        subprocess.run(
            [f"{BIN}/createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "prefect"], check=True, cwd=root
        )
        home = tempfile.mkdtemp(prefix="nemo-prefect-shared-")
        server_env = {
            **clean,
            "PREFECT_HOME": home,
            "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://prefect@127.0.0.1:{port}/prefect",
            "PREFECT_SERVER_API_AUTH_STRING": "team:secret",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        start = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(api)]
        with open(root / "server.log", "wb") as log:
            processes.append(subprocess.Popen(start, env=server_env, stdout=log, stderr=subprocess.STDOUT))
        patiently(lambda: answers(f"http://127.0.0.1:{api}/api/health"), seconds=180)
        yield {
            **clean,
            "PREFECT_HOME": f"{home}/client",
            "NEMORUN_HOME": f"{home}/nemo",
            "PREFECT_API_URL": f"http://127.0.0.1:{api}/api",
            "PREFECT_API_AUTH_STRING": "team:secret",
        }
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(60)
        shutil.rmtree(root, ignore_errors=True)


def answers(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(url, timeout=5).status == 200)
    except OSError:
        return False


def patiently(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def call(shared: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=shared, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_experiments_run_fail_and_are_cancelled(shared: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    said = call(shared, sys.executable, str(tmp_path / "program.py"))
    assert "FAILED AS IT SHOULD: FAILED (exit code 3)" in said
    assert "CANCELLED: CANCELLED" in said
    listed = call(shared, sys.executable, "-m", "nemo_prefect", "experiment", "list", "--json")
    assert {"on-postgres", "fails-on-postgres", "detached-on-postgres"} <= set(json.loads(listed))
    states = call(shared, sys.executable, "-c", STATES)
    assert states.split() == ["detached-on-postgres=CANCELLED", "fails-on-postgres=FAILED", "on-postgres=COMPLETED"]


STATES = """
import asyncio
from prefect.client.orchestration import get_client
async def main():
    async with get_client() as client:
        runs = await client.read_flow_runs()
        print(*sorted(f"{r.name.rpartition('_')[0]}={r.state_type.value}" for r in runs))
asyncio.run(main())
"""


def test_a_wrong_password_is_said_so(shared: dict[str, str]) -> None:
    program = "import nemo_prefect as run\nwith run.Experiment('x') as e:\n e.add(run.Script(inline='true'))\n e.run()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**shared, "PREFECT_API_AUTH_STRING": "team:wrong"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "401" in done.stderr


#: What is tested with SQLite elsewhere, and with PostgreSQL here: runs, graphs, logs, and deployments with their schedules.
SAME = ("test_run.py", "test_deployments.py", "test_artifacts.py")


@pytest.mark.timeout(900)
def test_what_holds_with_sqlite_holds_here(shared: dict[str, str]) -> None:
    tests = [str(Path(__file__).parents[1] / "local" / name) for name in SAME]
    server = f"{shared['PREFECT_API_URL']} {shared['PREFECT_API_AUTH_STRING']}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        env={**os.environ, "NEMO_PREFECT_TEST_SERVER": server},
        capture_output=True,
        text=True,
        timeout=880,
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
