"""One experiment over all executors, on real clusters."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.layout import Layout

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.docker,
    pytest.mark.kubernetes,
    pytest.mark.usefixtures("server", "home"),
]

FLOW = Path(__file__).parents[3] / "flows/multi_executor_dag.py"
IMAGE = "local/python:3.11"
EDGES = {
    "storage": set(),
    "numbers": {"storage"},
    "split": {"numbers"},
    "train-0": {"split"},
    "train-1": {"split"},
    "evaluate": {"train-0", "train-1"},
    "report": {"evaluate"},
}


@pytest.fixture
def clusters() -> None:
    for name, command in {
        "Slurm": ["scontrol", "ping"],
        "Docker": ["docker", "image", "inspect", IMAGE],
        "Kubernetes": ["kubectl", "get", "nodes", "--request-timeout=5s"],
    }.items():
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=30)
        except (OSError, subprocess.SubprocessError):
            pytest.skip(f"needs Slurm, Docker (with the image {IMAGE}) and Kubernetes; {name} is not up")


def graph_of(flow_run_id: str) -> dict[str, set[str]]:
    """The edges as the UI's graph has them: each job with those that it waited for."""
    from prefect.client.orchestration import get_client

    from nemo_prefect.server import connected

    async def read() -> Any:
        async with get_client() as client:
            return (await client._client.get(f"/flow_runs/{flow_run_id}/graph-v2")).json()

    with connected():
        nodes = dict(asyncio.run(read())["nodes"])
    return {n["label"]: {nodes[p["id"]]["label"] for p in n["parents"]} for n in nodes.values()}


def test_files_are_handed_on_from_one_executor_to_the_next(clusters: None, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FLOW), "--image", IMAGE], capture_output=True, text=True, cwd=tmp_path, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    exp = run.Experiment.from_title("multi-executor")
    trail = [json.loads(line) for line in (exp.directory / "storage/trail.jsonl").read_text().splitlines()]
    order = [row["stage"] for row in trail]
    assert order[:2] == ["numbers", "split"]
    assert sorted(order[2:4]) == ["train-0", "train-1"]
    assert order[4:] == ["evaluate"]
    hosts = {row["stage"]: row["host"] for row in trail}
    assert hosts["evaluate"].startswith("evaluate-")  # the pod
    assert len({hosts["numbers"], hosts["train-0"], hosts["train-1"], hosts["evaluate"]}) == 4
    (row,) = json.loads((exp.directory / "evaluate/attempt-1/artifacts/result.json").read_text())
    assert abs(row["slope"] - 2) < 0.1
    status = exp.status(return_dict=True) or {}
    assert {job: (s["executor"], s["status"]) for job, s in status.items()} == {
        "storage": ("local", "SUCCEEDED"),
        "numbers": ("local", "SUCCEEDED"),
        "split": ("slurm", "SUCCEEDED"),
        "train-0": ("docker", "SUCCEEDED"),
        "train-1": ("docker", "SUCCEEDED"),
        "evaluate": ("kubernetes", "SUCCEEDED"),
        "report": ("local", "SUCCEEDED"),
    }
    assert graph_of(Layout(exp.directory).read_run()["flow_run_id"]) == EDGES
