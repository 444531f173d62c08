"""Executors as blocks: saved, registered, loaded, and used in flows that know nothing of experiments."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect import flow

import nemo_prefect as run
from nemo_prefect.errors import ConfigError, ExperimentCancelled, ExperimentFailed, NotFoundError, UsageError
from nemo_prefect.executors.local import LocalExecutor
from nemo_prefect.server import connected
from nemo_prefect.states import JobStatus

pytestmark = [
    pytest.mark.usefixtures("server", "home"),
    # Prefect asks for its default result storage at a flow's run, on a connection that it leaves open.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_a_sync_flow_runs_a_job_on_a_saved_executor() -> None:
    @flow
    def training() -> Any:
        job = LocalExecutor.load("sync-block").submit(run.Script(inline="echo hello $WHO"), name="greet")
        job.wait_for_completion()
        return job.fetch_result()

    with connected():
        LocalExecutor(env_vars={"WHO": "world"}).save("sync-block")
        result = training()
    assert result.state.status is JobStatus.SUCCEEDED
    assert result.lines == ("hello world",)
    assert json.loads((result.directory / "exit.json").read_text())["exit_code"] == 0
    views = run.Experiment.from_id(result.id).status(return_dict=True)
    assert views is not None
    assert views["greet"]["status"] is JobStatus.SUCCEEDED


def test_an_async_flow_awaits_the_same_methods() -> None:
    @flow
    async def training() -> Any:
        executor = await LocalExecutor.aload("async-block")
        job = await executor.submit(run.Script(inline="echo one; exit 3"))
        with pytest.raises(UsageError, match="has not ended"):
            await job.fetch_result()
        with pytest.raises(ExperimentFailed, match="exit code 3") as caught:
            await job.wait_for_completion()
        assert list(caught.value.jobs[0].last_lines) == ["one"]
        return await job.fetch_result()

    async def main() -> Any:
        await LocalExecutor().asave("async-block")
        return await training()

    with connected():
        result = asyncio.run(main())
    assert (result.state.status, result.state.exit_code) == (JobStatus.FAILED, 3)


def test_whoever_waits_and_is_cancelled_takes_the_job_along(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    async def main() -> None:
        job = await LocalExecutor().submit(run.Script(inline=f"echo $$ > {pid}.tmp; mv {pid}.tmp {pid}; sleep 300"))
        waiting = asyncio.create_task(job.wait_for_completion())
        await asyncio.sleep(0.2)
        while not pid.exists():
            await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await job.status()).status is JobStatus.CANCELLED
        with pytest.raises(ExperimentCancelled):
            await job.wait_for_completion()

    asyncio.run(main())
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_it_works_without_any_flow_and_refuses_what_it_could_never_run() -> None:
    job = LocalExecutor().trigger(run.Script(inline="true"))
    job.wait_for_completion()
    assert job.fetch_result().state.status is JobStatus.SUCCEEDED
    with pytest.raises(ConfigError, match="no task"):
        LocalExecutor().trigger()
    with pytest.raises(ConfigError, match="does not exist"):
        LocalExecutor().submit(run.Script("no-such-script.sh"))
    with pytest.raises(ConfigError, match="is no task"):
        LocalExecutor().submit("echo")


def test_an_experiment_names_an_executor_by_slug() -> None:
    with connected():
        LocalExecutor(env_vars={"WHO": "slug"}).save("by-slug", overwrite=True)
    with run.Experiment("slugs", skip_status_at_exit=True, enable_goodbye_message=False) as exp:
        exp.add(run.Script(inline="echo $WHO"), executor="local-executor/by-slug", name="job")
        with pytest.raises(NotFoundError, match="no-such-block"):
            exp.add(run.Script(inline="true"), executor="local-executor/no-such-block")
        exp.run()
    assert (exp.directory / "job/attempt-1/stdout.log").read_text() == "slug\n"
    assert exp.spec().jobs[0].executors[0].block == "local-executor/by-slug"


def test_prefect_registers_all_executors() -> None:
    with connected():
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "block", "register", "-m", "nemo_prefect.executors"],
            capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        for kind in ("Local", "Slurm", "Docker", "Kubernetes"):
            assert f"{kind} Executor" in done.stdout
