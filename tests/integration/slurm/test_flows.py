"""The flow that users start from, on the cluster at hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("server", "home")]
FLOW = Path(__file__).parents[3] / "flows" / "slurm_training.py"


def test_slurm_training(home: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(FLOW)], capture_output=True, text=True, cwd=tmp_path, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    (table,) = home.glob("experiments/slurm-training/*/compare/attempt-1/artifacts/fits.json")
    rows = json.loads(table.read_text())
    assert len(rows) >= 4
    assert all(abs(row["slope"] - 3) < 0.3 and abs(row["offset"] - 1) < 0.3 for row in rows)
    assert len(list(home.glob("experiments/slurm-training/*/arrays/*.sh"))) == 1  # the sweep was one submission
