"""A cluster behind a login node: everything by SSH, into a directory of its own, and nothing lost or doubled on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import nemo_prefect as run
from nemo_prefect.errors import ExperimentFailed
from nemo_prefect.executors import executor_to_spec
from nemo_prefect.ledger import Ledger

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("server", "home")]


@pytest.fixture
def login_node(make_sshd: Callable[..., Any]) -> Iterator[Any]:
    """An sshd of the test's own: tests cut its connections and stop it."""
    node = make_sshd()
    yield node
    node.stop()


@pytest.fixture
def cluster(login_node: Any, tmp_path: Path) -> Iterator[Callable[..., run.SlurmExecutor]]:
    """Makes executors for the cluster behind the login node; fields of the tunnel by ``tunnel={...}``."""

    def make(tunnel: dict[str, Any] | None = None, **fields: Any) -> run.SlurmExecutor:
        login = login_node.login(job_dir=str(tmp_path / "on the cluster"), **(tunnel or {}))
        defaults = {"account": "research", "partition": "debug", "time": "00:05:00", "python": sys.executable}
        return run.SlurmExecutor(tunnel=run.SSHTunnel(**login), **{**defaults, "wait_time_for_group_job": 0, **fields})

    yield make
    # The login node is gone for good now: nobody is to wait for it.
    for process in psutil.process_iter(["cmdline"]):
        if "nemo_prefect.runner" in (words := process.info["cmdline"] or []) and str(tmp_path) in words[-1]:
            process.kill()


def statuses(exp: run.Experiment) -> dict[str, str]:
    found = exp.status(return_dict=True)
    assert found is not None
    return {job: view["status"].value for job, view in found.items()}


def output(exp: run.Experiment, job: str, attempt: int = 1, stream: str = "stdout") -> str:
    return (exp.directory / job / f"attempt-{attempt}" / f"{stream}.log").read_text()


def wait_until(claim: Callable[[], Any], timeout: float = 90.0) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := claim()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)
    return found


def jobs_of(exp: run.Experiment) -> list[str]:
    """The ids of all Slurm jobs that ever carried a key of the experiment."""
    keys = {json.loads(line)["key"] for line in (exp.directory / "ledger.jsonl").read_text().splitlines()}
    found = set()
    for command in (
        ["squeue", "--me", "-h", "-t", "all", "-o", "%i|%j"],
        ["sacct", "-X", "-n", "-P", "--starttime=now-1hours", "--format=JobID,JobName%200"],
    ):
        for row in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
            job, _, name = row.partition("|")
            if any(key in name for key in keys):
                found.add(job)
    return sorted(found)


TICKS = "echo run >> {marks}; for i in $(seq {count}); do echo tick $i; sleep 0.2; done"


def ticks(tmp_path: Path, count: int) -> run.Script:
    return run.Script(inline=TICKS.format(marks=tmp_path / "marks", count=count))


def all_ticks(count: int) -> list[str]:
    return [f"tick {i}" for i in range(1, count + 1)]


PROGRAM = """
import os, sys
from pathlib import Path
import nemo_prefect as run
from nemo_prefect.executors import executor_from_spec
from nemo_prefect.spec import ExecutorSpec

def here(x, where):
    print("main", x)
    Path(os.environ["NEMO_PREFECT_ARTIFACTS"], "note.md").write_text("# written there")

if __name__ == "__main__":
    executor = executor_from_spec(ExecutorSpec.model_validate_json(sys.argv[1]))
    packed = executor.clone()
    packed.packager = run.GitArchivePackager()
    with run.Experiment("over-ssh", executor=executor) as exp:
        print(exp.id)
        show = 'printf "%s\\\\n" "$ODD" "$NEMO_PREFECT_JOB_DIR"; pwd; echo oops >&2'
        script = exp.add(run.Script(inline=show, env={"ODD": "it's $HOME `id` é"}), name="script")
        exp.add(run.Script("train.sh", args=["a b"]), name="packed", executor=packed, dependencies=[script])
        exp.add(run.Partial(here, x="it's 1", where="there"), name="main")
        exp.add([run.Script(inline="echo member 0"), run.Script(inline="echo member 1")], name="pair")
        exp.run()
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    (root / "train.sh").write_text('cat data.txt > result.txt; cat result.txt; echo "$1"\n')
    (root / "data.txt").write_text("committed\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *command], cwd=root, check=True)
    return root


def test_scripts_calls_and_packed_code(cluster: Any, login_node: Any, repository: Path, tmp_path: Path, home: Path) -> None:
    (repository / "data.txt").write_text("changed\n")
    (repository / "program.py").write_text(textwrap.dedent(PROGRAM))
    executor = cluster(tunnel={"password": "pa55-not-needed"})
    spec = executor_to_spec(executor).model_dump_json()
    done = subprocess.run([sys.executable, "program.py", spec], capture_output=True, text=True, cwd=repository, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    exp = run.Experiment.from_id(done.stdout.split("\n")[0])
    assert set(statuses(exp).values()) == {"SUCCEEDED"}
    there = tmp_path / "on the cluster" / "over-ssh" / exp.id
    assert output(exp, "script").splitlines() == [
        "it's $HOME `id` é",
        str(there / "script"),
        str(there / "script/attempt-1/code"),
    ]
    assert output(exp, "script", stream="stderr") == "oops\n"
    assert output(exp, "packed") == "changed\na b\n"
    assert not (repository / "result.txt").exists()
    assert output(exp, "main") == "main it's 1\n"
    assert (exp.directory / "main/attempt-1/artifacts/note.md").read_text() == "# written there"
    members = [(exp.directory / f"pair/attempt-1/{n}/stdout.log").read_text() for n in (0, 1)]
    assert members == ["member 0\n", "member 1\n"]
    # The logs here are those that were written there, byte for byte.
    for log in there.rglob("std*.log"):
        here = exp.directory / log.relative_to(there)
        assert (here.read_bytes() if here.exists() else b"") == log.read_bytes()
    # What is of no use there does not go there, secrets first of all.
    for path in there.rglob("*"):
        if path.is_file():
            assert b"pa55-not-needed" not in path.read_bytes(), path
    assert login_node.logins() == 1
    assert len(jobs_of(exp)) == 4


def test_failures_and_what_slurm_refuses_are_told(cluster: Any, tmp_path: Path) -> None:
    with run.Experiment("over-ssh-failing", executor=cluster()) as exp:
        exp.add(run.Script(inline="echo about to fail >&2; exit 7"), name="fails")
        exp.add(run.Script(inline="true"), name="never", dependencies=["fails"])
        exp.add(run.Script(inline="true"), name="refused", executor=cluster(partition="no_such_partition"))
        with pytest.raises(ExperimentFailed) as caught:
            exp.run()
    message = str(caught.value)
    assert "about to fail" in message
    assert "invalid partition" in message
    assert statuses(exp) == {"fails": "FAILED", "never": "UNSUBMITTED", "refused": "FAILED"}


def test_a_login_node_that_nobody_answers_at(cluster: Any, login_node: Any, tmp_path: Path) -> None:
    login_node.stop()
    with run.Experiment("over-ssh-away", executor=cluster(tunnel={"connect_timeout": 2})) as exp:
        exp.add(run.Script(inline="true"), name="job")
        began = time.monotonic()
        with pytest.raises(ExperimentFailed, match=r"cannot be reached: Connection refused"):
            exp.run()
    assert time.monotonic() - began < 120
    assert jobs_of(exp) == []


def test_cancelled_while_it_runs(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(ENGINE)
    spec = executor_to_spec(cluster()).model_dump_json()
    command = [sys.executable, str(tmp_path / "program.py"), spec, ticks(tmp_path, 600).inline, "detach"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    exp = run.Experiment.from_id(done.stdout.split("\n")[0])
    wait_until((tmp_path / "marks").exists)
    command = [sys.executable, "-m", "nemo_prefect", "experiment", "cancel", exp.id, "job"]
    wait_until(lambda: subprocess.run(command, capture_output=True, timeout=120).returncode == 0)
    wait_until(lambda: statuses(exp) == {"job": "CANCELLED"})
    (job,) = jobs_of(exp)
    shown = ["sacct", "-X", "-n", "--format=State", "-j", job]
    wait_until(lambda: "CANCELLED" in subprocess.run(shown, capture_output=True, text=True, check=True).stdout)


def test_a_login_node_that_goes_down_under_a_job_changes_nothing(cluster: Any, login_node: Any, tmp_path: Path) -> None:
    with run.Experiment("over-ssh-down", executor=cluster()) as exp:
        first = exp.add(ticks(tmp_path, 40), name="first")
        exp.add(ticks(tmp_path, 3), name="second", dependencies=[first])
        exp.run(detach=True)
    log = exp.directory / "first/attempt-1/stdout.log"
    wait_until(lambda: log.exists() and "tick 3" in log.read_text())
    assert login_node.kill_sessions()  # the connection drops, and the login node is there again at once
    wait_until(lambda: "tick 15" in log.read_text())
    login_node.stop()  # and now it is away until the first job has ended
    wait_until(lambda: "tick 40" in next((tmp_path / "on the cluster").rglob("first/attempt-1/stdout.log")).read_text())
    time.sleep(3)
    # Another process that cannot ask either says so; whoever drives the experiment holds on to what it knew.
    assert set(statuses(exp).values()) <= {"RUNNING", "UNKNOWN", "UNSUBMITTED"}
    assert {entry.event for entry in Ledger(exp.directory).latest().values()} == {"SUBMITTED"}
    login_node.start()
    wait_until(lambda: statuses(exp)["second"] == "SUCCEEDED", 180)
    assert statuses(exp) == {"first": "SUCCEEDED", "second": "SUCCEEDED"}
    wait_until(lambda: output(exp, "second").splitlines() == all_ticks(3))
    assert output(exp, "first").splitlines() == all_ticks(40)
    assert (tmp_path / "marks").read_text() == "run\nrun\n"
    assert len(jobs_of(exp)) == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_that_drops_around_sbatch_loses_and_doubles_nothing(
    cluster: Any, login_node: Any, tmp_path: Path, when: str
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    # An sbatch that cuts its own connection, once: before it hands the job in, or before it can answer.
    submit = 'answer=$(/usr/bin/sbatch "$@"); code=$?'
    climb = 'p=$$; while [ "$(ps -o comm= -p $p)" != sshd ]; do p=$(ps -o ppid= -p $p | tr -d " "); done'
    cut = f"if mkdir {tools}/cut 2>/dev/null; then {climb}; kill -9 $p; exit 1; fi"
    lines = [cut, submit] if when == "before" else [submit, cut]
    (tools / "sbatch").write_text("\n".join(["#!/bin/bash", *lines, 'echo "$answer"; exit $code\n']))
    (tools / "sbatch").chmod(0o755)
    executor = cluster(tunnel={"pre_command": f"export PATH={tools}:$PATH"})
    with run.Experiment("over-ssh-cut", executor=executor) as exp:
        exp.add(ticks(tmp_path, 3), name="job")
        exp.run()
    assert (tools / "cut").exists()
    assert statuses(exp) == {"job": "SUCCEEDED"}
    assert output(exp, "job").splitlines() == all_ticks(3)
    assert (tmp_path / "marks").read_text() == "run\n"
    assert len(jobs_of(exp)) == 1
    assert login_node.logins() == 2


ENGINE = """
import sys
import nemo_prefect as run
from nemo_prefect.executors import executor_from_spec
from nemo_prefect.spec import ExecutorSpec
executor = executor_from_spec(ExecutorSpec.model_validate_json(sys.argv[1]))
with run.Experiment("over-ssh-killed", executor=executor) as exp:
    print(exp.id, flush=True)
    exp.add(run.Script(inline=sys.argv[2]), name="job")
    exp.run(detach="detach" in sys.argv)
"""


def test_an_engine_that_is_killed_is_replaced_and_its_job_adopted(cluster: Any, login_node: Any, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(ENGINE)
    spec = executor_to_spec(cluster()).model_dump_json()
    script = TICKS.format(marks=tmp_path / "marks", count=50)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), spec, script],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    exp_id = process.stdout.readline().strip()
    exp = wait_until(lambda: _found(exp_id))
    log = exp.directory / "job/attempt-1/stdout.log"
    wait_until(lambda: log.exists() and "tick 5" in log.read_text())
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    login_node.restart()
    exp = run.Experiment.from_id(exp_id)
    exp.resume()
    assert statuses(exp) == {"job": "SUCCEEDED"}
    assert log.read_text().splitlines() == all_ticks(50)
    assert (tmp_path / "marks").read_text() == "run\n"
    assert len(jobs_of(exp)) == 1
    assert Ledger(exp.directory).latest()["job"].attempt == 1


def _found(exp_id: str) -> run.Experiment | None:
    try:
        return run.Experiment.from_id(exp_id)
    except run.errors.NotFoundError:
        return None
