"""The command lines of containers, word for word; as `test_rendered` has those of local jobs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.executors.registry import executor_from_spec
from nemo_prefect.layout import Layout

HERE = Path(__file__).parent


def work(lr: float) -> None: ...


SCRIPT = run.Script(inline="echo $GREETING", env={"GREETING": 'it\'s "odd" $HOME\nsecond line'})
CODE = run.PatternPackager(include_pattern="*.py", relative_path=".")
EVERYTHING: dict[str, Any] = {
    "num_gpus": -1, "runtime": "nvidia", "shm_size": "8g", "ulimits": ["memlock:-1", "stack:67108864:67108864"],
    "ipc_mode": "host", "healthcheck": {"test": ["CMD", "true"], "interval": 10**9}, "privileged": True, "user": "1000:1000",
    "memory": "16g", "cpus": 2.5, "platform": "linux/amd64", "network": "host",
    "volumes": ["/$nemo_run/data:/data", "/x:/y:ro"],
    "additional_kwargs": {"cap_add": ["SYS_PTRACE"], "labels": {"team": "a b"}, "extra_hosts": {"db": "10.0.0.1"}},
}  # fmt: skip
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "inline_script": (SCRIPT, {}),
    "function_with_everything": (run.Partial(work, lr=0.1), EVERYTHING),
    "module_torchrun": (
        run.Script("pkg.train", entrypoint="python", m=True, args=["a b", "*"]),
        {"launcher": "torchrun", "ntasks_per_node": 2, "packager": CODE},
    ),
    "group": ([SCRIPT, run.Script("train.sh", args=["--head", run.ExecutorMacros.group_host(0)])], {}),
    "elsewhere": (SCRIPT, {"share_files": False, "packager": CODE}),
}


@pytest.mark.parametrize("name", CASES)
def test_docker(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    task, fields = CASES[name]
    executor = run.DockerExecutor(container_image="registry.example/train:1", env_vars={"SEED": "1"}, **fields)
    with run.Experiment("golden", id="golden_1", base_dir=str(tmp_path / "home")) as exp:
        exp.add(task, executor, name="job")
        spec = exp.spec()
    request = Layout(spec.directory).request(spec, spec.jobs[0], "job", range(len(spec.jobs[0].tasks)), 1)
    rendered = str(executor_from_spec(spec.jobs[0].executors[0]).render(request)).replace(str(tmp_path), "/tmp/golden")
    golden = HERE / f"docker_{name}.sh"
    if os.environ.get("NEMO_PREFECT_GOLDEN") == "write":
        golden.write_text(rendered)
    assert rendered == golden.read_text()
