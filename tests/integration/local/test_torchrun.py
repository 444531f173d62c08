"""A real all-reduce, over gloo on the CPU, under torchrun."""

from __future__ import annotations

from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.errors import ConfigError

pytest.importorskip("torch", reason="torch is not installed: pip install torch")
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
    with run.Experiment("torch", executor=run.LocalExecutor(ntasks_per_node=2, launcher="torchrun")) as exp:
        exp.add(run.Partial(reduce, broken=int(sys.argv[1])), name="reduce")
        exp.run()
"""


def test_two_ranks_meet_and_their_output_is_told_apart(script: Any) -> None:
    script(PROGRAM, "-1")
    attempt = run.Experiment.from_title("torch").directory / "reduce/attempt-1"
    log = (attempt / "stdout.log").read_text()
    for rank in (0, 1):
        assert f"{rank}]:rank {rank} of 2 sum 3.0" in log
        (own,) = attempt.glob(f"ranks/*/attempt_0/{rank}/stdout.log")
        assert own.read_text() == f"rank {rank} of 2 sum 3.0\n"


def test_one_rank_that_breaks_fails_the_job(script: Any) -> None:
    done = script(PROGRAM, "1", check=False)
    assert done.returncode == 1
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


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="no launcher named 'torchrum'"):
        run.LocalExecutor(launcher="torchrum")
    with run.Experiment("x") as exp, pytest.raises(ConfigError, match="more nodes than this machine is"):
        exp.add(run.Script(inline="true"), run.LocalExecutor(nodes=2, launcher="torchrun"), name="a")
