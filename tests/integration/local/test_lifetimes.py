"""Jobs outlive whatever launched them, and none is lost or doubled: detach, Ctrl-C, kill -9, resume, cancel."""

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
from nemo_prefect.errors import ExperimentCancelled, ExperimentFailed, UsageError
from nemo_prefect.layout import Layout
from nemo_prefect.ledger import Ledger
from nemo_prefect.server import EmbeddedServer
from nemo_prefect.session import driver

pytestmark = pytest.mark.usefixtures("server", "home")

PROGRAM = """
import sys
import nemo_prefect as run
with run.Experiment("long") as exp:
    print(exp.id, flush=True)
    ticks = "echo run >> marks; for i in $(seq 40); do echo tick $i; sleep 0.2; done"
    first = exp.add(run.Script(inline=ticks), name="first")
    exp.add(run.Script(inline="echo run >> marks; echo second"), name="second", dependencies=[first])
    exp.run(detach="detach" in sys.argv)
"""


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Starts a program that runs an experiment, and gives it with the experiment's id."""
    started = []

    def start(source: str = PROGRAM, *arguments: str) -> tuple[subprocess.Popen[str], str]:
        file = tmp_path / "program.py"
        file.write_text(textwrap.dedent(source))
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
        process.stdout.close()  # type: ignore[union-attr]


def status(exp_id: str) -> dict[str, Any]:
    found = run.Experiment.from_id(exp_id).status(return_dict=True)
    assert found is not None
    return {job: view["status"].value for job, view in found.items()}


def wait_until(claim: Callable[[], bool], timeout: float = 40.0) -> None:
    deadline = time.monotonic() + timeout
    while not claim():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)


def is_running(exp_id: str, job: str = "first") -> bool:
    try:
        return status(exp_id)[job] == "RUNNING"
    except run.errors.NotFoundError:
        return False


def directory(exp_id: str) -> Path:
    return run.Experiment.from_id(exp_id).directory


def marks(tmp_path: Path) -> int:
    return (tmp_path / "marks").read_text().count("run")


def server_state(exp_id: str) -> str:
    import asyncio

    from prefect.client.orchestration import get_client

    from nemo_prefect.server import connected

    async def read() -> str:
        async with get_client() as client:
            return str((await client.read_flow_run(run.Experiment.from_id(exp_id)._history().flow_run_id)).state_name)  # type: ignore[arg-type]

    with connected():
        return asyncio.run(read())


def test_detached_it_goes_on_and_other_processes_see_it(launch: Any, tmp_path: Path) -> None:
    process, exp_id = launch(PROGRAM, "detach")
    assert process.wait(60) == 0
    wait_until(lambda: is_running(exp_id))
    command = [sys.executable, "-m", "nemo_prefect", "experiment"]
    shown = subprocess.run([*command, "status", exp_id, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout)["first"]["status"] == "RUNNING"
    assert json.loads(shown.stdout)["second"]["status"] == "UNSUBMITTED"
    lines = subprocess.run([*command, "logs", exp_id, "first", "--no-follow"], capture_output=True, text=True, check=True)
    assert "tick 1" in lines.stdout
    followed = subprocess.run([*command, "logs", exp_id, "0"], capture_output=True, text=True, check=True, timeout=60)
    assert followed.stdout.split()[-1] == "40"
    wait_until(lambda: status(exp_id)["second"] == "SUCCEEDED")
    wait_until(lambda: driver(Layout(directory(exp_id))) is None)
    assert marks(tmp_path) == 2
    assert server_state(exp_id) == "Completed"


def test_cancel_one_job_from_another_process(launch: Any) -> None:
    process, exp_id = launch(PROGRAM, "detach")
    assert process.wait(60) == 0
    wait_until(lambda: is_running(exp_id))
    began = time.monotonic()
    run.Experiment.from_id(exp_id).cancel("first")
    assert time.monotonic() - began < 10
    wait_until(lambda: driver(Layout(directory(exp_id))) is None)
    assert status(exp_id) == {"first": "CANCELLED", "second": "UNSUBMITTED"}
    assert server_state(exp_id) == "Cancelled"


def test_cancelling_the_flow_run_on_the_server_ends_the_job(launch: Any) -> None:
    import asyncio

    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    from nemo_prefect.server import connected

    process, exp_id = launch()
    wait_until(lambda: is_running(exp_id))

    async def cancel() -> None:
        async with get_client() as client:
            flow_run_id = run.Experiment.from_id(exp_id)._history().flow_run_id
            await client.set_flow_run_state(flow_run_id, Cancelling(), force=True)  # type: ignore[arg-type]

    began = time.monotonic()
    with connected():
        asyncio.run(cancel())
    out, _ = process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert process.returncode == 1
    assert "was cancelled" in out
    assert status(exp_id) == {"first": "CANCELLED", "second": "CANCELLED"}
    assert server_state(exp_id) == "Cancelled"


def test_ctrl_c_leaves_the_jobs_to_a_runner(launch: Any, tmp_path: Path) -> None:
    process, exp_id = launch()
    wait_until(lambda: is_running(exp_id))
    before = Ledger(directory(exp_id)).latest()["first"]
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "goes on in the background" in out
    assert "nemo-prefect experiment cancel" in out
    assert driver(Layout(directory(exp_id))) is not None
    wait_until(lambda: status(exp_id) == {"first": "SUCCEEDED", "second": "SUCCEEDED"})
    wait_until(lambda: driver(Layout(directory(exp_id))) is None)
    assert Ledger(directory(exp_id)).latest()["first"].ref == before.ref
    assert marks(tmp_path) == 2
    assert server_state(exp_id) == "Completed"


def test_ctrl_c_twice_cancels(launch: Any) -> None:
    process, exp_id = launch()
    wait_until(lambda: is_running(exp_id))
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "was cancelled" in out
    assert status(exp_id) == {"first": "CANCELLED", "second": "CANCELLED"}
    assert server_state(exp_id) == "Cancelled"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminated_launcher_leaves_the_jobs_to_a_runner(launch: Any, tmp_path: Path, number: int) -> None:
    process, exp_id = launch()
    wait_until(lambda: is_running(exp_id))
    process.send_signal(number)
    process.communicate(timeout=60)
    wait_until(lambda: status(exp_id) == {"first": "SUCCEEDED", "second": "SUCCEEDED"})
    wait_until(lambda: driver(Layout(directory(exp_id))) is None)
    assert marks(tmp_path) == 2
    assert server_state(exp_id) == "Completed"


def test_killed_while_waiting_then_resumed_the_job_is_adopted(launch: Any, tmp_path: Path) -> None:
    process, exp_id = launch()
    wait_until(lambda: is_running(exp_id))
    process.kill()
    process.wait()
    assert status(exp_id)["first"] == "RUNNING"
    exp = run.Experiment.from_id(exp_id)
    exp.resume()
    assert status(exp_id) == {"first": "SUCCEEDED", "second": "SUCCEEDED"}
    assert marks(tmp_path) == 2
    assert Ledger(exp.directory).latest()["first"].attempt == 1
    assert server_state(exp_id) == "Completed"
    # What the killed process had sent to the server is not sent again.
    assert [p.name for p in (exp.directory / "first").glob("attempt-*")] == ["attempt-1"]


KILLED = """
import os, sys
import nemo_prefect as run
from nemo_prefect.executors.local import LocalExecutor
launch = LocalExecutor.launch
async def dies(self, request):
    if "before" not in sys.argv:
        await launch(self, request)
    os.kill(os.getpid(), 9)
LocalExecutor.launch = dies
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_between_submission_and_answer_then_resumed_it_runs_once(launch: Any, tmp_path: Path, moment: str) -> None:
    process, exp_id = launch(KILLED + PROGRAM, moment)
    process.wait(60)
    assert process.returncode == -signal.SIGKILL
    assert Ledger(directory(exp_id)).latest()["first"].event == "SUBMITTING"
    run.Experiment.from_id(exp_id).resume()
    assert status(exp_id) == {"first": "SUCCEEDED", "second": "SUCCEEDED"}
    assert marks(tmp_path) == 2


def test_jobs_that_ended_while_nobody_watched_count_as_they_ended(launch: Any, tmp_path: Path) -> None:
    process, exp_id = launch(PROGRAM.replace("done", "done; exit 3").replace("seq 40", "seq 10"))
    wait_until(lambda: is_running(exp_id))
    process.kill()
    process.wait()
    wait_until(lambda: status(exp_id)["first"] == "FAILED")
    exp = run.Experiment.from_id(exp_id)
    with pytest.raises(ExperimentFailed, match="exit code 3"):
        exp.resume()
    assert marks(tmp_path) == 1
    # Asked once more, it is tried again: the failure is known now.
    with pytest.raises(ExperimentFailed, match="exit code 3"):
        run.Experiment.from_id(exp_id).resume()
    assert marks(tmp_path) == 2


def test_a_killed_supervisor_is_a_lost_job_not_a_success(launch: Any) -> None:
    process, exp_id = launch()
    wait_until(lambda: is_running(exp_id))
    ref = Ledger(directory(exp_id)).latest()["first"].ref
    assert ref is not None
    os.kill(ref.details["pid"], signal.SIGKILL)
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 1
    assert status(exp_id)["first"] == "FAILED"
    assert "left no exit record" in out


def test_cancel_without_a_driver(launch: Any) -> None:
    process, exp_id = launch()
    wait_until(lambda: is_running(exp_id))
    process.kill()
    process.wait()
    run.Experiment.from_id(exp_id).cancel()
    assert status(exp_id)["first"] == "CANCELLED"
    assert server_state(exp_id) == "Cancelled"


def test_only_one_drives(launch: Any) -> None:
    process, exp_id = launch(PROGRAM, "detach")
    assert process.wait(60) == 0
    exp = run.Experiment.from_id(exp_id)
    with pytest.raises(UsageError, match=r"is running: process \d+"):
        exp.resume()
    exp.cancel()
    wait_until(lambda: driver(Layout(exp.directory)) is None)


def test_a_cancelled_experiment_resumes(launch: Any, tmp_path: Path) -> None:
    process, exp_id = launch(PROGRAM.replace("seq 40", "seq 15"), "detach")
    assert process.wait(60) == 0
    wait_until(lambda: is_running(exp_id))
    run.Experiment.from_id(exp_id).cancel()
    wait_until(lambda: driver(Layout(directory(exp_id))) is None)
    run.Experiment.from_id(exp_id).resume()
    assert status(exp_id) == {"first": "SUCCEEDED", "second": "SUCCEEDED"}
    assert server_state(exp_id) == "Completed"


def test_a_reader_on_another_machine_gets_it_from_the_server(
    launch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another machine shares the server, not the disk: simulated by a home that is somewhere else."""
    process, exp_id = launch(PROGRAM, "detach")
    assert process.wait(60) == 0
    wait_until(lambda: is_running(exp_id))
    where = directory(exp_id)
    (where / "_CONFIG").rename(where / "hidden")  # on that machine the path means nothing
    monkeypatch.setenv("NEMORUN_HOME", str(tmp_path / "elsewhere"))
    exp = run.Experiment.from_id(exp_id)
    wait_until(lambda: exp.status(return_dict=True)["first"]["status"] == "RUNNING")  # type: ignore[index]
    assert exp.status(return_dict=True)["second"]["status"] == "UNSUBMITTED"  # type: ignore[index]
    capsys.readouterr()
    began = time.monotonic()
    exp.cancel("first")
    assert time.monotonic() - began < 20
    wait_until(lambda: exp.status(return_dict=True)["first"]["status"] == "CANCELLED")  # type: ignore[index]
    exp.logs("first")
    assert "tick 1" in capsys.readouterr().err


def test_cancelled_raises_its_own_error() -> None:
    assert issubclass(ExperimentCancelled, ExperimentFailed)


def test_a_closed_pipe_does_not_end_an_experiment(launch: Any, tmp_path: Path) -> None:
    """``python program.py | head -1``."""
    process, exp_id = launch(PROGRAM.replace("seq 40", "seq 10"))
    process.stdout.close()
    process.wait(60)
    wait_until(lambda: status(exp_id) == {"first": "SUCCEEDED", "second": "SUCCEEDED"})
    wait_until(lambda: driver(Layout(directory(exp_id))) is None)
    assert marks(tmp_path) == 2


def test_a_server_that_is_restarted_in_the_middle_loses_nothing(
    launch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    embedded = EmbeddedServer(tmp_path / "prefect")
    try:
        before = embedded.start()
        process, exp_id = launch(PROGRAM)
        where = tmp_path / "home/experiments/long" / exp_id
        wait_until(lambda: (where / "first/attempt-1/process.json").exists())
        embedded.stop()
        time.sleep(3)
        assert embedded.start().auth == before.auth
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out
        assert status(exp_id) == {"first": "SUCCEEDED", "second": "SUCCEEDED"}
        assert marks(tmp_path) == 2
    finally:
        embedded.stop()
