"""Experiments whose jobs are containers, on a real engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.errors import ExperimentFailed
from nemo_prefect.history import open_history

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("server", "home")]

IMAGE = "local/python:3.11"


def docker_executor(**fields: Any) -> run.DockerExecutor:
    return run.DockerExecutor(container_image=IMAGE, image_pull_policy="Never", **fields)


def record(directory: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((directory / "exit.json").read_text())
    return data


def test_scripts_functions_and_code(script: Any, tmp_path: Path) -> None:
    """One experiment of all kinds of tasks; the image has no nemo_prefect."""
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").touch()
    (tmp_path / "pkg/where.py").write_text("import os; print('in', os.getcwd(), os.listdir('.'))")
    script(
        """
        import nemo_prefect as run

        def train(lr, out):
            import json, os, socket, sys
            print("lr", lr, "in a container:", os.path.exists("/.dockerenv"), "job", os.environ["NEMO_PREFECT_JOB_ID"])
            open("/nemo_run/seen.txt", "w").write(out)
            with open(os.path.join(os.environ["NEMO_PREFECT_ARTIFACTS"], "table.json"), "w") as f:
                json.dump([{"lr": lr}], f)

        if __name__ == "__main__":
            image = dict(container_image="local/python:3.11", image_pull_policy="Never")
            plain = run.DockerExecutor(**image, env_vars={"GREETING": "it's $HOME"})
            code = run.DockerExecutor(**image, packager=run.PatternPackager(include_pattern="pkg/**/*", relative_path="."))
            with run.Experiment("kinds", executor=plain) as exp:
                first = exp.add(run.Script(inline='echo "$GREETING"; echo to-stderr >&2'), name="inline")
                trained = exp.add(run.Partial(train, lr=0.1, out="written"), name="train")
                exp.add(run.Script("pkg.where", entrypoint="python3", m=True), code, name="module")
                show = run.Script(inline=f"cat {exp.directory}/train/seen.txt")
                exp.add(show, name="hand-on", dependencies=[trained, first])
                exp.run()
        """
    )
    root = run.Experiment.from_title("kinds").directory
    logs = {job: (root / job / "attempt-1/stdout.log").read_text() for job in ("inline", "train", "module", "hand-on")}
    assert logs["inline"] == "it's $HOME\n"
    assert (root / "inline/attempt-1/stderr.log").read_text() == "to-stderr\n"
    assert logs["train"] == "lr 0.1 in a container: True job train\n"
    assert json.loads((root / "train/attempt-1/artifacts/table.json").read_text()) == [{"lr": 0.1}]
    assert logs["module"] == "in /nemo_run/code ['pkg']\n"
    assert logs["hand-on"] == "written"
    done = record(root / "inline/attempt-1")
    assert (done["exit_code"], done["cancelled"], done["attempt"]) == (0, False, 1)
    assert 0 < done["start"] <= done["end"]


def test_a_failure_is_told_and_tried_again() -> None:
    flaky = run.Script(inline='echo attempt $NEMO_PREFECT_ATTEMPT; [ "$NEMO_PREFECT_ATTEMPT" = 2 ] || exit 9')
    with run.Experiment("retries", executor=docker_executor(retries=1)) as exp:
        exp.add(flaky, name="flaky")
        exp.add(run.Script(inline="echo why >&2; exit 4"), docker_executor(), name="broken")
        with pytest.raises(ExperimentFailed) as failed:
            exp.run()
    assert [job.job_id for job in failed.value.jobs] == ["broken"]
    assert "exit code 4" in failed.value.jobs[0].state
    assert list(failed.value.jobs[0].last_lines) == ["why"]
    assert record(exp.directory / "flaky/attempt-1")["exit_code"] == 9
    assert record(exp.directory / "flaky/attempt-2")["exit_code"] == 0


SERVE = """
import socket, sys
with socket.create_server(("", 5000)) as server:
    connection, address = server.accept()
    print("heard", connection.recv(100).decode())
"""
CALL = """
import os, socket, time
deadline = time.time() + 60
while True:
    try:
        with socket.create_connection((os.environ["PEER"], 5000), timeout=5) as connection:
            connection.sendall(b"hello from " + socket.gethostname().encode())
        break
    except OSError:
        if time.time() > deadline:
            raise
        time.sleep(0.1)
print("reached", os.environ["PEER"])
"""


def test_a_group_meets_by_name() -> None:
    members = [
        run.Script(inline=SERVE, entrypoint="python3"),
        run.Script(inline=CALL, entrypoint="python3", env={"PEER": run.ExecutorMacros.group_host(0)}),
    ]
    with run.Experiment("pair", executor=docker_executor()) as exp:
        exp.add(members, name="pair")
        exp.run()
    attempt = exp.directory / "pair/attempt-1"
    assert (attempt / "0/stdout.log").read_text() == "heard hello from pair-1\n"
    assert (attempt / "1/stdout.log").read_text() == "reached pair-0\n"
    assert [record(attempt / n)["exit_code"] for n in ("0", "1", ".")] == [0, 0, 0]


def test_a_group_fails_with_its_first_failing_member() -> None:
    stubborn = "trap '' TERM; echo up; while true; do sleep 0.1; done"
    members = [
        run.Script(inline=stubborn),
        run.Script(inline="sleep 1; echo broken >&2; exit 23"),
        run.Script(inline="true"),
    ]
    with run.Experiment("breaks", executor=docker_executor(stop_timeout=1)) as exp:
        exp.add(members, name="three")
        with pytest.raises(ExperimentFailed, match="exit code 23") as failed:
            exp.run()
    assert "three/1: FAILED (exit code 23)\n    | broken" in str(failed.value)
    assert "ended because member 1 failed" in str(failed.value)
    attempt = exp.directory / "three/attempt-1"
    assert record(attempt)["exit_code"] == record(attempt / "1")["exit_code"] == 23
    assert record(attempt / "0")["cancelled"]
    assert record(attempt / "0")["message"] == "ended because member 1 failed"
    assert record(attempt / "2")["exit_code"] == 0
    states = {v.id: str(v.state.status) for v in open_history(exp.id).views()}
    assert states == {"three": "FAILED", "three/0": "CANCELLED", "three/1": "FAILED", "three/2": "SUCCEEDED"}


def test_what_kills_a_container_is_told() -> None:
    eat = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    began = time.monotonic()
    with run.Experiment("killed", executor=docker_executor(memory="32m")) as exp:
        exp.add(run.Script(inline=eat, entrypoint="python3"), name="oom")
        exp.add(run.Script(inline="kill -SEGV $$"), name="segv")
        exp.add(run.Script(inline="true", entrypoint="/no/such/program"), name="program")
        no_image = run.DockerExecutor(container_image="no.such.registry.invalid/image:1")
        exp.add(run.Script(inline="true"), no_image, name="image")
        never = run.DockerExecutor(container_image="no/such-image:1", image_pull_policy="Never")
        exp.add(run.Script(inline="true"), never, name="never")
        exp.add(run.Script(inline="true"), docker_executor(runtime="no-such-runtime"), name="runtime")
        exp.add(run.Script(inline="true"), docker_executor(network="no-such-network"), name="network")
        nowhere = run.DockerExecutor(container_image=IMAGE, docker_host=host("unix:///no/such/docker.sock"))
        exp.add(run.Script(inline="true"), nowhere, name="engine")
        with pytest.raises(ExperimentFailed) as failed:
            exp.run()
    assert time.monotonic() - began < 90
    said = {job.job_id: job.state for job in failed.value.jobs}
    assert "used more than its 32 MiB" in said["oom"]
    assert "exit code 139" in said["segv"]
    assert "exit code 127" in said["program"]
    assert "cannot be pulled" in said["image"]
    assert "no.such.registry.invalid" in said["image"]
    assert "has no image 'no/such-image:1'" in said["never"]
    assert "no-such-runtime" in said["runtime"]
    assert "no-such-network" in said["network"]
    assert "does not answer: No such file or directory." in said["engine"]
    (oom,) = [v for v in open_history(exp.id).views() if v.id == "oom"]
    assert oom.state.cause.value == "OUT_OF_MEMORY"


def host(url: str) -> Any:
    from prefect_docker import DockerHost

    return DockerHost(base_url=url)


def test_a_user_who_may_not_use_the_engine_is_told(script: Any) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    done = script(
        """
        import asyncio, os
        import docker, prefect_docker, requests, urllib3
        from nemo_prefect.executors.docker.client import connect
        os.setegid(65534); os.setgroups([]); os.seteuid(65534)
        try:
            connect(None)
        except Exception as error:
            print(error)
        """
    )
    assert "Permission denied. Join the group" in done.stdout


def test_torchrun(tmp_path: Path) -> None:
    """Two ranks in one container; PyTorch is this environment's, mounted: image and environment have the same Python."""
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the image has Python 3.11")
    packages = str(Path(torch.__file__).parents[1])
    reduce = tmp_path / "reduce.py"
    reduce.write_text(
        "import torch, torch.distributed as d\n"
        "d.init_process_group('gloo')\n"
        "value = torch.tensor([float(d.get_rank() + 1)])\n"
        "d.all_reduce(value)\n"
        "print('rank', d.get_rank(), 'of', d.get_world_size(), 'sum', value.item(), flush=True)\n"
        "d.barrier()\n"
    )
    executor = docker_executor(
        launcher="torchrun", ntasks_per_node=2, shm_size="64m", ulimits=["nofile:1024"],
        volumes=[f"{packages}:/packages:ro", f"{tmp_path}:/programs:ro"], env_vars={"PYTHONPATH": "/packages"},
    )  # fmt: skip
    with run.Experiment("torch", executor=executor) as exp:
        exp.add(run.Script("/programs/reduce.py", entrypoint="python3"), name="reduce")
        exp.run()
    attempt = exp.directory / "reduce/attempt-1"
    log = (attempt / "stdout.log").read_text()
    for rank in (0, 1):
        assert f"[default{rank}]:rank {rank} of 2 sum 3.0" in log
        (own,) = attempt.glob(f"ranks/*/attempt_0/{rank}/stdout.log")
        assert own.read_text() == f"rank {rank} of 2 sum 3.0\n"


def test_an_engine_that_does_not_see_our_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an engine elsewhere: code and scripts are copied in, what the job leaves is copied back; as another user too."""
    (tmp_path / "code.py").write_text("print('packed code')")
    monkeypatch.chdir(tmp_path)
    packager = run.PatternPackager(include_pattern="code.py", relative_path=".")
    inline = """
        python3 code.py; pwd -P; id -u
        mkdir -p /nemo_run/results && echo kept > /nemo_run/results/model.txt
        echo '# note' > $NEMO_PREFECT_ARTIFACTS/note.md
        mount | grep -c nemo_run
        true
    """
    executor = docker_executor(share_files=False, packager=packager, user="1234:1234")
    with run.Experiment("remote", executor=executor) as exp:
        exp.add(run.Script(inline=inline), name="job")
        exp.add([run.Script(inline="echo $NEMO_PREFECT_MEMBER; python3 code.py")] * 2, name="pair")
        exp.run()
    attempt = exp.directory / "job/attempt-1"
    assert (attempt / "stdout.log").read_text().splitlines() == ["packed code", f"{attempt}/code", "1234", "0"]
    assert (exp.directory / "job/results/model.txt").read_text() == "kept\n"
    assert (attempt / "artifacts/note.md").read_text() == "# note\n"
    assert not (attempt / "code").exists()
    pair = exp.directory / "pair/attempt-1"
    assert [(pair / n / "stdout.log").read_text() for n in "01"] == ["0\npacked code\n", "1\npacked code\n"]


def test_the_engine_has_what_the_dry_run_says() -> None:
    """`docker inspect` of a running job against what was asked for."""
    executor = docker_executor(
        memory="64m", cpus=0.5, user="0:0", shm_size="32m", ulimits=["nofile:100:200"], ipc_mode="private",
        env_vars={"TOKEN": "s3cret"}, additional_kwargs={"cap_drop": ["CHOWN"], "labels": {"team": "a"}},
    )  # fmt: skip
    with run.Experiment("seen", executor=executor) as exp:
        exp.add(run.Script(inline="while [ ! -e /nemo_run/go ]; do sleep 0.1; done"), name="job")
        exp.run(detach=True)
    container = wait_for(lambda: names("nemo-prefect/experiment-id=" + exp.id))[0]
    (seen,) = json.loads(subprocess.run(["docker", "inspect", container], capture_output=True, check=True).stdout)
    (exp.directory / "job/go").touch()
    limits = seen["HostConfig"]
    assert (limits["Memory"], limits["NanoCpus"], limits["ShmSize"]) == (64 << 20, 500_000_000, 32 << 20)
    assert limits["CapDrop"] == ["CHOWN"]
    assert limits["Ulimits"] == [{"Name": "nofile", "Soft": 100, "Hard": 200}]
    assert not limits["AutoRemove"]
    assert seen["Config"]["Labels"]["team"] == "a"
    assert "s3cret" not in json.dumps(seen["Config"]["Labels"])
    wait_for(lambda: run.Experiment.from_id(exp.id).status(return_dict=True)["job"]["status"] == "SUCCEEDED")  # type: ignore[index]


def names(label: str) -> list[str]:
    command = ["docker", "ps", "--filter", f"label={label}", "--format", "{{.Names}}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def wait_for(what: Any, timeout: float = 60) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found
