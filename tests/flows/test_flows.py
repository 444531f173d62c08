"""Every flow in flows/ that needs this machine only runs, as a user would start it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FLOWS = Path(__file__).parents[2] / "flows"

pytestmark = pytest.mark.usefixtures("server", "home")


#: Flows that need a cluster; tests/integration has a test of each.
CLUSTERS = ("docker_", "kubernetes_", "multi_executor_", "slurm_")


@pytest.mark.parametrize("flow", sorted(p.name for p in FLOWS.glob("*.py") if not p.name.startswith(CLUSTERS)))
def test_it_runs(flow: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FLOWS / flow)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_hello_world_publishes_its_table(home: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(FLOWS / "hello_world.py")], check=True, capture_output=True, cwd=tmp_path)
    (table,) = home.glob("experiments/hello-world/*/compare/attempt-1/artifacts/metrics.json")
    rows = json.loads(table.read_text())
    assert [row["hidden"] for row in rows] == [64, 8]
    assert rows[0]["accuracy"] > 0.9
