"""Containers outlive whatever launched them, are adopted and never doubled, and leave nothing behind."""

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

import pytest

import nemo_prefect as run
from nemo_prefect.layout import Layout
from nemo_prefect.ledger import Ledger
from nemo_prefect.session import driver

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("server", "home")]

PROGRAM = """
import sys
import nemo_prefect as run
executor = run.DockerExecutor(container_image="local/python:3.11", image_pull_policy="Never", stop_timeout=2)
with run.Experiment("long", executor=executor) as exp:
    print(exp.id, flush=True)
    stubborn = "trap '' TERM; " if "stubborn" in sys.argv else ""
    ticks = stubborn + "echo run >> /nemo_run/marks; for i in $(seq 60); do echo tick $i; sleep 0.2; done"
    first = exp.add(run.Script(inline=ticks), name="first")
    exp.add([run.Script(inline="echo run >> /nemo_run/marks")] * 2, name="second", dependencies=[first])
    exp.run(detach="detach" in sys.argv)
"""


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Starts a program that runs an experiment, and gives it with the experiment's id."""
    started = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        file = tmp_path / "program.py"
        file.write_text(textwrap.dedent(PROGRAM))
        process = subprocess.Popen(
            [sys.executable, str(file), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process, process.stdout.readline().strip()  # type: ignore[union-attr]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def status(exp_id: str) -> dict[str, str]:
    found = run.Experiment.from_id(exp_id).status(return_dict=True)
    return {name: row["status"] for name, row in (found or {}).items()}


def wait_until(what: Callable[[], Any], timeout: float = 90) -> Any:
    deadline = time.monotonic() + timeout
    while True:
        try:
            if found := what():
                return found
        except (run.errors.NotFoundError, FileNotFoundError):
            pass
        assert time.monotonic() < deadline
        time.sleep(0.2)


def root(exp_id: str) -> Path:
    return run.Experiment.from_id(exp_id).directory


def running(exp_id: str) -> list[str]:
    ours = f"label=nemo-prefect/experiment-id={exp_id}"
    command = ["docker", "ps", "--filter", ours, "--format", "{{.ID}}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def log(exp_id: str) -> list[str]:
    return (root(exp_id) / "first/attempt-1/stdout.log").read_text().splitlines()


def test_killed_and_resumed_the_container_is_adopted(launch: Any) -> None:
    process, exp_id = launch()
    wait_until(lambda: "tick 5" in log(exp_id))
    (before,) = running(exp_id)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: driver(Layout(root(exp_id))) is None)
    assert status(exp_id)["first"] == "RUNNING"
    assert running(exp_id) == [before]
    # As if it had been killed before the answer was written down, too.
    ledger = root(exp_id) / "ledger.jsonl"
    lines = [line for line in ledger.read_text().splitlines(keepends=True) if '"SUBMITTED"' not in line]
    ledger.write_text("".join(lines))
    run.Experiment.from_id(exp_id).resume()
    assert log(exp_id) == [f"tick {i}" for i in range(1, 61)]
    assert (root(exp_id) / "first/marks").read_text() == "run\n"
    assert (root(exp_id) / "second/marks").read_text() == "run\n" * 2
    assert set(status(exp_id).values()) == {"SUCCEEDED"}


def test_cancelled_from_another_process_with_a_grace_period(launch: Any) -> None:
    process, exp_id = launch("detach", "stubborn")
    assert process.wait(90) == 0
    wait_until(lambda: "tick 1" in log(exp_id))
    began = time.monotonic()
    run.Experiment.from_id(exp_id).cancel("first")
    assert time.monotonic() - began < 30
    assert running(exp_id) == []
    wait_until(lambda: driver(Layout(root(exp_id))) is None)
    assert status(exp_id)["first"] == "CANCELLED"
    ended = json.loads((root(exp_id) / "first/attempt-1/exit.json").read_text())
    assert (ended["exit_code"], ended["cancelled"]) == (137, True)
    assert ended["end"] - ended["start"] > 2


def test_cancelled_while_nobody_drives_it(launch: Any) -> None:
    process, exp_id = launch()
    wait_until(lambda: "tick 1" in log(exp_id))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: driver(Layout(root(exp_id))) is None)
    run.Experiment.from_id(exp_id).cancel("first")
    assert running(exp_id) == []
    assert status(exp_id)["first"] == "CANCELLED"
    entry = Ledger(root(exp_id)).latest()["first"]
    assert entry.event == "ENDED"


def test_a_container_that_somebody_removes_is_lost(launch: Any) -> None:
    process, exp_id = launch()
    wait_until(lambda: "tick 1" in log(exp_id))
    subprocess.run(["docker", "rm", "-f", *running(exp_id)], check=True, capture_output=True)
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "its container is gone and left no exit record" in out
    assert status(exp_id)["first"] == "FAILED"
    assert status(exp_id)["second"] == "UNSUBMITTED"
