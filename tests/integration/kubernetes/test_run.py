"""Experiments whose jobs run on a real cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.errors import ExperimentFailed

pytestmark = [pytest.mark.kubernetes, pytest.mark.usefixtures("server", "home")]


def until(claim: Callable[[], Any], timeout: float = 90.0) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := claim()):
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.2)
    return found


def nothing_is_left(kubectl: Any, experiment: str) -> None:
    what = ("get", "jobs,pods,configmaps", "-l", f"nemo-prefect.io/experiment={experiment}", "-o", "name")
    until(lambda: not kubectl(*what))


KINDS = """
import nemo_prefect as run

def train(lr, out):
    import json, os, pathlib
    print("lr", lr, "on", os.environ["POD"], "job", os.environ["NEMO_PREFECT_JOB_ID"])
    folder = pathlib.Path(os.environ["NEMO_PREFECT_ARTIFACTS"])
    (folder / "table.json").write_text(json.dumps([{"lr": lr}]))
    (folder / "weights").mkdir()
    (folder / "weights/model.bin").write_bytes(bytes(range(256)) * 200)
    pathlib.Path(out).write_text("trained")

if __name__ == "__main__":
    import sys
    out = sys.argv[1]
    fields = dict(image="local/python:3.11", grace_period=2, env_vars={"GREETING": "it's $HOME $(HOME) $$"},
        env_list=[{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        volumes=[{"name": "shared", "hostPath": {"path": out}}], volume_mounts=[{"name": "shared", "mountPath": out}])
    plain = run.KubernetesExecutor(**fields)
    code = run.KubernetesExecutor(**fields, packager=run.PatternPackager(include_pattern="pkg/**/*", relative_path="."))
    with run.Experiment("kinds", executor=plain) as exp:
        first = exp.add(run.Script(inline='echo "$GREETING"; echo to-stderr >&2'), name="inline script")
        trained = exp.add(run.Partial(train, lr=0.1, out=out + "/weights"), name="train", dependencies=[first])
        exp.add(run.Script("pkg.where", entrypoint="python3", m=True), code, name="module")
        pair = exp.add([run.Script(inline="echo one"), run.Script(inline="echo two")], name="pair")
        exp.add(run.Script(inline=f"cat {out}/weights"), name="after", dependencies=[trained, pair])
        exp.run()
"""


def test_scripts_functions_code_groups_and_artifacts(script: Any, tmp_path: Path, kubectl: Any) -> None:
    """One experiment of all kinds of tasks; the image has no nemo_prefect, and nothing but the volume is shared."""
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").touch()
    (tmp_path / "pkg/where.py").write_text("import os; print('in', os.getcwd(), os.listdir('.'))")
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    script(KINDS, str(shared), timeout=240)
    exp = run.Experiment.from_title("kinds")
    directory = exp.directory

    def output(job: str) -> str:
        return (next(directory.glob(f"{job}/attempt-1")) / "stdout.log").read_text()

    # One stream for both, and no promise of their order.
    assert {"it's $HOME $(HOME) $$", "to-stderr"} <= set(output("inline*").splitlines())
    assert "lr 0.1 on train-" in output("train")
    assert "nemo-prefect-artifact" not in output("train")
    assert json.loads((directory / "train/attempt-1/artifacts/table.json").read_text()) == [{"lr": 0.1}]
    assert (directory / "train/attempt-1/artifacts/weights/model.bin").read_bytes() == bytes(range(256)) * 200
    assert output("module") == "in /nemo_run/module/attempt-1/code ['pkg']\n"
    assert [output("pair/0"), output("pair/1"), output("after").strip()] == ["one\n", "two\n", "trained"]
    nothing_is_left(kubectl, exp._id)


def test_a_failure_is_told_with_its_last_lines_and_tried_again(executor: Any, tmp_path: Path, kubectl: Any) -> None:
    executor.retries = 1
    flaky = f"[ -e {tmp_path}/tried ] && exit 0; touch {tmp_path}/tried; exit 4"
    with run.Experiment("fails", executor=executor) as exp:
        exp.add(run.Script(inline=flaky), name="flaky")
        bad = executor.clone()
        bad.retries = 0
        wrong = exp.add(run.Script(inline="echo what went wrong; kill -SEGV $$"), bad, name="bad")
        exp.add(run.Script(inline="true"), bad, name="never", dependencies=[wrong])
        with pytest.raises(ExperimentFailed) as caught:
            exp.run()
    told = str(caught.value)
    assert "bad: FAILED (signal 11)" in told
    assert "what went wrong" in told
    assert "flaky" not in told
    assert (exp.directory / "flaky/attempt-2/exit.json").exists()
    nothing_is_left(kubectl, exp._id)


RUNS = """
import sys
import nemo_prefect as run

if __name__ == "__main__":
    marks = sys.argv[1]
    executor = run.KubernetesExecutor(image="local/python:3.11", grace_period=2, num_nodes=int(sys.argv[2]),
        volumes=[{"name": "m", "hostPath": {"path": marks}}], volume_mounts=[{"name": "m", "mountPath": marks}])
    wait = f"echo begun; echo run >> {marks}/runs; while [ ! -e {marks}/go ]; do sleep 0.2; done; seq 1 500; echo done"
    with run.Experiment(sys.argv[3], executor=executor) as exp:
        exp.add(run.Script(inline=wait), name="job")
        exp.run()
"""


@pytest.fixture
def running(tmp_path: Path) -> Any:
    """Starts an experiment in a process of its own, and returns once its job runs."""
    started: list[subprocess.Popen[bytes]] = []
    file = tmp_path / "runs.py"
    file.write_text(RUNS)
    marks = tmp_path / "marks"
    marks.mkdir(mode=0o777)

    def start(title: str, nodes: int = 1) -> tuple[subprocess.Popen[bytes], Path]:
        with (tmp_path / "program.log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, str(file), str(marks), str(nodes), title], stdout=log, stderr=log, cwd=tmp_path
                )
            )
        until(lambda: (marks / "runs").exists() and len((marks / "runs").read_text().split()) == nodes)
        return started[-1], marks

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_the_orchestrator_is_killed_and_its_job_adopted(running: Any, kubectl: Any) -> None:
    process, marks = running("killed", 2)
    process.kill()
    process.wait()
    exp = run.Experiment.from_title("killed")
    assert exp.status(return_dict=True)["job"]["status"] == "RUNNING"
    (marks / "go").touch()
    subprocess.run(
        [sys.executable, "-m", "nemo_prefect", "experiment", "resume", exp._id], check=True, timeout=200, capture_output=True
    )
    assert (marks / "runs").read_text() == "run\nrun\n"
    for rank in ("0", "1"):
        lines = (exp.directory / "job/attempt-1" / rank / "stdout.log").read_text().split()
        assert lines == ["begun", *map(str, range(1, 501)), "done"]
    nothing_is_left(kubectl, exp._id)


def test_the_api_server_restarts_in_the_middle(running: Any, kubectl: Any) -> None:
    folder = Path(os.environ.get("KUBECONFIG", "")).parent
    if not (folder / "apiserver.pid").exists():
        pytest.skip("the API server has no pid file beside the kubeconfig: it cannot be restarted from here")
    process, marks = running("restart")
    pid = int((folder / "apiserver.pid").read_text())
    argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    os.kill(pid, signal.SIGKILL)
    try:
        time.sleep(4)  # meanwhile polls and logs fail
        (marks / "go").touch()
        time.sleep(2)
    finally:
        with (folder / "log/apiserver.log").open("ab") as log:
            server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        (folder / "apiserver.pid").write_text(f"{server.pid}\n")
        server.returncode = 0  # it outlives this test on purpose
    until(lambda: process.poll() is not None, 150)
    assert process.returncode == 0, (marks.parent / "program.log").read_text()
    exp = run.Experiment.from_title("restart")
    lines = (exp.directory / "job/attempt-1/stdout.log").read_text().split()
    assert lines == ["begun", *map(str, range(1, 501)), "done"]
    assert (marks / "runs").read_text() == "run\n"
    nothing_is_left(kubectl, exp._id)


def test_cancel_from_elsewhere(running: Any, kubectl: Any) -> None:
    process, _ = running("cancelled", 2)
    exp = run.Experiment.from_title("cancelled")
    began = time.monotonic()
    exp.cancel("job")
    assert time.monotonic() - began < 60
    until(lambda: process.poll() is not None)
    assert process.returncode == 1
    assert exp.status(return_dict=True)["job"]["status"] == "CANCELLED"
    nothing_is_left(kubectl, exp._id)


def test_the_flow_trains_over_two_pods(torch_executor: Any, tmp_path: Path) -> None:
    flow = Path(__file__).parents[3] / "flows/kubernetes_training.py"
    packages = torch_executor.env_vars["PYTHONPATH"]
    done = subprocess.run(
        [sys.executable, str(flow), "--image", "local/python:3.11", "--nodes", "2", "--packages", packages],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    exp = run.Experiment.from_title("kubernetes-training")
    (row,) = json.loads((exp.directory / "train/attempt-1/artifacts/metrics.json").read_text())
    assert row["ranks"] == 2
    assert abs(row["weight"] - 3) < 0.3
    assert "learned by 2 ranks" in (exp.directory / "report/attempt-1/stdout.log").read_text()
