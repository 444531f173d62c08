"""The launching script, imported by a job whose Python has no nemo_prefect."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from nemo_prefect.worker import run as worker

SCRIPT = """
import nemo_prefect as run
from nemo_prefect.errors import ExperimentFailed
from nemo_prefect import Plugin

EXECUTOR = run.LocalExecutor(ntasks_per_node=2)

class Mine(run.Plugin):
    def setup(self, task: run.Partial, executor: run.Config[int]) -> None: ...

@run.autoconvert
def model(): ...

@run.autoconvert(partial=True)
def other(): ...

def train(lr):
    print("lr", lr)

def uses_it():
    print(EXECUTOR.clone())

def imports_it():
    import nemo_prefect

with run.Experiment("x") as exp:
    raise SystemExit("a job launched the experiment")
"""


def call(tmp_path: Path, function: str, **arguments: object) -> subprocess.CompletedProcess[str]:
    (tmp_path / "__main__.py").write_text(SCRIPT)
    node = {"kind": "partial", "symbol": f"__main__:{function}", "args": [], "kwargs": arguments}
    (tmp_path / "task.json").write_text(json.dumps({"main": "__main__.py", "root": {"node": 0}, "nodes": [node]}))
    command = [sys.executable, "-I", "-S", str(worker.__file__), str(tmp_path / "task.json")]
    return subprocess.run(command, capture_output=True, text=True)


def test_its_functions_are_defined(tmp_path: Path) -> None:
    done = call(tmp_path, "train", lr=0.5)
    assert (done.returncode, done.stdout) == (0, "lr 0.5\n"), done.stderr


def test_what_is_not_there_does_not_pretend_to_be(tmp_path: Path) -> None:
    done = call(tmp_path, "uses_it")
    assert done.returncode == 1
    assert "nemo_prefect.LocalExecutor.call.clone was used inside a job" in done.stderr
    assert "No module named 'nemo_prefect'" in call(tmp_path, "imports_it").stderr
