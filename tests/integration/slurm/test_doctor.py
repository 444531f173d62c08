"""``nemo-prefect doctor slurm``, on the cluster at hand and where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slurm


def doctor(**env: str) -> tuple[int, dict[str, tuple[str, str]]]:
    command = [sys.executable, "-m", "nemo_prefect", "doctor", "slurm", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **env})
    return done.returncode, {f["subject"]: (f["level"], f["said"]) for f in json.loads(done.stdout)}


def test_it_says_what_the_cluster_allows() -> None:
    code, found = doctor()
    assert code == 0
    assert {"Slurm", "accounting", "MaxArraySize", "MinJobAge"} <= set(found)
    (partition,) = (said for subject, (_, said) in found.items() if subject.startswith("partition debug"))
    assert "time limit" in partition
    assert any(subject == "account research" for subject in found)


def test_without_slurm_it_says_what_to_do() -> None:
    code, found = doctor(PATH="/nowhere")
    assert code == 1
    assert found["slurm"][0] == "error"
