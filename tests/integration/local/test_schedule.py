"""The installed set of packages works together: a scheduled run really appears (SQLAlchemy 2.1 broke this silently)."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.sorting import FlowRunSort

from nemo_prefect._async import run_sync
from nemo_prefect.server import connected

pytestmark = pytest.mark.usefixtures("server")

SERVE = """
import nemo_prefect as run
from nemo_prefect.server import connected
with run.Experiment("scheduled") as exp:
    exp.add(run.Script(inline="echo on schedule"), name="job")
flow = exp.to_flow()
if __name__ == "__main__":
    with connected():
        flow.serve(name="often", interval=2, limit=1)
"""


def test_a_scheduled_run_appears(tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text(SERVE)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "serve.py"], cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
    try:

        async def runs() -> list[str]:
            async with get_client() as client:
                found = await client.read_flow_runs(
                    deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=["often"])),
                    sort=FlowRunSort.START_TIME_DESC,
                    limit=20,
                )
                return [str(r.state_name) for r in found]

        deadline = time.monotonic() + 60
        with connected():
            while not (seen := run_sync(runs())):
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(1)
        assert seen
    finally:
        process.terminate()
        process.wait(30)
