"""What Slurm jobs run, word for word; as in test_rendered.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.executors.registry import executor_from_spec
from nemo_prefect.layout import Layout, units_of

HERE = Path(__file__).parent


def work(lr: float) -> None: ...


def slurm(**fields: Any) -> run.SlurmExecutor:
    return run.SlurmExecutor(**{"account": "research", "partition": "debug", "wait_time_for_group_job": 0, **fields})


SERVER = run.Script(inline="serve --port 8000")
CLIENT = run.Script("client.py", args=["--host", run.ExecutorMacros.group_host(0)], entrypoint="python3")
JOBS = {
    "script": (
        run.Script(inline="echo $GREETING", env={"GREETING": 'it\'s "odd" $HOME\nsecond line'}),
        slurm(time="04:00:00", comment='it\'s "odd" $HOME', setup_lines="module load cuda", signal="USR2@120"),
    ),
    "torchrun": (
        run.Partial(work, lr=0.1),
        slurm(nodes=2, ntasks_per_node=4, gpus_per_node=4, launcher="torchrun", env_vars={"SEED": "1"}),
    ),
    "group": ([SERVER, CLIENT], slurm(nodes=1, ntasks_per_node=2, cpus_per_task=2)),
    "het": (
        [SERVER, CLIENT, CLIENT],
        [
            slurm(heterogeneous=True, het_group_indices=[0, 1, 1], nodes=1, gpus_per_node=8, env_vars={"ROLE": "server"}),
            slurm(heterogeneous=True, nodes=2, partition="cpu", env_vars={"ROLE": "client"}),
            slurm(heterogeneous=True, nodes=2, partition="cpu", env_vars={"ROLE": "client"}),
        ],
    ),
    "array": (run.Script(inline="echo $SLURM_ARRAY_TASK_ID"), slurm(array="0-7%2")),
    "container": (
        run.Script(inline="train"),
        slurm(
            container_image="nvcr.io#nvidia/nemo:25.04",
            container_mounts=["/data:/data:ro", "/$nemo_run/ckpt:/ckpt"],
            srun_args=["--no-container-mount-home", "--mpi=pmix"],
        ),
    ),
    "apptainer": (run.Script(inline="train"), slurm(container_image="/images/nemo.sif", container_runtime="apptainer")),
}


@pytest.mark.parametrize("name", JOBS)
def test_slurm(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "client.py").touch()
    task, executor = JOBS[name]
    with run.Experiment("golden", id="golden_1", base_dir=str(tmp_path / "home")) as exp:
        exp.add(task, executor, name="job")
        spec = exp.spec()
    (unit, members), *rest = units_of(spec.jobs[0]).items()
    assert not rest  # a group is one submission
    request = Layout(spec.directory).request(spec, spec.jobs[0], unit, members, 1)
    rendered = str(executor_from_spec(spec.jobs[0].executors[0]).render(request))
    rendered = rendered.replace(str(tmp_path), "/tmp/golden").replace(sys.executable, "/usr/bin/python3")
    rendered = rendered.replace(f"{Path(sys.executable).parent}:", "/usr/bin:")
    golden = HERE / f"slurm_{name}.sh"
    if os.environ.get("NEMO_PREFECT_GOLDEN") == "write":
        golden.write_text(rendered)
    assert rendered == golden.read_text()


def test_users_values_are_in_no_batch_script(tmp_path: Path) -> None:
    """Slurm keeps copies of batch scripts, where others may read them."""
    with run.Experiment("golden", id="golden_1", base_dir=str(tmp_path)) as exp:
        exp.add(run.Script(inline="true", env={"B": "task-secret"}), slurm(env_vars={"A": "executor-secret"}), name="job")
        spec = exp.spec()
    request = Layout(spec.directory).request(spec, spec.jobs[0], "job", range(1), 1)
    rendered: Any = executor_from_spec(spec.jobs[0].executors[0]).render(request)
    assert "secret" not in rendered.files["job.sh"] + " ".join(rendered.argv)
    assert "task-secret" in rendered.files["task.sh"]
