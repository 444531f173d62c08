"""`run.flow`: a function's parameters are its flow's, and what cannot work is refused before anything is created."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.flows import load_flow_from_entrypoint

import nemo_prefect as run
from nemo_prefect.errors import ConfigError, SetValueError
from nemo_prefect.layout import Layout
from nemo_prefect.session import _own_layout

pytestmark = pytest.mark.usefixtures("home")


@dataclass
class Optim:
    lr: float = 1e-3


def train(seed: int, optim: Optim, lr: float = 0.1) -> None:
    pass


@run.flow(name="small-sweep")
def small_sweep(exp: run.Experiment, lr: float, seeds: list[int] = [0, 1]) -> None:  # noqa: B006
    """Trains.

    Args:
        lr: the learning rate.
    """
    exp.add(run.Script(inline="true"), name="prepare")
    for seed in seeds:
        exp.add(run.Partial(train, seed=seed, optim=run.Config(Optim), lr=lr), name=f"train-{seed}")


def test_its_parameters_are_the_functions() -> None:
    assert isinstance(small_sweep, Flow)
    schema = small_sweep.parameters.model_dump()
    assert schema["required"] == ["lr"]
    assert list(schema["properties"]) == ["lr", "seeds", "overrides"]
    assert schema["properties"]["lr"]["type"] == "number"
    assert schema["properties"]["lr"]["description"] == "the learning rate."
    assert schema["properties"]["seeds"]["default"] == [0, 1]
    assert schema["properties"]["seeds"]["items"] == {"type": "integer"}


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"lr": 1, "overrides": {"train-0.optim.lrr": 1}}, r"Did you mean 'train-0\.optim\.lr'"),
        ({"lr": 1, "overrides": {"train-0.optim.lr": "fast"}}, "cannot be 'fast'"),
        ({"lr": 1, "overrides": {"train-0.seed": True}}, "cannot be True"),
        ({"lr": 1, "overrides": {"train-0.seed": 1.5}}, r"cannot be 1\.5"),
        ({"lr": "fast"}, "lr"),
        ({"lrr": 1}, "no parameter lrr"),
    ],
)
def test_a_deployment_whose_every_run_would_fail_is_refused(parameters: dict[str, Any], said: str, home: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        small_sweep.to_deployment("nightly", parameters=parameters)
    assert not home.exists()


def test_a_function_that_needs_what_only_its_workers_have_can_be_deployed(caplog: pytest.LogCaptureFixture) -> None:
    @run.flow(name="elsewhere")
    def elsewhere(exp: run.Experiment) -> None:
        Path("/nowhere/on/this/machine").read_text()

    with caplog.at_level("WARNING", "nemo_prefect"):
        assert elsewhere.to_deployment("x").name == "x"
    assert "FileNotFoundError" in caplog.text


FILE = """
from dataclasses import dataclass

import nemo_prefect as run

@dataclass
class Optim:
    lr: float = 1e-3

def train(optim: Optim) -> None:
    print("learning rate", optim.lr)

@run.flow(name="from-a-file")
def sweep(exp: run.Experiment) -> None:
    exp.add(run.Partial(train, optim=run.Config(Optim)), name="train")
"""


# Prefect gives a file that has the name of a loaded module, as json.py does, a name of its own making.
@pytest.mark.parametrize("name", ["a_flow_of_its_own.py", "json.py"])
def test_the_source_of_a_flows_file_travels_to_its_jobs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "flows"
    folder.mkdir()
    (folder / name).write_text(FILE)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    loaded = load_flow_from_entrypoint(f"flows/{name}:sweep")
    sys.path[:] = path  # Prefect leaves the file's directory on it; a job elsewhere has neither
    exp = loaded.experiment(overrides={"train.optim.lr": 5})  # type: ignore[attr-defined]
    layout = Layout(exp.directory)
    layout.write(exp.spec())
    assert (layout.root / "__main__.py").read_text() == FILE
    task = json.loads((layout.root / "train" / "task.json").read_text())
    (layout.root / "train" / "task.json").write_text(json.dumps({**task, "sys_path": []}))
    (folder / name).unlink()
    done = subprocess.run(
        [sys.executable, str(layout.root / "worker" / "run.py"), str(layout.root / "train" / "task.json")],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert done.stdout == "learning rate 5.0\n", done.stderr
    again = run.Experiment.from_id(exp.id)
    assert again.tasks[0].optim.lr == 5.0


def test_an_override_that_is_no_number() -> None:
    with pytest.raises(SetValueError, match="no number"):
        small_sweep.experiment(lr=1.0, overrides={"train-0.lr": True})


def test_two_flow_runs_made_in_one_moment_are_two_experiments(tmp_path: Path) -> None:
    first, second = (uuid.UUID(int=n) for n in (5, 1005))  # alike in what their ids add to the moment
    one = _own_layout(tmp_path / "title", 7_000_000, first)
    one.root.mkdir(parents=True)
    one.write_run(flow_run_id=str(first), api_url="")
    other = _own_layout(tmp_path / "title", 7_000_000, second)
    assert one.root.name == "title_7000005"
    assert other.root != one.root
    assert _own_layout(tmp_path / "title", 7_000_000, first).root == one.root
