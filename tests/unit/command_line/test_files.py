"""Configs in files: what is written comes back, and what people write is understood."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fiddle as fdl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nemo_prefect as run
from nemo_prefect import errors
from nemo_prefect.cli import parse_partial
from nemo_prefect.cli.config import ConfigSerializer
from nemo_prefect.cli.files import apply_file
from nemo_prefect.serialization import YamlSerializer, from_data, to_data

FORMATS = ["yaml", "toml", "json"]


class Color(enum.Enum):
    RED = "red"


@dataclass
class Optimizer:
    lr: float = 0.1


@dataclass
class Model:
    hidden: int = 4
    optimizer: Optimizer | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@run.cli.factory
@run.autoconvert
def small(hidden: int = 8) -> Model:
    return Model(hidden=hidden, optimizer=Optimizer(lr=0.5))


def train(model: Model, epochs: int = 3, lr: float = 1e-3, tags: list[str] = [], other: Any = None) -> None: ...  # noqa: B006


def positional(a: int, /, *args: int) -> None: ...


ODD = {
    "none": None,
    "tuple": (1, ("a",)),
    "sets": [{1, 2}, frozenset({"a"})],
    "keys": {1: "a", 2: [True]},
    "reserved": {"_target_": "x"},
    "complex": 1j,
    "bytes": b"\x00\xff",
    "enum": Color.RED,
    "function": train,
    "class": Model,
    "text": "1e-4 # yes: 'no' \u2603\n\ttrue",
}


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_comes_back(format: str, tmp_path: Path) -> None:
    cfg = run.Partial(
        train,
        model=run.Config(Model, hidden=3, optimizer=run.Config(Optimizer, lr=1e-5), extra=ODD),
        tags=["a"],
        other=run.Config(Path, "x", bind_args=False),
    )
    serializer = ConfigSerializer()
    text = getattr(serializer, f"serialize_{format}")(cfg)
    back = getattr(serializer, f"deserialize_{format}")(text)
    assert back == cfg
    assert type(back.model.extra["keys"]) is dict
    assert fdl.build(back.other) == Path("x")
    where = tmp_path / f"config.{format}"
    serializer.dump(cfg, where)
    assert serializer.load(where) == cfg
    assert serializer.load_dict(f"{where}:model.optimizer")["lr"] == 1e-5
    getattr(serializer, f"dump_{format}")(cfg, f"{tmp_path / 'part'}:model.optimizer")
    assert "Optimizer" in (tmp_path / "part").read_text()


def test_the_form_is_nemo_runs() -> None:
    cfg = run.Partial(train, model=run.Config(Model, hidden=3), other=train)
    module = train.__module__
    assert to_data(cfg) == {
        "_partial_": True,
        "_target_": f"{module}.train",
        "model": {"_target_": f"{module}.Model", "hidden": 3},
        "other": {"_target_": f"{module}.train", "_call_": False},
    }
    assert YamlSerializer().deserialize(YamlSerializer().serialize(cfg)) == cfg


def test_positional_arguments() -> None:
    cfg = run.Partial(positional, 1, 2, 3)
    assert from_data(json.loads(json.dumps(to_data(cfg)))) == cfg


def test_dataclass_instances_are_written_as_configs() -> None:
    (made,) = from_data(to_data([Model(hidden=3)]))
    assert isinstance(made, run.Config)
    assert fdl.build(made) == Model(hidden=3)


@pytest.mark.parametrize("value", [lambda: 1, object(), Path("x"), fdl.ArgFactory(Optimizer)])
def test_what_cannot_be_written_is_named(value: Any) -> None:
    with pytest.raises(errors.SerializationError, match=r"<root>\.model\.extra\['x'\]"):
        to_data(run.Partial(train, model=run.Config(Model, extra={"x": value})))


def test_what_cannot_be_imported_is_named() -> None:
    for name in ("nope.nope", "math.nope", "__main__.nope", "a..b", ""):
        with pytest.raises(errors.NotFoundError):
            from_data({"_target_": name})
    with pytest.raises(errors.SerializationError):
        from_data({"_target_": f"{Model.__module__}.Model", "hiden": 3})


keys = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6)
data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | keys,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=8,
)


@given(data, st.sampled_from(FORMATS))
def test_any_plain_data_comes_back(value: Any, format: str) -> None:
    cfg = run.Config(dict, value=value, bind_args=False)
    serializer = ConfigSerializer()
    text = getattr(serializer, f"serialize_{format}")(cfg)
    assert getattr(serializer, f"deserialize_{format}")(text) == cfg


# Files that people write -------------------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "args.yaml") -> str:
        (tmp_path / name).write_text(text)
        return name

    return write


def test_a_file_of_arguments(write: Any) -> None:
    write("model:\n  hidden: 55\n  optimizer:\n    lr: 1e-4\nepochs: 9\ntags: [a, 5]\n")
    cfg = parse_partial(train, "@args.yaml", "epochs+=1")
    assert cfg == run.Partial(
        train,
        model=run.Config(Model, hidden=55, optimizer=run.Config(Optimizer, lr=1e-4)),
        epochs=10,
        tags=["a", "5"],
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("model: small(hidden=3)", "a.yaml"),
        ("model: {_factory_: small, hidden: 3}", "a.yml"),
        ("model:\n  _factory_: small(hidden=2)\n  hidden: 3", "a.yaml"),
        ("model.hidden: 3\nmodel.optimizer.lr: 0.5", "a.yaml"),
        (f"model:\n  _target_: {Model.__module__}.Model\n  hidden: 3\n  optimizer: {{lr: 0.5}}", "a.yaml"),
        ('[model]\n_factory_ = "small"\nhidden = 3', "a.toml"),
        ('{"model": {"_factory_": "small(hidden=3)"}}', "a.json"),
    ],
)
def test_factories_and_classes_in_files(write: Any, text: str, name: str) -> None:
    expected = run.Config(Model, hidden=3, optimizer=run.Config(Optimizer, lr=0.5))
    assert parse_partial(train, f"@{write(text, name)}").model == expected
    assert parse_partial(train, f"model=@{name}:model" if "model.hidden" not in text else f"@{name}").model == expected


def test_mappings_go_into_the_configs_that_are_there(write: Any) -> None:
    write("model: {hidden: 7}")
    assert parse_partial(train, "model=small", "@args.yaml").model == run.Config(
        Model, hidden=7, optimizer=run.Config(Optimizer, lr=0.5)
    )


def test_options_of_the_run_are_returned(write: Any) -> None:
    write("epochs: 2\nexecutor: local\nrun: {dryrun: true}")
    cfg = run.Partial(train)
    assert apply_file(cfg, "args.yaml") == {"dryrun": True, "executor": "local"}
    assert cfg.epochs == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochz: 5", "args.yaml: epochz: No parameter named 'epochz' exists for train. Did you mean 'epochs'?"),
        ("model: {hiden: 5}", "model.hiden: No parameter named 'hiden' exists for Model. Did you mean 'hidden'?"),
        ("model: {hidden: x}", "model.hidden: Failed to parse 'x' as int"),
        ("epochs: null", "epochs: Failed to parse 'None' as int"),
        ("epochs: [1]", "epochs: Failed to parse '[1]' as int"),
        ("model: smal", "Did you mean 'small'?"),
        ("model: {_target_: nope.Model}", "nope.Model names nothing"),
        ("_target_: nope.other", "nope.other names nothing"),
        ("[1, 2]", "no mapping"),
        ("a: [", "This is no YAML"),
        ("other: {_factory_: nope}", None),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_path(write: Any, text: str, words: str | None) -> None:
    write(text)
    if words is None:
        assert parse_partial(train, "@args.yaml").other == "nope"
        return
    with pytest.raises(errors.CLIException) as raised:
        parse_partial(train, "@args.yaml")
    assert words in str(raised.value)


def test_files_that_are_not_there(write: Any) -> None:
    write("a: {b: 1}", "args.yaml")
    for where, words in [
        ("arg.yaml", "Did you mean 'args.yaml'?"),
        ("args.yaml:c", "There are: a."),
        ("args.yaml:a.c", "has no section 'c'"),
        ("args.txt", "Use .yaml"),
    ]:
        with pytest.raises(errors.ArgumentValueError) as raised:
            ConfigSerializer().load(where)
        assert words in str(raised.value)
