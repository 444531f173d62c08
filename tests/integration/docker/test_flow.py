"""flows/docker_training.py, as a user would start it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("server")]

FLOW = Path(__file__).parents[3] / "flows/docker_training.py"


def test_docker_training(home: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FLOW), "local/python:3.11"], capture_output=True, text=True, cwd=tmp_path, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "best: " in done.stdout
    (table,) = home.glob("experiments/docker-training/*/compare/attempt-1/artifacts/results.json")
    rows = json.loads(table.read_text())
    assert sorted(row["lr"] for row in rows) == [0.0001, 0.01, 0.3]
    assert rows[0]["accuracy"] > 0.85
    (log,) = home.glob("experiments/docker-training/*/train-0.01/attempt-1/stdout.log")
    assert [line.split(":")[0] for line in log.read_text().splitlines()] == [f"epoch {n}" for n in range(1, 6)]
