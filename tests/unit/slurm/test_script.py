"""The batch script itself, under bash, with an srun of our own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.executors.registry import executor_from_spec
from nemo_prefect.executors.slurm import script
from nemo_prefect.executors.slurm.script import DUPLICATE
from nemo_prefect.layout import Layout

RUNS_TASKS = 'for word; do last=$word; done; SLURM_PROCID=0 SLURM_NTASKS=1 sh "$last"'
Batch = Callable[..., tuple[int, "dict[str, Any] | None"]]


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of an attempt at a job that says ``ran`` and ends with what the file ``code`` holds."""
    monkeypatch.setattr(script, "PATIENCE", 1)
    executor = run.SlurmExecutor(account="research")
    with run.Experiment("unit", base_dir=str(tmp_path / "home")) as exp:
        exp.add(run.Script(inline=f"echo ran >> {tmp_path}/marks; exit $(cat {tmp_path}/code)"), executor, name="job")
        spec = exp.spec()
    layout = Layout(spec.directory)
    layout.write(spec)
    request = layout.request(spec, spec.jobs[0], "job", range(1), 1)
    request.directory.mkdir(parents=True)
    rendered: Any = executor_from_spec(spec.jobs[0].executors[0]).render(request)
    for name, text in rendered.files.items():
        (request.directory / name).write_text(text)
    (tmp_path / "code").write_text("0")
    return request.directory


@pytest.fixture
def batch(attempt: Path, tmp_path: Path) -> Batch:
    """Runs the batch script as Slurm would; gives its exit code and the job's record."""

    def start(srun: str = RUNS_TASKS, job: str = "7", **env: str) -> tuple[int, dict[str, Any] | None]:
        (tmp_path / "bin").mkdir(exist_ok=True)
        program = tmp_path / "bin/srun"
        program.write_text(f"#!/bin/sh\n{srun}\n")
        program.chmod(0o755)
        path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", str(attempt / "job.sh")],
            env={"PATH": path, "SLURM_JOB_ID": job, **env},
            timeout=60,
            capture_output=True,
        )
        record = attempt / "exit.json"
        return done.returncode, json.loads(record.read_text()) if record.exists() else None

    return start


def test_it_records_the_tasks_exit_code(batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "code").write_text("3")
    code, record = batch()
    assert code == 3
    assert record is not None
    assert (record["exit_code"], record["cancelled"]) == (3, False)


def test_it_records_a_success(batch: Batch) -> None:
    code, record = batch()
    assert record is not None
    assert (code, record["exit_code"]) == (0, 0)


def test_an_srun_that_ends_well_without_its_tasks_is_no_success(batch: Batch) -> None:
    """Slurm 22.05's does so when it loses its node."""
    code, record = batch("exit 0")
    assert code == 1
    assert record is not None
    assert record["exit_code"] == 1
    assert "task 0" in record["message"]


def test_the_second_of_two_submissions_leaves_everything_alone(batch: Batch, tmp_path: Path) -> None:
    batch()
    code, record = batch(job="8")
    assert code == DUPLICATE
    assert record is not None
    assert record["exit_code"] == 0
    assert (tmp_path / "marks").read_text() == "ran\n"


def test_a_job_that_slurm_queued_again_runs_again_unless_it_had_succeeded(batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "code").write_text("1")
    assert batch()[0] == 1
    (tmp_path / "code").write_text("0")
    assert batch(SLURM_RESTART_COUNT="1")[0] == 0
    assert batch(SLURM_RESTART_COUNT="2")[0] == 0
    assert (tmp_path / "marks").read_text() == "ran\nran\n"


def test_who_is_told_to_end_leaves_the_verdict_to_slurm(batch: Batch, attempt: Path) -> None:
    code, record = batch("kill -TERM $PPID; sleep 1")
    assert (code, record) == (143, None)
    assert (attempt / "terminated").exists()
