"""What a run shows on the server beside states and logs."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

import nemo_prefect as run
from nemo_prefect.layout import Layout
from nemo_prefect.server import connected

pytestmark = pytest.mark.usefixtures("server", "home")


def artifacts_of(exp: run.Experiment) -> dict[str, Any]:
    async def read() -> Any:
        flow_run = Layout(exp.directory).read_run()["flow_run_id"]
        async with get_client() as client:
            of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]))
            return await client.read_artifacts(artifact_filter=of_run)

    with connected():
        return {a.key: a for a in asyncio.run(read())}


def test_a_run_shows_its_table_scripts_config_and_origin_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "code"
    repository.mkdir()

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=repository, check=True)

    git("init", "-q", "-b", "trunk")
    (repository / "train.sh").write_text("echo one\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    (repository / "train.sh").write_text("echo two\n")
    monkeypatch.chdir(repository)
    executor = run.LocalExecutor(env_vars={"WANDB_API_KEY": "not-for-anybody"})
    with run.Experiment("shows", executor=executor, skip_status_at_exit=True, enable_goodbye_message=False) as exp:
        exp.add(run.Script("train.sh", env={"MORE": "neither-is-this"}), name="train")
        exp.run()
    found = artifacts_of(exp)
    assert {"shows-jobs", "shows-scripts", "shows-config", "shows-provenance"} <= set(found)
    (row,) = json.loads(found["shows-jobs"].data)
    assert (row["job"], row["state"], row["cause"], row["attempts"]) == ("train", "SUCCEEDED", "", 1)
    assert row["queue time (s)"] >= 0
    assert row["run time (s)"] >= 0
    assert "train.sh" in found["shows-scripts"].data
    assert str(exp.directory / "train/attempt-1/stdout.log") in found["shows-scripts"].data
    assert "WANDB_API_KEY" in found["shows-config"].data
    assert "+echo two" in found["shows-provenance"].data
    assert "trunk" in found["shows-provenance"].data
    assert "prefect==" in found["shows-provenance"].data
    for artifact in found.values():
        assert "not-for-anybody" not in str(artifact.data)
        assert "neither-is-this" not in str(artifact.data)


def test_a_job_that_reports_its_progress_shows_it() -> None:
    code = "from nemo_prefect.worker import report; report(3, 4, loss=0.5); report(4, 4, loss=0.25)"
    with run.Experiment("reports", skip_status_at_exit=True, enable_goodbye_message=False) as exp:
        exp.add(run.Script(inline=f"python -c '{code}'"), name="train")
        exp.run()
    progress = artifacts_of(exp)["train-progress"]
    assert float(progress.data) == 100.0
    assert progress.description == "train: step 4 of 4, loss=0.25"
