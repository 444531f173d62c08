"""What a job will run, word for word. A change here is a change of what runs on somebody's machine: look at it, then write
the file anew with ``NEMO_PREFECT_GOLDEN=write``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import nemo_prefect as run
from nemo_prefect.executors.registry import executor_from_spec
from nemo_prefect.layout import Layout

HERE = Path(__file__).parent


def work(lr: float) -> None: ...


TASKS = {
    "inline_script": run.Script(inline="echo $GREETING", env={"GREETING": 'it\'s "odd" $HOME\nsecond line'}),
    "script_with_arguments": run.Script("train.py", args=["--lr", "1e-3", "a b", "*"], entrypoint="python"),
    "module": run.Script("pkg.train", entrypoint="python", m=True, args=["x"]),
    "function": run.Partial(work, lr=0.1),
}


@pytest.mark.parametrize("launcher", [None, "torchrun"])
@pytest.mark.parametrize("name", TASKS)
def test_local(name: str, launcher: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    executor = run.LocalExecutor(env_vars={"SEED": "1"}, launcher=launcher, ntasks_per_node=2)
    with run.Experiment("golden", id="golden_1", base_dir=str(tmp_path / "home")) as exp:
        exp.add(TASKS[name], executor, name="job")
        spec = exp.spec()
    request = Layout(spec.directory).request(spec, spec.jobs[0], "job", range(1), 1)
    rendered = str(executor_from_spec(spec.jobs[0].executors[0]).render(request))
    rendered = rendered.replace(str(tmp_path), "/tmp/golden").replace(sys.executable, "/usr/bin/python3")
    golden = HERE / f"local_{name}{'_' + launcher if launcher else ''}.sh"
    if os.environ.get("NEMO_PREFECT_GOLDEN") == "write":
        golden.write_text(rendered)
    assert rendered == golden.read_text()
