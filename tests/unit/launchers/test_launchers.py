"""What each launcher makes of a command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.errors import ConfigError
from nemo_prefect.executors.base import Executor
from nemo_prefect.executors.registry import executor_from_spec, executor_to_spec
from nemo_prefect.spec import ExecutorSpec

PARTIAL = ["/venv/bin/python3.12", "/exp/worker/run.py", "/exp/job/task.json"]


def wrap(launcher: run.Launcher, argv: list[str], nnodes: int = 1, nproc_per_node: int = 2) -> list[str]:
    return launcher.wrap(argv, nnodes=nnodes, nproc_per_node=nproc_per_node, directory="/exp/job/attempt-1", key="k1")


def option(argv: list[str], name: str) -> str:
    assert argv.count(name) == 1, argv
    return argv[argv.index(name) + 1]


def test_defaults_are_those_of_nemo_run() -> None:
    base = {
        "nsys_profile": False,
        "nsys_folder": "nsys_profile",
        "nsys_filename": "profile_%p",
        "nsys_trace": ["nvtx", "cuda"],
        "nsys_extra_args": [
            "--force-overwrite=true",
            "--capture-range=cudaProfilerApi",
            "--capture-range-end=stop",
            "--cuda-graph-trace=node",
            "--cuda-event-trace=false",
        ],
        "nsys_gpu_metrics": False,
    }
    rendezvous = {"rdzv_backend": "c10d", "rdzv_port": 29500, "rdzv_id": None}
    paths = {"cfg_path": "", "finished_flag_file": "", "job_results_file": ""}
    limits = dict.fromkeys(
        [
            "workload_check_interval",
            "initial_rank_heartbeat_timeout",
            "rank_heartbeat_timeout",
            "rank_termination_signal",
            "log_level",
            "max_restarts",
        ]
    )

    def fields(launcher: run.Launcher) -> dict[str, Any]:
        return {name: getattr(launcher, name) for name in type(launcher).model_fields}

    assert fields(run.Launcher()) == base
    assert fields(run.Torchrun()) == {**base, **rendezvous}
    assert fields(run.FaultTolerance()) == {**base, **rendezvous, **paths, **limits}


def test_names_that_nemo_run_users_give() -> None:
    assert run.LocalExecutor(launcher="torchrun").get_launcher() == run.Torchrun()
    assert run.LocalExecutor(launcher="ft").get_launcher() == run.FaultTolerance()
    assert run.LocalExecutor().get_launcher() == run.Launcher()
    with pytest.raises(ValueError, match=r"no launcher named 'torchrum'.*torchrun, ft"):
        run.LocalExecutor(launcher="torchrum")
    assert not isinstance(run.FaultTolerance(), run.Torchrun)  # users tell them apart so


@pytest.mark.parametrize("launcher", [run.Torchrun(rdzv_id=7, nsys_profile=True), run.FaultTolerance(max_restarts=3), "ft"])
def test_travels_with_its_executor(launcher: run.Launcher | str) -> None:
    written = executor_to_spec(run.LocalExecutor(launcher=launcher)).model_dump_json()
    read: Executor = executor_from_spec(ExecutorSpec.model_validate_json(written))
    assert read.launcher == launcher


def test_no_launcher_leaves_the_command_alone() -> None:
    assert wrap(run.Launcher(), ["bash", "a b.sh"]) == ["bash", "a b.sh"]


@pytest.mark.parametrize("python", ["python", "python3", "/venv/bin/python3.12", "/a b/python3.13t"])
@pytest.mark.parametrize("rest", [["train.py", "--lr", "1"], ["-m", "pkg.train", "--tee", "x"]])
def test_python_runs_under_torchrun_with_its_own_interpreter(python: str, rest: list[str]) -> None:
    argv = wrap(run.Torchrun(), [python, *rest])
    assert argv[:3] == [python, "-m", "torch.distributed.run"]
    assert argv[-len(rest) :] == rest
    assert "--no-python" not in argv


@pytest.mark.parametrize("command", [["bash", "train.sh", "-m"], ["./train"], ["ipython", "a.py"], ["/opt/python/bin/x"]])
def test_anything_else_is_run_as_it_is(command: list[str]) -> None:
    argv = wrap(run.Torchrun(), command)
    assert argv[:3] == ["python", "-m", "torch.distributed.run"]
    assert argv[-len(command) - 1 :] == ["--no-python", *command]


def test_one_node_meets_at_any_free_port() -> None:
    argv = wrap(run.Torchrun(rdzv_port=1234), PARTIAL, nproc_per_node=8)
    assert option(argv, "--nnodes") == "1"
    assert option(argv, "--nproc-per-node") == "8"
    assert option(argv, "--rdzv-endpoint") == "localhost:0"
    assert "--node-rank" not in argv


def test_a_static_rendezvous_has_no_free_port() -> None:
    assert option(wrap(run.Torchrun(rdzv_backend="static"), PARTIAL), "--rdzv-endpoint") == "localhost:29500"


def test_several_nodes_meet_at_the_head_node() -> None:
    argv = wrap(run.Torchrun(rdzv_port=1234), PARTIAL, nnodes=4)
    macros = run.ExecutorMacros(
        head_node_ip_var="HEAD", nproc_per_node_var="", num_nodes_var="", node_rank_var="RANK", het_group_host_var=""
    )
    argv = [macros.substitute(word) for word in argv]
    assert option(argv, "--nnodes") == "4"
    assert option(argv, "--rdzv-endpoint") == "$HEAD:1234"
    assert option(argv, "--node-rank") == "$RANK"


def test_the_rendezvous_has_a_name_of_its_own_unless_one_is_given() -> None:
    assert option(wrap(run.Torchrun(), PARTIAL), "--rdzv-id") == "k1"
    assert option(wrap(run.Torchrun(rdzv_id=0), PARTIAL), "--rdzv-id") == "0"


def test_fault_tolerance_says_only_what_was_set() -> None:
    argv = wrap(run.FaultTolerance(), PARTIAL)
    assert argv[:2] == [PARTIAL[0], "-c"]
    assert "nvidia_resiliency_ext.fault_tolerance.launcher" in argv[2]
    assert not [word for word in argv if word.startswith(("--ft", "--max-restarts"))]
    assert run.FaultTolerance().environment() == {}


def test_fault_tolerance_says_all_that_was_set_zeros_included() -> None:
    launcher = run.FaultTolerance(
        cfg_path="/ft.yaml",
        finished_flag_file="/done",
        job_results_file="/results",
        workload_check_interval=0.0,
        initial_rank_heartbeat_timeout=600,
        rank_heartbeat_timeout=60.5,
        rank_termination_signal="SIGTERM",
        log_level="DEBUG",
        max_restarts=0,
    )
    argv = wrap(launcher, PARTIAL)
    assert {name: option(argv, name) for name in argv if name.startswith(("--ft", "--max-restarts"))} == {
        "--ft-cfg-path": "/ft.yaml",
        "--ft-workload_check_interval": "0.0",
        "--ft-initial_rank_heartbeat_timeout": "600.0",
        "--ft-rank_heartbeat_timeout": "60.5",
        "--ft-rank_termination_signal": "SIGTERM",
        "--ft-log_level": "DEBUG",
        "--max-restarts": "0",
    }
    assert launcher.environment() == {
        "FAULT_TOL_CFG_PATH": "/ft.yaml",
        "FAULT_TOL_FINISHED_FLAG_FILE": "/done",
        "JOB_RESULTS_FILE": "/results",
    }


@pytest.mark.parametrize("cls", [run.Launcher, run.Torchrun, run.FaultTolerance])
def test_nsys_goes_before_the_launcher(cls: type[run.Launcher]) -> None:
    launcher = cls(nsys_profile=True, nsys_trace=["osrt"], nsys_extra_args=["--x"], nsys_gpu_metrics=True)
    output = "/exp/job/attempt-1/nsys_profile/profile_%p"
    prefix = ["nsys", "profile", "-s", "none", "-t", "osrt", "-o", output, "--x", "--gpu-metrics-devices=all"]
    assert wrap(launcher, PARTIAL) == [*prefix, *wrap(cls(), PARTIAL)]
    assert launcher.folders("/exp/job/attempt-1") == ["/exp/job/attempt-1/nsys_profile"]
    assert cls().folders("/exp/job/attempt-1") == []


@pytest.mark.parametrize("launcher", [None, "torchrun"])
def test_more_nodes_than_there_are_are_refused_when_added(launcher: str | None, tmp_path: Path) -> None:
    executor = run.LocalExecutor(nodes=2, launcher=launcher)
    refused = pytest.raises(ConfigError, match=r"nodes=2.*ntasks_per_node")
    with run.Experiment("x", base_dir=str(tmp_path)) as exp, refused:
        exp.add(run.Script(inline="true"), executor, name="a")
