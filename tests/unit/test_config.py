from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import fiddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nemo_prefect as run
from nemo_prefect.config import (
    OptionalDefaultConfig,
    ZlibJSONSerializer,
    check_serializable,
    from_dict,
    get_type_namespace,
    set_value,
)
from nemo_prefect.errors import ConfigError, SerializationError, SetValueError


@dataclasses.dataclass
class Optimizer:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)


@dataclasses.dataclass
class Model:
    optimizer: Optimizer
    layers: int = 2


class Trainer:
    def __init__(self, optimizer: OptionalDefaultConfig[Optimizer] = None, steps: int = 10) -> None:
        self.optimizer, self.steps = optimizer, steps


def train(model: Model, steps: int = 10, **extra: Any) -> tuple[Model, int]:
    return model, steps


def test_config_builds_and_partial_waits() -> None:
    model = run.Config(Model, optimizer=run.Config(Optimizer, lr=0.1))
    assert fiddle.build(model) == Model(Optimizer(0.1))
    task = run.Partial(train, model=model, steps=3)
    assert fiddle.build(task)() == (Model(Optimizer(0.1)), 3)


def test_dataclass_instances_become_nested_configs() -> None:
    model = run.Config(Model, optimizer=Optimizer(lr=0.5))
    assert isinstance(model.optimizer, run.Config)
    model.optimizer.lr = 0.25
    assert fiddle.build(model).optimizer.lr == 0.25


def test_an_annotated_parameter_gets_its_default_config() -> None:
    assert run.Config(Trainer).optimizer.__fn_or_cls__ is Optimizer
    assert run.Config(Trainer, optimizer=None).optimizer is None


def test_dicts_can_be_configured() -> None:
    assert fiddle.build(run.Config(dict, a=run.Config(Optimizer))) == {"a": Optimizer()}
    assert fiddle.build(run.Config({}, a=1)) == {"a": 1}
    assert fiddle.build(run.Config(dict[str, int], a=1)) == {"a": 1}


def test_a_wrong_argument_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="stepz"):
        run.Config(Trainer, stepz=1)


def test_walk_and_broadcast_reach_nested_configs_and_return_self() -> None:
    model = run.Config(Model, optimizer=run.Config(Optimizer, lr=1.0))
    task = run.Partial(train, model=model, steps=2)
    assert task.walk(lr=lambda part: part.lr * 2, steps=lambda part: part.steps + 1) is task
    assert (task.model.optimizer.lr, task.steps) == (2.0, 3)
    assert task.broadcast(lr=7.0).model.optimizer.lr == 7.0


def test_clone_is_deep() -> None:
    task = run.Partial(train, model=run.Config(Model, optimizer=run.Config(Optimizer)))
    task.clone().model.optimizer.lr = 9
    assert task.model.optimizer.lr == 1e-3


def test_set_value() -> None:
    task = run.Partial(train, model=run.Config(Model, optimizer=run.Config(Optimizer)), tags=["a", "b"], d={"k": 1})
    set_value(task, "model.optimizer.lr", 5)
    set_value(task, "tags[1]", "c")
    set_value(task, "d['k']", 2)
    assert (task.model.optimizer.lr, task.tags, task.d) == (5, ["a", "c"], {"k": 2})
    with pytest.raises(SetValueError, match=r"model\.nosuch\.x"):
        set_value(task, "model.nosuch.x", 1)


def test_from_dict() -> None:
    assert from_dict({"optimizer": {"lr": 2.0}, "layers": 4}, Model) == Model(Optimizer(2.0), 4)
    assert from_dict([{"lr": 2.0}], list[Optimizer]) == [Optimizer(2.0)]
    with pytest.raises(ConfigError):
        from_dict({"lr": 1}, Optimizer | Model)


def test_names_of_types() -> None:
    assert get_type_namespace(Model).endswith("test_config.Model")
    assert get_type_namespace(run.Config(Model, optimizer=None)) == get_type_namespace(Model)


@run.autoconvert
def small(lr: float = 0.1) -> Any:
    return Model(optimizer=Optimizer(lr=lr), layers=1)


@run.autoconvert(partial=True)
def later(steps: int = 5) -> Any:
    return train(model=small(lr=0.3), steps=steps)


@run.autoconvert
def several() -> Any:
    return [Optimizer(lr=1.0), Optimizer(lr=2.0)]


def test_autoconvert() -> None:
    assert isinstance(small(), run.Config)
    assert isinstance(small().optimizer, run.Config)
    assert fiddle.build(small(lr=4.0)) == Model(Optimizer(4.0), 1)
    assert isinstance(later(), run.Partial)
    assert fiddle.build(later(steps=2))() == (Model(Optimizer(0.3), 1), 2)
    assert [o.lr for o in several()] == [1.0, 2.0]
    assert small.__auto_config__
    assert small.wrapped(0.2) == Model(Optimizer(0.2), 1)


def test_what_cannot_travel_is_refused_with_its_paths() -> None:
    task = run.Partial(train, model=run.Config(Model, optimizer=Path("a"), layers=lambda: 1), steps=2)
    with pytest.raises(SerializationError) as caught:
        check_serializable(task)
    assert "<root>.model.optimizer" in str(caught.value)
    assert "<root>.model.layers" in str(caught.value)
    assert "<root>.steps" not in str(caught.value)
    assert "run.Config(" in caught.value.hint
    assert isinstance(caught.value, RuntimeError)
    check_serializable(run.Partial(train, model=run.Config(Path, "a")))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


@given(plain)
def test_plain_values_survive_serialisation(value: Any) -> None:
    task = run.Partial(train, model=run.Config(Model, optimizer=value), extra=value)
    again = ZlibJSONSerializer().deserialize(check_serializable(task))
    assert again == task
    assert type(again) is run.Partial


class Configurable(run.ConfigurableMixin):
    pass


@dataclasses.dataclass
class ConfigurableData(run.ConfigurableMixin):
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)


def test_configurable_mixin() -> None:
    config = ConfigurableData().to_config()
    assert isinstance(config, run.Config)
    assert isinstance(config.optimizer, run.Config)
    assert ConfigurableData().clone() == ConfigurableData()
    assert "lr" in ConfigurableData(Optimizer(lr=3)).diff(ConfigurableData()).source
    with pytest.raises(NotImplementedError, match="to_config"):
        Configurable().to_config()


def test_pictures(tmp_path: Path) -> None:
    picture = run.Config(Optimizer)._repr_svg_()
    assert picture is None or picture.startswith("<?xml")
    with pytest.raises(ConfigError, match=r"\.svg"):
        run.Config(Optimizer).save_config_img(str(tmp_path / "config.svg"))
