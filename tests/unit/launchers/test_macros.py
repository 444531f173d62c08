"""Macros expand to names, as in NeMo-Run; on the local executor, to values where a value was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

import nemo_prefect as run
from nemo_prefect import ExecutorMacros
from nemo_prefect.executors.base import RenderedJob
from nemo_prefect.executors.registry import executor_from_spec
from nemo_prefect.layout import Layout

MACROS = ExecutorMacros(
    head_node_ip_var="head_node_ip",
    nproc_per_node_var="SLURM_NTASKS_PER_NODE",
    num_nodes_var="SLURM_NNODES",
    node_rank_var="SLURM_NODEID",
    het_group_host_var="het_group_host",
)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        (ExecutorMacros.HEAD_NODE_IP_VAR, "head_node_ip"),
        (f"$${ExecutorMacros.HEAD_NODE_IP_VAR}:29500", "$head_node_ip:29500"),
        (f"{ExecutorMacros.NPROC_PER_NODE_VAR},{ExecutorMacros.NUM_NODES_VAR}", "SLURM_NTASKS_PER_NODE,SLURM_NNODES"),
        (f"$${ExecutorMacros.NODE_RANK_VAR}", "$SLURM_NODEID"),
        (f"$${ExecutorMacros.FT_LAUNCHER_CFG_PATH_VAR}", "$FAULT_TOL_CFG_PATH"),
        (ExecutorMacros.group_host(1), "$het_group_host_1"),
    ],
)
def test_macros_expand_to_names(text: str, expanded: str) -> None:
    assert MACROS.substitute(text) == expanded


@pytest.mark.parametrize("text", ["", "$$5", "$HOME ${x} $", "s/$$/x/", "$head_node_ip", "${SLURM_NODEID}"])
def test_text_without_a_macro_stays_as_it_is(text: str) -> None:
    assert MACROS.substitute(text) == text
    assert MACROS.substitute(text, {"head_node_ip": "h", "SLURM_NODEID": "0"}) == text


def test_where_the_values_are_known_references_become_values_and_others_stay() -> None:
    text = f"tcp://$${ExecutorMacros.HEAD_NODE_IP_VAR}:1 ${{HOME}} $USER " + ExecutorMacros.group_host(12)
    values = {"head_node_ip": "10.0.0.1", "het_group_host": "h"}
    assert MACROS.substitute(text, values) == "tcp://10.0.0.1:1 ${HOME} $USER h"


def test_applied_to_a_job_it_makes_a_copy() -> None:
    job = RenderedJob(argv=("a", ExecutorMacros.NUM_NODES_VAR), env={"N": f"$${ExecutorMacros.NUM_NODES_VAR}"}, cwd="/x")
    assert MACROS.apply(job) == RenderedJob(argv=("a", "SLURM_NNODES"), env={"N": "$SLURM_NNODES"}, cwd="/x")
    assert job.argv[1] == ExecutorMacros.NUM_NODES_VAR


def test_is_a_configurable() -> None:
    assert run.Config(ExecutorMacros, **dict.fromkeys(("head_node_ip_var", "num_nodes_var"), "x")).num_nodes_var == "x"
    assert MACROS.to_config().head_node_ip_var == "head_node_ip"


def render(executor: run.LocalExecutor, task: run.Script, home: Path) -> RenderedJob:
    with run.Experiment("macros", base_dir=str(home)) as exp:
        exp.add(task, executor, name="job")
        spec = exp.spec()
    return executor_from_spec(spec.jobs[0].executors[0]).render(
        Layout(spec.directory).request(spec, spec.jobs[0], "job", range(1), 1)
    )


def test_nothing_is_left_literal_in_a_local_job(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    executor = run.LocalExecutor(
        ntasks_per_node=3,
        env_vars={"MASTER_ADDR": f"$${ExecutorMacros.HEAD_NODE_IP_VAR}", "WHERE": ExecutorMacros.HEAD_NODE_IP_VAR},
        launcher=run.FaultTolerance(cfg_path="/ft.yaml"),
    )
    task = run.Script(
        str(tmp_path / "train.py"),
        entrypoint="python",
        args=[
            f"--size=$${ExecutorMacros.NUM_NODES_VAR}:$${ExecutorMacros.NPROC_PER_NODE_VAR}",
            f"--rank=$${ExecutorMacros.NODE_RANK_VAR}",
            f"--peer={ExecutorMacros.group_host(1)}",
            f"--cfg=$${ExecutorMacros.FT_LAUNCHER_CFG_PATH_VAR}",
            "--cost=$$5",
        ],
        env={"RENDEZVOUS": f"$${ExecutorMacros.HEAD_NODE_IP_VAR}:1"},
    )
    job = render(executor, task, tmp_path)
    assert job.argv[-5:] == ("--size=1:3", "--rank=0", "--peer=localhost", "--cfg=/ft.yaml", "--cost=$$5")
    assert {name: job.env[name] for name in ("MASTER_ADDR", "WHERE", "RENDEZVOUS")} == {
        "MASTER_ADDR": "localhost",
        "WHERE": "head_node_ip",
        "RENDEZVOUS": "localhost:1",
    }
    # What a macro without the dollar signs names is there to be looked up.
    assert {name: job.env[name] for name in ("head_node_ip", "num_nodes", "nproc_per_node", "node_rank")} == {
        "head_node_ip": "localhost",
        "num_nodes": "1",
        "nproc_per_node": "3",
        "node_rank": "0",
    }
    assert job.env["FAULT_TOL_CFG_PATH"] == "/ft.yaml"


def test_a_variable_of_the_users_own_wins(tmp_path: Path) -> None:
    job = render(run.LocalExecutor(env_vars={"num_nodes": "4"}), run.Script(inline="true"), tmp_path)
    assert job.env["num_nodes"] == "4"
