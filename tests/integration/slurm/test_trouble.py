"""What goes wrong on clusters: jobs that are cancelled, lose their node or run too long; drivers that die; a controller that
is away; an accounting that is not there. Exactly one job each, and never a failure shown as a success."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.executors.base import JobRequest
from nemo_prefect.refs import JobRef
from nemo_prefect.states import Cause, JobState, JobStatus
from nemo_prefect.testing.conformance import ConformanceSuite

pytestmark = pytest.mark.slurm
ROOT_ONLY = pytest.mark.skipif(os.getuid() != 0, reason="needs to administer the cluster")
CONF = Path("/etc/slurm/slurm.conf")


def sh(*argv: str, check: bool = True) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=check, timeout=60).stdout.strip()


def until(what: Callable[[], Any], seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.3)
    return found


class Jobs(ConformanceSuite):
    """Single jobs, without an experiment around them."""

    __test__ = False
    timeout = 200.0

    def __init__(self, executor: run.SlurmExecutor, directory: Path) -> None:
        self.executor, self.directory = executor, directory

    def request(self, inline: str) -> JobRequest:
        return self.request_for(self.executor, run.Script(inline=inline), self.directory)

    async def start(self, inline: str, *statuses: JobStatus) -> JobRef:
        ref = await self.executor.launch(self.request(inline))
        if statuses:
            await self.wait(self.executor, ref, *statuses)
        return ref

    async def end(self, ref: JobRef) -> JobState:
        return await self.wait(self.executor, ref)


@pytest.fixture
def jobs(executor: run.SlurmExecutor, tmp_path: Path) -> Jobs:
    return Jobs(executor, tmp_path)


def test_a_waiting_job_is_cancelled(jobs: Jobs) -> None:
    async def story() -> None:
        jobs.executor.additional_parameters = {"begin": "now+1hour"}
        ref = await jobs.start("true", JobStatus.PENDING)
        await jobs.executor.cancel([ref])
        assert (await jobs.end(ref)).status is JobStatus.CANCELLED
        assert not (Path(ref.directory) / "lock").exists()

    asyncio.run(story())


def test_somebody_elses_scancel_is_no_failure_of_ours(jobs: Jobs) -> None:
    async def story() -> None:
        ref = await jobs.start("sleep 300", JobStatus.RUNNING)
        sh("scancel", ref.native_id)
        assert (await jobs.end(ref)).status is JobStatus.CANCELLED

    asyncio.run(story())


@pytest.mark.slow
def test_a_warning_comes_before_the_time_limit_and_the_limit_is_told(jobs: Jobs, executor: run.SlurmExecutor) -> None:
    """Both take a minute, so they share it: a task that checkpoints at the warning, and one that does not."""

    async def story() -> None:
        # The controller looks at time limits every 30 s: the warning has to come earlier than that.
        executor.time, executor.signal = "00:02:00", "B:USR2@70"
        saves = await jobs.start("trap 'echo saved; exit 0' USR2; for i in $(seq 600); do sleep 0.3; done")
        executor.signal = "USR2@70"
        late = await jobs.start("trap 'echo warned' USR2; for i in $(seq 600); do sleep 0.3; done")
        assert (await jobs.end(saves)).status is JobStatus.SUCCEEDED
        assert "saved" in [line.text async for line in executor.logs(saves)]
        state = await jobs.end(late)
        assert (state.status, state.cause) == (JobStatus.FAILED, Cause.TIMEOUT), state
        assert "warned" in [line.text async for line in executor.logs(late)]

    asyncio.run(story())


@ROOT_ONLY
def test_a_lost_node_is_told_from_a_failure(jobs: Jobs) -> None:
    async def story() -> None:
        jobs.executor.additional_parameters = {"nodelist": "n4"}
        ref = await jobs.start("sleep 300", JobStatus.RUNNING)
        try:
            sh("scontrol", "update", "nodename=n4", "state=down", "reason=test")
            state = await jobs.end(ref)
        finally:
            sh("scontrol", "update", "nodename=n4", "state=resume", check=False)  # it may have come back by itself
            until(lambda: "idle" in sh("sinfo", "-h", "-n", "n4", "-o", "%t"))
        assert (state.status, state.cause) == (JobStatus.FAILED, Cause.NODE_FAIL)

    asyncio.run(story())


@ROOT_ONLY
def test_a_job_whose_node_is_lost_runs_again(executor: run.SlurmExecutor, home: Path, server: object) -> None:
    nodes: list[str] = []

    def lose() -> None:
        until(lambda: sh("squeue", "--me", "-h", "-t", "R", "-o", "%j").count(".lost."), 120)
        nodes.append(sh("squeue", "--me", "-h", "-t", "R", "-o", "%N %j").split(" ")[0].strip())
        sh("scontrol", "update", f"nodename={nodes[0]}", "state=down", "reason=test")

    meanwhile = threading.Thread(target=lose)
    meanwhile.start()
    try:
        task = '[ "$NEMO_PREFECT_ATTEMPT" = 2 ] || sleep 300; echo "on $SLURMD_NODENAME"'
        with run.Experiment("lost-node", executor=executor) as exp:
            exp.add(run.Script(inline=task), name="lost")
            exp.run()
    finally:
        meanwhile.join()
        for node in nodes:
            sh("scontrol", "update", f"nodename={node}", "state=resume", check=False)  # it may have come back by itself
    assert (exp.directory / "lost/attempt-2/stdout.log").read_text().startswith("on n")
    assert len(nodes) == 1
    assert not (exp.directory / "lost/attempt-3").exists()


@ROOT_ONLY
def test_slurm_requeues_the_same_job_once(jobs: Jobs) -> None:
    async def story() -> None:
        jobs.executor.requeue = "slurm"
        task = 'echo run $SLURM_RESTART_COUNT; [ -n "$SLURM_RESTART_COUNT" ] || sleep 300'
        ref = await jobs.start(task, JobStatus.RUNNING)
        until(lambda: (Path(ref.directory) / "stdout.log").read_text())
        sh("scontrol", "requeue", ref.native_id)
        until(lambda: "PENDING" in sh("squeue", "-h", "-j", ref.native_id, "-o", "%T"))
        sh("scontrol", "update", f"jobid={ref.native_id}", "starttime=now")  # else it waits two minutes
        assert (await jobs.end(ref)).status is JobStatus.SUCCEEDED
        assert [line.text async for line in jobs.executor.logs(ref) if line.stream == "stdout"] == ["run", "run 1"]

    asyncio.run(story())


def test_of_two_submissions_one_runs_and_both_tell_its_end(jobs: Jobs) -> None:
    """sbatch queued a job, and everything that was known of it got lost: the lock keeps the second off."""

    async def story() -> None:
        request = jobs.request("echo once; sleep 3")
        first = await jobs.executor.launch(request)
        (request.directory / "slurm.json").unlink()
        second = await jobs.executor.launch(request)
        assert first.native_id != second.native_id
        found = await jobs.executor.find(request)
        assert (await jobs.end(first)).status is (await jobs.end(second)).status is JobStatus.SUCCEEDED
        assert found is not None
        assert (request.directory / "stdout.log").read_text() == "once\n"

    asyncio.run(story())


PROGRAM = """
import sys
import nemo_prefect as run

if __name__ == "__main__":
    with run.Experiment("killed", executor=run.SlurmExecutor(account="research"), id="killed_1") as exp:
        exp.add(run.Script(inline="echo ran >> {marks}; sleep {seconds}; echo over"), name="job")
        exp.run()
"""


@pytest.fixture
def driver(tmp_path: Path, home: Path, server: object) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts drivers of an experiment as processes of their own."""
    started = []

    def start(seconds: int, path: str = "") -> subprocess.Popen[bytes]:
        file = tmp_path / "program.py"
        file.write_text(textwrap.dedent(PROGRAM).format(marks=tmp_path / "marks", seconds=seconds))
        env = {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}" if path else os.environ["PATH"]}
        started.append(subprocess.Popen([sys.executable, str(file)], cwd=tmp_path, env=env, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wrapped_sbatch(folder: Path, then: str) -> Path:
    """An sbatch that submits and then goes wrong."""
    folder.mkdir()
    script = folder / "sbatch"
    script.write_text(f'#!/bin/sh\nanswer=$(/usr/bin/sbatch "$@") || exit 1\necho $answer >> {folder}/submitted\n{then}\n')
    script.chmod(0o755)
    return folder


def test_a_driver_killed_before_sbatch_answered_is_followed_by_one_that_adopts(driver: Any, tmp_path: Path) -> None:
    folder = wrapped_sbatch(tmp_path / "bin", f"echo $$ > {tmp_path}/pid; exec sleep 300")
    process = driver(3, str(folder))
    pid = int(until((tmp_path / "pid").exists) and until((tmp_path / "pid").read_text))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    os.kill(pid, signal.SIGKILL)
    run.Experiment.from_id("killed_1").resume()
    assert (tmp_path / "marks").read_text() == "ran\n"
    submitted = (folder / "submitted").read_text().split()
    assert run.Experiment.from_id("killed_1").status(return_dict=True)["job"]["handle"].endswith(f"/{submitted[0]}")  # type: ignore[index]
    assert len(submitted) == 1


def test_a_driver_killed_while_it_waits_is_followed_by_one_that_adopts(driver: Any, tmp_path: Path) -> None:
    process = driver(6)
    until((tmp_path / "marks").exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run.Experiment.from_id("killed_1").resume()
    assert (tmp_path / "marks").read_text() == "ran\n"
    directory = run.Experiment.from_id("killed_1").directory
    assert (directory / "job/attempt-1/stdout.log").read_text() == "over\n"
    assert not (directory / "job/attempt-2").exists()


def test_an_answer_that_got_lost_is_looked_up(
    executor: run.SlurmExecutor, home: Path, server: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = wrapped_sbatch(
        tmp_path / "bin",
        "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1",
    )
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    with run.Experiment("timedout", executor=executor) as exp:
        exp.add(run.Script(inline=f"echo ran >> {tmp_path}/marks"), name="job")
        exp.run()
    assert (tmp_path / "marks").read_text() == "ran\n"
    assert len((folder / "submitted").read_text().split()) == 1


# What an administrator does -------------------------------------------------------------------------------------------


def stop_controller() -> None:
    pid = int(Path("/run/slurm/slurmctld.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    until(lambda: not Path(f"/proc/{pid}").exists())


def start_controller() -> None:
    sh("slurmctld")
    until(lambda: "is UP" in sh("scontrol", "ping", check=False))
    sh("scontrol", "reconfigure")
    until(lambda: sh("sinfo", "-h", "-N", "-t", "idle,mixed,alloc,comp", "-o", "%N").count("n") >= 4)


@pytest.fixture
def configured() -> Iterator[Callable[..., None]]:
    """Changes slurm.conf, and puts it back: ``configured(MinJobAge="5")``."""
    before = CONF.read_text()

    def change(**values: str) -> None:
        lines = [line for line in before.splitlines() if line.partition("=")[0] not in values]
        stop_controller()
        CONF.write_text("\n".join([*(f"{k}={v}" for k, v in values.items() if v), *lines]) + "\n")
        start_controller()

    yield change
    if CONF.read_text() != before:
        stop_controller()
        CONF.write_text(before)
        start_controller()


@ROOT_ONLY
def test_a_controller_that_is_away_is_waited_for(
    executor: run.SlurmExecutor, home: Path, server: object, tmp_path: Path
) -> None:
    def restart() -> None:
        until((tmp_path / "marks").exists)
        stop_controller()
        time.sleep(6)
        start_controller()

    meanwhile = threading.Thread(target=restart)
    meanwhile.start()
    try:
        with run.Experiment("away", executor=executor) as exp:
            a = exp.add(run.Script(inline=f"echo a >> {tmp_path}/marks; sleep 3"), name="a")
            exp.add(run.Script(inline=f"echo b >> {tmp_path}/marks"), name="b", dependencies=[a])
            exp.run()
    finally:
        meanwhile.join()
    assert (tmp_path / "marks").read_text() == "a\nb\n"


@ROOT_ONLY
def test_without_accounting(jobs: Jobs, configured: Any) -> None:
    configured(AccountingStorageType="accounting_storage/none", AccountingStorageHost="")

    async def story() -> None:
        assert not (await jobs.executor.watched.facts(jobs.executor.tunnel)).accounting
        well, ill, long = (
            await jobs.start("true"),
            await jobs.start("exit 5"),
            await jobs.start("sleep 300", JobStatus.RUNNING),
        )
        assert (await jobs.end(well)).status is JobStatus.SUCCEEDED
        assert (await jobs.end(ill)).exit_code == 5
        await jobs.executor.cancel([long])
        assert (await jobs.end(long)).status is JobStatus.CANCELLED
        request = jobs.request("true")
        assert await jobs.executor.find(request) is None
        gone = JobRef(
            "slurm",
            jobs.executor.cluster,
            "999999",
            "k",
            str(request.directory),
            {**well.details, "remote": str(request.directory)},
        )
        for _ in range(120):  # squeue is asked again when that is decent, not at each poll
            if (state := (await jobs.executor.poll([gone]))[gone]).status is not JobStatus.SUBMITTED:
                break
            await asyncio.sleep(0.5)
        assert (state.status, state.cause) == (JobStatus.UNKNOWN, Cause.LOST)

    fresh_eyes()
    try:
        asyncio.run(story())
    finally:
        fresh_eyes()


def fresh_eyes() -> None:
    """Forget what is known of the cluster, as another process would not know it."""
    from nemo_prefect.executors.slurm import executor as module

    module._clusters.clear()


@ROOT_ONLY
def test_accounts_and_memory_where_slurm_minds_them(jobs: Jobs, configured: Any) -> None:
    configured(
        AccountingStorageEnforce="associations",
        JobAcctGatherParams="OverMemoryKill",
        JobAcctGatherFrequency="1",
        SelectTypeParameters="CR_CPU_Memory",
    )

    async def story() -> None:
        eater = f"exec {sys.executable} -c \"x = b'x' * (400 << 20); import time; time.sleep(120)\""
        jobs.executor.mem = "50M"
        greedy = await jobs.start(eater)
        jobs.executor.account = "strangers"
        with pytest.raises(run.errors.SubmissionError, match="Invalid account"):
            await jobs.start("true")
        state = await jobs.end(greedy)
        assert (state.status, state.cause) == (JobStatus.FAILED, Cause.OUT_OF_MEMORY), state

    asyncio.run(story())
