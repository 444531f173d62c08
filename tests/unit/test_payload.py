"""A Partial written down here is the same call inside a job, under a bare Python."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import subprocess
import sys
import textwrap
from collections import namedtuple
from pathlib import Path
from typing import Any

import fiddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nemo_prefect as run
from nemo_prefect.errors import SerializationError
from nemo_prefect.payload import encode_task
from nemo_prefect.worker.run import Builder

seen: list[Any] = []


class Colour(enum.Enum):
    RED = 1


Point = namedtuple("Point", "x y")


@dataclasses.dataclass
class Box:
    content: Any = None

    class Inner:
        pass

    @classmethod
    def make(cls, content: Any) -> Box:
        return cls(content)


def note(*args: Any, **kwargs: Any) -> None:
    seen.append((args, kwargs))


def positional(a: Any, b: Any, /, c: Any = None) -> None:
    seen.append((a, b, c))


def call(task: Any) -> Any:
    """What the function is called with inside the job, for a task that went through JSON."""
    payload = json.loads(json.dumps(encode_task(task), allow_nan=False))
    seen.clear()
    Builder(payload["nodes"], None).value(payload["root"])()  # type: ignore[no-untyped-call]
    return seen[0]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.complex_numbers(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers()), inner)
        | st.sets(st.integers()) | st.frozensets(st.text())
    ),
    max_leaves=10,
)  # fmt: skip


@given(values)
def test_any_plain_value_arrives_as_it_was(value: Any) -> None:
    assert call(run.Partial(note, value=value)) == ((), {"value": value})


def test_types_are_kept() -> None:
    _, got = call(run.Partial(note, value=[True, 1, 1.0, (1,), {1: 2}]))
    assert [type(v) for v in got["value"]] == [bool, int, float, tuple, dict]


def test_nan_and_infinities() -> None:
    _, got = call(run.Partial(note, value=[math.inf, -math.inf, math.nan]))
    assert got["value"][:2] == [math.inf, -math.inf]
    assert math.isnan(got["value"][2])


def test_functions_classes_enums_and_named_tuples() -> None:
    value = [note, Box, Box.Inner, Box.make, Colour.RED, Point(1, [2]), len]
    _, got = call(run.Partial(note, value=value))
    assert got["value"] == value
    assert type(got["value"][5]) is Point


def test_nested_configs_are_built_and_partials_are_not() -> None:
    inner = run.Partial(note, 1, k=2)
    _, got = call(
        run.Partial(note, box=run.Config(Box, content=run.Config(Box, 5)), later=inner, made=run.Config(Box.make, 3))
    )
    assert got["box"] == Box(Box(5))
    assert (got["later"].args, got["later"].keywords) == ((1,), {"k": 2})
    assert got["made"] == Box(3)


def test_what_is_shared_stays_shared() -> None:
    shared, things = run.Config(Box, 1), [1]
    _, got = call(run.Partial(note, a=shared, b=shared, c=run.Config(Box, 1), d=things, e=things, bind_args=False))
    assert got["a"] is got["b"]
    assert got["a"] is not got["c"]
    assert got["d"] is got["e"]


def test_positional_only_and_variable_arguments() -> None:
    assert call(run.Partial(positional, 1, 2, c=3)) == (1, 2, 3)
    assert call(run.Partial(note, 1, 2, k=3)) == ((1, 2), {"k": 3})


def test_arg_factories_make_a_new_object_each_call() -> None:
    task = run.Partial(note, box=fiddle.ArgFactory(Box, content=1))
    payload = encode_task(task)
    made = Builder(payload["nodes"], None).value(payload["root"])  # type: ignore[no-untyped-call]
    seen.clear()
    made()
    made()
    assert seen[0][1]["box"] == Box(1)
    assert seen[0][1]["box"] is not seen[1][1]["box"]


@pytest.mark.parametrize("bad", [object(), Path("x"), lambda: 1, iter([])])
def test_what_has_no_form_is_refused_by_path(bad: Any) -> None:
    with pytest.raises(SerializationError, match=r"<root>\.box\.content\[1\]"):
        encode_task(run.Partial(note, box=run.Config(Box, content=[1, bad])))


def test_it_runs_under_a_bare_python(tmp_path: Path) -> None:
    """Without site-packages: no Fiddle, no Prefect, not this package."""
    (tmp_path / "mine.py").write_text(
        textwrap.dedent(
            """
            import sys
            class Model:
                def __init__(self, size): self.size = size
            def train(model, lr):
                assert not {"fiddle", "prefect", "nemo_prefect"} & set(sys.modules)
                print("trained", model.size, lr)
            """
        )
    )
    sys.path.insert(0, str(tmp_path))
    try:
        import mine  # type: ignore[import-not-found]

        payload = encode_task(run.Partial(mine.train, model=run.Config(mine.Model, size=3), lr=0.5))
    finally:
        sys.path.remove(str(tmp_path))
    task = tmp_path / "task.json"
    task.write_text(json.dumps({**payload, "sys_path": [str(tmp_path)]}))
    worker = Path(run.__file__).parent / "worker/run.py"
    done = subprocess.run([sys.executable, "-I", "-S", str(worker), str(task)], capture_output=True, text=True, cwd="/")
    assert (done.returncode, done.stdout) == (0, "trained 3 0.5\n"), done.stderr


def test_the_worker_is_python_3_8() -> None:
    import ast

    files = list((Path(run.__file__).parent / "worker").glob("*.py"))
    known = {*sys.stdlib_module_names, *(file.stem for file in files)}  # they travel together
    for file in files:
        ast.parse(file.read_text(), feature_version=(3, 8))
        imported = {
            (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else alias.name.split(".")[0]
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        }
        assert imported <= known, (file, imported)
