"""Overrides: every field by its path, nothing applied unless all are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

import nemo_prefect as run
from nemo_prefect.errors import SetValueError
from nemo_prefect.overrides import apply_overrides, override_schema


@dataclass
class Adam:
    lr: float = 1e-3
    kind: Literal["adam", "adamw"] = "adam"


def train(optim: Adam, steps: int = 10, name: str | None = None, anything: Any = None) -> None: ...


@pytest.fixture
def exp(tmp_path: Any) -> run.Experiment:
    with run.Experiment("overrides", base_dir=str(tmp_path)) as exp:
        exp.add(run.Partial(train, optim=run.Config(Adam)), name="train")
        exp.add(run.Script(inline="echo $SEED", env={"SEED": "1"}), name="show")
        exp.add([run.Partial(train, optim=run.Config(Adam), steps=s) for s in (1, 2)], name="pair")
    return exp


def test_fields_of_every_kind_are_set(exp: run.Experiment) -> None:
    values = {
        "train.optim.lr": 0.5,
        "train.steps": "20",
        "train.optim.kind": "adamw",
        "show.env.SEED": "7",
        "show.env.NEW": "x",
        "pair/1.steps": 5,
    }
    apply_overrides(list(exp.jobs), values)
    train_task, show, pair = exp.tasks
    assert (train_task.optim.lr, train_task.steps, train_task.optim.kind) == (0.5, 20, "adamw")
    assert show.env == {"SEED": "7", "NEW": "x"}
    assert [task.steps for task in pair] == [1, 5]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("train.optim.lrr", 1.0, "Did you mean 'train.optim.lr'"),
        ("trian.steps", 1, "Did you mean 'train.steps'"),
        ("train.steps", "many", "cannot be 'many'.*int"),
        ("train.optim.kind", "sgd", "cannot be 'sgd'"),
        ("show.env.NOT-A-NAME", "x", "cannot be the name of an environment variable"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_applied(exp: run.Experiment, path: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        apply_overrides(list(exp.jobs), {"pair/0.steps": 99, path: value})
    if "env" not in path:
        assert isinstance(caught.value, SetValueError)
    assert exp.tasks[2][0].steps == 1


def test_the_schema_names_each_field_with_its_type_and_no_environment_values(exp: run.Experiment) -> None:
    schema = override_schema(list(exp.jobs))
    assert schema["additionalProperties"] is False
    fields = schema["properties"]
    assert fields["train.optim.lr"] == {"title": "train.optim.lr", "type": "number", "default": 1e-3}
    assert fields["train.optim.kind"]["enum"] == ["adam", "adamw"]
    assert fields["show.env.SEED"] == {"title": "show.env.SEED", "type": "string"}
