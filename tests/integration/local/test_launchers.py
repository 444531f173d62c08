"""Launchers on the local executor, as far as they need no PyTorch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import nemo_prefect as run

pytestmark = pytest.mark.usefixtures("server", "home")

# nsys itself needs a download from NVIDIA: this keeps its two rules, that -o lies in a directory that is there, and that
# what it profiles comes last.
NSYS = """#!/usr/bin/env bash
[ "$1" = profile ] || exit 2
while [ $# -gt 0 ]; do
  case "$1" in
    -o) echo report > "${2//%p/$$}.nsys-rep" || exit 3; shift 2 ;;
    -s|-t) shift 2 ;;
    profile|--*) shift ;;
    *) exec "$@" ;;
  esac
done
"""


def test_a_task_finds_its_nodes_where_a_cluster_would_put_them() -> None:
    task = run.Script(
        inline='echo "$head_node_ip $num_nodes $nproc_per_node $node_rank $MASTER_ADDR"',
        env={"MASTER_ADDR": "$$" + run.ExecutorMacros.HEAD_NODE_IP_VAR},
    )
    with run.Experiment("nodes", executor=run.LocalExecutor(ntasks_per_node=2)) as exp:
        exp.add(task, name="job")
        exp.run()
    assert (exp.directory / "job/attempt-1/stdout.log").read_text() == "localhost 1 2 0 localhost\n"


def test_a_profile_lies_in_the_attempts_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/nsys"
    program.parent.mkdir()
    program.write_text(NSYS)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    launcher = run.Launcher(nsys_profile=True, nsys_folder="profiles", nsys_filename="mine_%p")
    with run.Experiment("nsys", executor=run.LocalExecutor(launcher=launcher)) as exp:
        exp.add(run.Script(inline="echo profiled"), name="job")
        exp.run()
    attempt = exp.directory / "job/attempt-1"
    assert (attempt / "stdout.log").read_text() == "profiled\n"
    (report,) = (attempt / "profiles").iterdir()
    assert report.name.startswith("mine_")
