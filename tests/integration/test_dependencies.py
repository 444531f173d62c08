"""What pip may resolve within our bounds works together. (Bounds and reasons: pyproject.toml.)"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from nemo_prefect.server import Record

BIN = Path(sys.executable).parent


def test_what_is_installed_is_within_the_bounds() -> None:
    for text in requires("nemo-prefect") or []:
        requirement = Requirement(text)
        if requirement.marker is None:
            assert requirement.specifier.contains(version(requirement.name), prereleases=True), text


@pytest.mark.parametrize("noun", ["flow", "flow-run", "deployment", "block", "work-pool"])
def test_prefects_own_commands_work_on_the_embedded_server(server: Record, noun: str) -> None:
    """FastAPI 0.151 and later answer their requests with 422."""
    env = {**os.environ, "PREFECT_API_URL": server.api_url, "PREFECT_API_AUTH_STRING": server.auth}
    done = subprocess.run([str(BIN / "prefect"), noun, "ls"], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Unprocessable" not in done.stdout + done.stderr


def test_the_blocks_can_be_registered(server: Record) -> None:
    env = {**os.environ, "PREFECT_API_URL": server.api_url, "PREFECT_API_AUTH_STRING": server.auth}
    done = subprocess.run(
        [str(BIN / "prefect"), "block", "register", "-m", "nemo_prefect.executors"], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Local Executor" in done.stdout


def test_an_executor_block_is_saved_and_found_by_its_slug(server: Record) -> None:
    import nemo_prefect as run
    from nemo_prefect.errors import ConfigError, NotFoundError
    from nemo_prefect.server import connected

    with connected():
        run.LocalExecutor(env_vars={"FROM": "block"}).save("mine", overwrite=True)
    with run.Experiment("by-slug", executor="local-executor/mine") as exp:
        exp.add(run.Script(inline="echo $FROM"), name="job")
        exp.run()
    assert (exp.directory / "job/attempt-1/stdout.log").read_text() == "block\n"
    assert exp.spec().jobs[0].executors[0].block == "local-executor/mine"
    with pytest.raises(NotFoundError, match="no block 'local-executor/nope'"), run.Experiment("x") as other:
        other.add(run.Script(inline="true"), executor="local-executor/nope")
    with pytest.raises((ConfigError, NotFoundError)), run.Experiment("x") as other:
        other.add(run.Script(inline="true"), executor="no-slash")
