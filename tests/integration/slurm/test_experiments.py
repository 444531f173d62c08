"""Experiments on a real cluster, from `run()` to their directories."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.errors import ExperimentFailed

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("server", "home")]


def status_of(exp: run.Experiment) -> dict[str, str]:
    found = exp.status(return_dict=True) or {}
    return {job: str(entry["status"]) for job, entry in found.items() if "/" not in job}


def mark(path: str, text: str) -> None:
    with open(path, "a") as out:
        out.write(text + "\n")


def test_a_diamond_of_scripts_and_calls(executor: run.SlurmExecutor, tmp_path: Path) -> None:
    with run.Experiment("diamond", executor=executor) as exp:
        a = exp.add(run.Script(inline="echo from a"), name="a")
        b = exp.add(run.Partial(mark, path=str(tmp_path / "marks"), text="b"), name="b", dependencies=[a])
        c = exp.add(run.Script(inline=f"echo c >> {tmp_path}/marks; sleep 1"), name="c", dependencies=[a])
        exp.add(run.Script(inline=f"cat {tmp_path}/marks | sort"), name="d", dependencies=[b, c])
        exp.run()
    assert set(status_of(exp).values()) == {"SUCCEEDED"}
    assert (exp.directory / "d/attempt-1/stdout.log").read_text() == "b\nc\n"
    handles = [entry["handle"] for entry in (exp.status(return_dict=True) or {}).values()]
    assert all(handle.startswith("slurm://") for handle in handles)


def test_a_failure_is_told_with_its_exit_code_and_keeps_dependents_from_starting(executor: run.SlurmExecutor) -> None:
    with run.Experiment("fails", executor=executor) as exp:
        a = exp.add(run.Script(inline="echo the reason >&2; exit 3"), name="a")
        exp.add(run.Script(inline="true"), name="b", dependencies=[a])
        with pytest.raises(ExperimentFailed, match=r"a: FAILED \(exit code 3\)[\s\S]*the reason"):
            exp.run()
    assert status_of(exp) == {"a": "FAILED", "b": "UNSUBMITTED"}


def test_dependency_types_are_honoured(executor: run.SlurmExecutor) -> None:
    anyhow, salvage = executor.clone(), executor.clone()
    anyhow.dependency_type, salvage.dependency_type = "afterany", "afternotok"
    with run.Experiment("edges", executor=executor) as exp:
        bad = exp.add(run.Script(inline="exit 3"), name="bad")
        good = exp.add(run.Script(inline="true"), name="good")
        exp.add(run.Script(inline="true"), anyhow, name="cleanup", dependencies=[bad, good])
        exp.add(run.Script(inline="true"), salvage, name="salvage", dependencies=[bad])
        exp.add(run.Script(inline="true"), salvage, name="idle", dependencies=[good])
        exp.add(run.Script(inline="true"), name="next", dependencies=[bad])
        with pytest.raises(ExperimentFailed, match="bad: FAILED"):
            exp.run()
    assert status_of(exp) == {
        "bad": "FAILED",
        "good": "SUCCEEDED",
        "cleanup": "SUCCEEDED",
        "salvage": "SUCCEEDED",
        "idle": "UNSUBMITTED",
        "next": "UNSUBMITTED",
    }


def test_an_all_reduce_over_two_nodes(executor: run.SlurmExecutor, script: Any) -> None:
    pytest.importorskip("torch", reason="pip install torch==2.13.0")
    script(
        """
        import nemo_prefect as run

        def reduce() -> None:
            import torch
            import torch.distributed as dist
            dist.init_process_group("gloo")
            value = torch.tensor([float(dist.get_rank() + 1)])
            dist.all_reduce(value)
            print("rank", dist.get_rank(), "of", dist.get_world_size(), "sum", value.item(), flush=True)
            dist.destroy_process_group()

        if __name__ == "__main__":
            slurm = run.SlurmExecutor(
                account="research", nodes=2, ntasks_per_node=2, launcher=run.Torchrun(rdzv_port=29517),
            )
            with run.Experiment("torch", executor=slurm) as exp:
                exp.add(run.Partial(reduce), name="reduce")
                exp.run()
        """
    )
    attempt = run.Experiment.from_title("torch").directory / "reduce/attempt-1"
    logs = [(attempt / node / "stdout.log").read_text() for node in ("0", "1")]
    assert sum(log.count("of 4 sum 10.0") for log in logs) == 4
    assert all(log.count("of 4 sum 10.0") == 2 for log in logs)  # each node has its own log


def test_tasks_are_told_apart(executor: run.SlurmExecutor) -> None:
    executor.nodes, executor.ntasks_per_node = 2, 2
    with run.Experiment("tasks", executor=executor) as exp:
        exp.add(run.Script(inline="echo task $SLURM_PROCID of $SLURM_NTASKS on node $SLURM_NODEID"), name="job")
        exp.run()
    attempt = exp.directory / "job/attempt-1"
    assert [(attempt / str(n) / "stdout.log").read_text() for n in range(4)] == [
        f"task {n} of 4 on node {n // 2}\n" for n in range(4)
    ]


def test_a_group_shares_an_allocation_and_fails_as_one(executor: run.SlurmExecutor) -> None:
    show = run.Script(inline="echo $WHO in $SLURM_JOB_ID", env={"WHO": "one"})
    with run.Experiment("group", executor=executor) as exp:
        exp.add([show, run.Script(inline="echo ${WHO-nobody} in $SLURM_JOB_ID")], name="well")
        exp.add([run.Script(inline="sleep 300"), run.Script(inline="sleep 1; exit 4")], name="ill")
        with pytest.raises(ExperimentFailed, match=r"ill/1: FAILED \(exit code 4\)") as caught:
            exp.run()
    assert "ill/0: CANCELLED" in str(caught.value)
    assert status_of(exp) == {"well": "SUCCEEDED", "ill": "FAILED"}
    one, two = ((exp.directory / f"well/attempt-1/{n}/stdout.log").read_text().split(" in ") for n in (0, 1))
    assert (one[0], two[0]) == ("one", "nobody")
    assert one[1] == two[1]


def test_a_heterogeneous_group_has_nodes_of_its_own(executor: run.SlurmExecutor) -> None:
    executor.heterogeneous = True
    small, large = executor.clone(), executor.clone()
    large.nodes = 2
    host = run.ExecutorMacros.group_host(1)
    with run.Experiment("het") as exp:
        exp.add(
            [
                run.Script(inline='echo $SLURM_JOB_NODELIST; echo "$PEER"', env={"PEER": host}),
                run.Script(inline="echo $SLURM_NODEID"),
            ],
            [small, large],
            name="het",
        )
        exp.run()
    attempt = exp.directory / "het/attempt-1"
    assert len((attempt / "0/stdout.log").read_text().split()) == 2
    assert sorted((attempt / "1/stdout.log").read_text().split()) == ["0", "0:", "1", "1:"]


def test_an_array_has_a_log_and_an_end_for_each_index(executor: run.SlurmExecutor) -> None:
    executor.array = "1-4%3"
    with run.Experiment("array", executor=executor) as exp:
        exp.add(run.Script(inline="echo point $SLURM_ARRAY_TASK_ID; exit $((SLURM_ARRAY_TASK_ID == 3))"), name="job")
        with pytest.raises(ExperimentFailed, match=r"job: FAILED \(exit code 1\)"):
            exp.run()
    for index in range(1, 5):
        assert (exp.directory / f"job/attempt-1/{index}/stdout.log").read_text() == f"point {index}\n"


def test_code_travels_and_setup_lines_run(
    executor: run.SlurmExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/data.txt").write_text("packed\n")
    monkeypatch.chdir(tmp_path / "code")
    executor.packager = run.PatternPackager(include_pattern="data.txt", relative_path=str(tmp_path / "code"))
    executor.setup_lines = "export FROM_SETUP='set up'"
    with run.Experiment("packed", executor=executor) as exp:
        exp.add(run.Script(inline='cat data.txt; echo "$FROM_SETUP"; pwd'), name="job")
        exp.run()
    attempt = exp.directory / "job/attempt-1"
    assert (attempt / "stdout.log").read_text() == f"packed\nset up\n{attempt}/code\n"


def test_a_refusal_is_in_sbatchs_words_and_leaves_nothing_queued(executor: run.SlurmExecutor) -> None:
    wrong = {name: executor.clone() for name in ("partition", "nodes", "memory")}
    wrong["partition"].partition = "nope"
    wrong["nodes"].nodes = 9
    wrong["memory"].mem = "900T"
    with run.Experiment("refused") as exp:
        for name, each in wrong.items():
            exp.add(run.Script(inline="true"), each, name=name)
        with pytest.raises(ExperimentFailed) as caught:
            exp.run()
    assert "invalid partition specified: nope" in str(caught.value)
    assert "PartitionNodeLimit" in str(caught.value)
    assert "partition: FAILED" in str(caught.value)
    assert "memory: FAILED" in str(caught.value)
    left = subprocess.run(["squeue", "--me", "-h", "-o", "%j"], capture_output=True, text=True).stdout
    assert "refused." not in left
