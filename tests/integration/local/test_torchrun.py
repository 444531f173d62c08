"""Real all-reduces, over gloo on the CPU, under torchrun and the fault-tolerance launcher."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.errors import ExperimentFailed

pytest.importorskip("torch", reason="pip install torch==2.13.0")
pytestmark = pytest.mark.usefixtures("server", "home")

PROGRAM = """
import sys
import nemo_prefect as run

def reduce(broken: int = -1) -> None:
    import torch
    import torch.distributed as dist
    dist.init_process_group("gloo")
    value = torch.tensor([float(dist.get_rank() + 1)])
    dist.all_reduce(value)
    print("rank", dist.get_rank(), "of", dist.get_world_size(), "sum", value.item(), flush=True)
    dist.barrier()
    if dist.get_rank() == broken:
        raise RuntimeError("this rank breaks")
    dist.destroy_process_group()

if __name__ == "__main__":
    with run.Experiment("torch", executor=run.LocalExecutor(ntasks_per_node=2, launcher=sys.argv[1])) as exp:
        exp.add(run.Partial(reduce, broken=int(sys.argv[2])), name="reduce")
        exp.run()
"""


def test_two_ranks_meet_and_their_output_is_told_apart(script: Any) -> None:
    script(PROGRAM, "torchrun", "-1")
    attempt = run.Experiment.from_title("torch").directory / "reduce/attempt-1"
    log = (attempt / "stdout.log").read_text()
    for rank in (0, 1):
        assert f"{rank}]:rank {rank} of 2 sum 3.0" in log
        (own,) = attempt.glob(f"ranks/*/attempt_0/{rank}/stdout.log")
        assert own.read_text() == f"rank {rank} of 2 sum 3.0\n"


def test_one_rank_that_breaks_fails_the_job(script: Any) -> None:
    done = script(PROGRAM, "torchrun", "1", check=False)
    assert done.returncode == 1
    assert "ExperimentFailed" in done.stderr
    assert "reduce: FAILED (exit code 1)" in done.stderr
    assert "this rank breaks" in (run.Experiment.from_title("torch").directory / "reduce/attempt-1/stderr.log").read_text()


def test_a_shell_script_runs_once_a_rank() -> None:
    executor = run.LocalExecutor(ntasks_per_node=2, launcher=run.Torchrun())
    with run.Experiment("torch-bash", executor=executor) as exp:
        exp.add(run.Script(inline="echo $RANK/$WORLD_SIZE"), name="job")
        exp.run()
    log = (exp.directory / "job/attempt-1/stdout.log").read_text()
    assert "]:0/2" in log
    assert "]:1/2" in log


def test_a_module_and_a_file_run_under_torchrun_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text("import os, sys; print(os.environ['RANK'], sys.argv[1:], flush=True)")
    monkeypatch.chdir(tmp_path)
    with run.Experiment("torch-python", executor=run.LocalExecutor(ntasks_per_node=2, launcher="torchrun")) as exp:
        exp.add(run.Script("train", entrypoint="python", m=True, args=["a b"]), name="module")
        exp.add(run.Script("train.py", entrypoint="python", args=["a b"]), name="file")
        exp.run()
    for job in ("module", "file"):
        lines = (exp.directory / job / "attempt-1/stdout.log").read_text().splitlines()
        assert sorted(lines) == ["[default0]:0 ['a b']", "[default1]:1 ['a b']"]


def test_several_nodes_meet(tmp_path: Path) -> None:
    """The command that two nodes run, each with what a cluster would tell it: both are this machine."""
    program = tmp_path / "program.py"
    program.write_text("import torch.distributed as d; d.init_process_group('gloo'); print(d.get_world_size(), flush=True)")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    macros = run.LocalExecutor().macro_values()
    nodes = []
    for rank in ("0", "1"):
        directory = str(tmp_path / rank)
        argv = run.Torchrun(rdzv_port=port).wrap(
            [sys.executable, str(program)], nnodes=2, nproc_per_node=1, directory=directory, key="k1"
        )
        command = [macros.substitute(word, {"head_node_ip": "localhost", "node_rank": rank}) for word in argv]
        nodes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
    assert [node.communicate(timeout=100)[0] for node in nodes] == ["[default0]:2\n"] * 2
    assert [node.returncode for node in nodes] == [0, 0]


def test_fault_tolerance(script: Any) -> None:
    pytest.importorskip("nvidia_resiliency_ext", reason="pip install nvidia-resiliency-ext")
    script(PROGRAM, "ft", "-1")
    log = (run.Experiment.from_title("torch").directory / "reduce/attempt-1/stdout.log").read_text()
    assert all(f"{rank}]:rank {rank} of 2 sum 3.0" in log for rank in (0, 1))
    with run.Experiment("ft", executor=run.LocalExecutor(ntasks_per_node=2, launcher="ft")) as exp:
        exp.add(run.Script(inline="[ $RANK = 0 ] || { sleep 1; exit 3; }"), name="job")  # rank 0 has ended well by then
        with pytest.raises(ExperimentFailed, match="job: FAILED"):
            exp.run()
