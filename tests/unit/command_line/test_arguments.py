"""Arguments as they are typed, put into a config by what the parameters are annotated with."""

from __future__ import annotations

import collections.abc
import contextlib
import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import fiddle as fdl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nemo_prefect as run
from nemo_prefect import errors
from nemo_prefect.cli import cli_parser, parse_cli_args, parse_config, parse_factory, parse_partial
from nemo_prefect.cli.cli_parser import Operation, parse_argument, parse_value


class Color(enum.Enum):
    RED = "red"
    DARK_BLUE = 7


@dataclass
class Optimizer:
    lr: float = 0.1
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])


@dataclass
class Model:
    hidden: int = 4
    name: str = "mlp"
    optimizer: Optional[Optimizer] = None  # noqa: UP045 - as NeMo-Run's users write it


@dataclass
class Tiny(Model):
    hidden: int = 1


@run.cli.factory
@run.autoconvert
def small(hidden: int = 8, optimizer: Optional[Optimizer] = None) -> Model:  # noqa: UP045
    """A small one."""
    return Model(hidden=hidden, optimizer=optimizer)


@run.cli.factory
def tiny() -> run.Config[Tiny]:
    return run.Config(Tiny)


@run.cli.factory(is_target_default=True)
def adam(lr: float = 7.0) -> run.Config[Optimizer]:
    return run.Config(Optimizer, lr=lr)


@run.cli.factory
def two() -> list[run.Config[Model]]:
    return [run.Config(Model), run.Config(Tiny)]


def train(
    model: Model,
    epochs: int = 3,
    lr: float = 1e-3,
    name: str = "x",
    flag: bool = False,
    tags: list[str] = [],  # noqa: B006
    sizes: tuple[int, ...] = (),
    pair: tuple[int, str] = (0, ""),
    options: dict[str, int] = {},  # noqa: B006
    color: Color = Color.RED,
    mode: Literal["a", "b", 3] = "a",
    path: Path = Path("."),
    either: Union[int, str] = 1,
    text_or_none: str | None = None,
    optimizer: Optional[Optimizer] = None,  # noqa: UP045
    models: list[Model] = [],  # noqa: B006
    named: dict[str, Model] = {},  # noqa: B006
    later: run.Partial[Model] = None,  # type: ignore[assignment]
    call: Callable[..., Any] | None = None,
    kind: type[Model] = Model,
    limit: Annotated[int, "a note"] = 0,
    runtime: int = 1,
    run_name: str = "",
    anything: Any = None,
    untyped=None,
) -> None: ...


def value_of(argument: str) -> Any:
    cfg = parse_partial(train, argument)
    return cfg.__arguments__[argument.split("=")[0].rstrip("+-*/|&")]


small_config, tiny_config = run.Config(Model, hidden=8, optimizer=None), run.Config(Tiny)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("epochs=5", 5),
        ("epochs=0x10", 16),
        ("epochs=1_000", 1000),
        ("epochs=-5", -5),
        ("epochs=2**3 + 1", 9),
        ("lr=1e-4", 1e-4),
        ("lr=3", 3.0),
        ("lr=inf", math.inf),
        ("lr=1/4", 0.25),
        ("name=hello world", "hello world"),
        ("name='quoted'", "quoted"),
        ("name=5", "5"),
        ("name=None", "None"),
        ("name=a=b", "a=b"),
        ("name=", ""),
        ("name=é ☃", "é ☃"),
        ("name=@handle", "@handle"),
        ("flag=True", True),
        ("flag=off", False),
        ("tags=[a,'b c']", ["a", "b c"]),
        ("tags=[a-b, /data/x]", ["a-b", "/data/x"]),
        ("tags=[]", []),
        ("tags=['x'] * 2", ["x", "x"]),
        ("sizes=1,2,3", (1, 2, 3)),
        ("sizes=[i * 2 for i in range(3)]", (0, 2, 4)),
        ("pair=(1,'a')", (1, "a")),
        ("options={'a': 1}", {"a": 1}),
        ("options={a: 1}", {"a": 1}),
        ("options=dict(a=1)", {"a": 1}),
        ("options={k: len(k) for k in ['x', 'yy']}", {"x": 1, "yy": 2}),
        ("color=RED", Color.RED),
        ("color=dark_blue", Color.DARK_BLUE),
        ("color=Color.DARK_BLUE", Color.DARK_BLUE),
        ("color=7", Color.DARK_BLUE),
        ("mode=b", "b"),
        ("mode=3", 3),
        ("path=/x/y", Path("/x/y")),
        ("either=5", 5),
        ("either=abc", "abc"),
        ("text_or_none=none", None),
        ("text_or_none=nothing", "nothing"),
        ("optimizer=None", None),
        ("optimizer=adam", run.Config(Optimizer, lr=7.0)),
        ("optimizer=default", run.Config(Optimizer, lr=7.0)),
        ("optimizer=adam(lr=2)", run.Config(Optimizer, lr=2.0)),
        ("model=small", small_config),
        ("model=small(3)", run.Config(Model, hidden=3, optimizer=None)),
        ("model=small(optimizer=adam(lr=2))", run.Config(Model, hidden=8, optimizer=run.Config(Optimizer, lr=2.0))),
        ("model=tiny", tiny_config),
        ("model=Model(hidden=3)", run.Config(Model, hidden=3)),
        ("models=[small, Model(hidden=2), tiny]", [small_config, run.Config(Model, hidden=2), tiny_config]),
        ("models=two", [run.Config(Model), run.Config(Tiny)]),
        ("named={'a': tiny}", {"a": tiny_config}),
        ("later=small", run.Partial(Model, hidden=8, optimizer=None)),
        ("call=math.sqrt", math.sqrt),
        ("call=print", print),
        ("kind=collections.OrderedDict", None),
        ("limit=4", 4),
        ("runtime=7", 7),
        ("run_name=z", "z"),
        ("anything=[1, 'a', None]", [1, "a", None]),
        ("anything=2024-01-02", "2024-01-02"),
        ("anything='a' if 1 > 2 else 'b'", "b"),
        ("untyped=5", 5),
        ("untyped=abc", "abc"),
        ("untyped=-1.5", -1.5),
        ("untyped=__import__('os').getcwd()", "__import__('os').getcwd()"),
        ("untyped=open('x')", "open('x')"),
    ],
)
def test_values(argument: str, value: Any) -> None:
    if value is None and "collections" in argument:
        with pytest.raises(errors.ParseError, match="no such class"):
            value_of(argument)
        return
    found = value_of(argument)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("argument", "error", "words"),
    [
        ("epochz=5", errors.ArgumentValueError, "Did you mean 'epochs'?"),
        ("model.hiden=5", errors.ArgumentValueError, "Did you mean 'hidden'?"),
        ("model.optimizer.beta=1", errors.ArgumentValueError, "Did you mean 'betas'?"),
        ("model=smal", errors.UnknownTypeError, "Did you mean 'small'?"),
        ("model=small(hiden=3)", errors.ArgumentValueError, "Did you mean 'hidden'?"),
        ("model=small(1, hidden=3)", errors.ArgumentValueError, "hidden twice"),
        ("model=small(1, 2, 3)", errors.ArgumentValueError, "more arguments"),
        ("model=adam", errors.UnknownTypeError, "Failed to parse 'adam' as Model"),
        ("optimizer=small", errors.ParseError, "as Optimizer"),
        ("color=read", errors.LiteralParseError, "Did you mean 'RED'?"),
        ("mode=c", errors.LiteralParseError, "none of 'a', 'b', 3"),
        ("flag=tru", errors.ParseError, "Did you mean 'true'?"),
        ("epochs=5.5", errors.ParseError, "no whole number"),
        ("epochs=1e3", errors.ParseError, "Did you mean 1000?"),
        ("epochs=None", errors.ParseError, "as int"),
        ("epochs=True", errors.ParseError, "as int"),
        ("lr=abc", errors.ParseError, "as float: it is no number"),
        ("tags=a", errors.ListParseError, "Write [a] for a list."),
        ("sizes=[1,x]", errors.ListParseError, "Failed to parse 'x' as int"),
        ("pair=(1,)", errors.ListParseError, "it has 1 members, and 2 are expected"),
        ("options={'a': 'b'}", errors.DictParseError, "as int"),
        ("options=5", errors.DictParseError, "Write {'name': value}."),
        ("call=nope.nope", errors.ParseError, "names nothing"),
        ("call=lambda x: open(x)", errors.ParseError, "'open' is no name"),
        ("anything=[open(x) for x in range(3)]", errors.ParseError, "'open' is no name"),
        ("epochs/=2", errors.ParseError, "1.5"),
        ("epochs-=x", errors.ParseError, "none of int, float"),
        ("model+=1", errors.UndefinedVariableError, "Cannot use '+='"),
        ("name-=1", errors.OperationError, "'x' -= '1'"),
        ("epochs/=0", errors.OperationError, "division by zero"),
        ("text_or_none+=a", errors.OperationError, "None += 'a'"),
        ("tags[3]=a", errors.ArgumentValueError, "A list of 0 has no member '3'"),
        ("epochs.x=1", errors.ArgumentValueError, "has no 'x'"),
        ("either.x=1", errors.ArgumentValueError, "has no 'x'"),
        ("model=@nope.yaml", errors.ArgumentValueError, "nope.yaml cannot be read"),
        ("=5", errors.ArgumentParsingError, "Invalid argument format"),
        ("a-b=5", errors.ArgumentParsingError, "Invalid argument format"),
        ("", errors.ArgumentParsingError, "Invalid argument format"),
    ],
)
def test_what_is_wrong_is_named_with_the_nearest_option(argument: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as raised:
        parse_partial(train, argument)
    assert words in str(raised.value)
    assert argument in str(raised.value)
    assert isinstance(raised.value, errors.CLIException)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        (["epochs+=5"], "epochs", 8),
        (["epochs=4", "epochs/=2"], "epochs", 2),
        (["epochs*=0.5", "epochs=7"], None, None),
        (["epochs|=8"], "epochs", 11),
        (["epochs&=2"], "epochs", 2),
        (["lr*=2"], "lr", 2e-3),
        (["name+=y"], "name", "xy"),
        (["tags=[a]", "tags+=[b]"], "tags", ["a", "b"]),
        (["options={a: 1}", "options|={b: 2}"], "options", {"a": 1, "b": 2}),
        (["options.a=1", "options.b=2"], "options", {"a": 1, "b": 2}),
        (["tags=[a, b]", "tags[1]=c"], "tags", ["a", "c"]),
        (["model.hidden=5"], "model", run.Config(Model, hidden=5)),
        (["model=small", "model.hidden*=2"], "model", run.Config(Model, hidden=16, optimizer=None)),
        (["model.optimizer.lr=1"], "model", run.Config(Model, optimizer=run.Config(Optimizer, lr=1.0))),
        (
            ["optimizer.betas[1]=0.5", "optimizer.betas+=[0.25]"],
            "optimizer",
            run.Config(Optimizer, betas=[0.9, 0.5, 0.25]),
        ),
        (["models=[small]", "models[0].hidden=2"], "models", [run.Config(Model, hidden=2, optimizer=None)]),
        (["named={'a': small}", "named.a.hidden=2"], "named", {"a": run.Config(Model, hidden=2, optimizer=None)}),
        (["later.hidden=3"], "later", run.Partial(Model, hidden=3)),
        (["options['a b']=1"], "options", {"a b": 1}),
    ],
)
def test_one_after_another(arguments: list[str], path: str | None, value: Any) -> None:
    if path is None:
        with pytest.raises(errors.ParseError):
            parse_partial(train, *arguments)
        return
    found = parse_partial(train, *arguments).__arguments__[path]
    assert found == value
    assert type(found) is type(value)


def test_defaults_are_not_changed() -> None:
    parse_partial(train, "tags+=[a]", "options.a=1")
    assert train.__defaults__ is not None
    assert [] in train.__defaults__
    assert {} in train.__defaults__
    assert parse_partial(train, "tags+=[b]").tags == ["b"]


def test_a_config_is_copied_and_changed() -> None:
    before = run.Partial(train, epochs=5)
    after = parse_cli_args(before, ["epochs+=1"])
    assert (before.epochs, after.epochs) == (5, 6)
    assert isinstance(parse_config(train, "epochs=1"), run.Config)


def test_values_without_a_key_go_to_the_next_parameter() -> None:
    cfg = parse_partial(train, "small", "5", "lr=2")
    assert (cfg.model, cfg.epochs, cfg.lr) == (small_config, 5, 2.0)


def test_parameters_of_a_pydantic_model() -> None:
    cfg = parse_config(run.LocalExecutor, "env_vars.A=b", "ntasks_per_node=2", "launcher=torchrun")
    assert fdl.build(cfg) == run.LocalExecutor(env_vars={"A": "b"}, ntasks_per_node=2, launcher="torchrun")
    with pytest.raises(errors.ArgumentValueError, match="Did you mean 'nodes'"):
        parse_config(run.LocalExecutor, "node=2")


def test_annotations_that_only_exist_while_type_checking_are_any() -> None:
    def odd(a: "Missing", b: int = 1) -> None: ...  # type: ignore[name-defined] # noqa: F821, UP037

    cfg = parse_partial(odd, "a=5", "b=6")
    assert (cfg.a, cfg.b) == (5, 6)
    with pytest.raises(errors.ParseError):
        parse_partial(odd, "b=x")


def test_keyword_arguments_take_any_name() -> None:
    def anything(**kwargs: Any) -> None: ...

    assert parse_partial(anything, "a=5").a == 5


def test_a_type_of_ones_own() -> None:
    @cli_parser.type_parser.register_parser(slice)
    def _slice(text: str, annotation: Any) -> slice:
        start, _, stop = text.partition(":")
        return slice(int(start), int(stop))

    try:
        assert parse_value("1:2", slice) == slice(1, 2)
        with pytest.raises(errors.ParseError, match="as slice"):
            parse_value("x", slice)
    finally:
        del cli_parser.type_parser._parsers[slice]


def test_parse_factory() -> None:
    assert parse_factory(train, "model", Model, "small(hidden=2)") == run.Config(Model, hidden=2, optimizer=None)
    with pytest.raises(ValueError, match="Did you mean 'small'"):
        parse_factory(train, "model", Model, "smoll")


def test_a_lambda_is_interpreted_and_refuses_what_is_not_allowed() -> None:
    call = value_of("call=lambda x, y=2: [x * y for _ in range(2)]")
    assert call(3) == [6, 6]
    assert call(3, y=1) == [3, 3]
    with pytest.raises(TypeError):
        call()
    for bad in ("lambda x: x.__class__", "lambda: ().__class__", "lambda x: eval(x)", "lambda x: f'{x}'", "lambda *a: a"):
        with pytest.raises(errors.ParseError):
            value_of(f"call={bad}")


# Whatever is typed -------------------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(st.characters(exclude_categories=["Cs"]))
)
plain = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=10,
)


@given(plain)
def test_the_repr_of_plain_data_is_that_data(value: Any) -> None:
    text = repr(value)
    if isinstance(value, str):
        assert parse_value(text, str) == value
    elif not (isinstance(value, float) and math.isinf(value)) and "inf" not in text:
        assert parse_value(text) == value


@given(st.integers())
def test_ints(value: int) -> None:
    assert parse_partial(train, f"epochs={value}").epochs == value


@given(st.floats(allow_nan=False))
def test_floats(value: float) -> None:
    assert parse_partial(train, f"lr={value!r}").lr == value


@given(st.lists(st.integers()), st.dictionaries(st.text(max_size=5), st.integers(), max_size=4))
def test_lists_and_dicts(numbers: list[int], options: dict[str, int]) -> None:
    cfg = parse_partial(train, f"sizes={numbers!r}", f"options={options!r}")
    assert (cfg.sizes, cfg.options) == (tuple(numbers), options)


@given(st.text(max_size=40), st.sampled_from(sorted(train.__annotations__.keys() - {"return"})))
def test_any_text_is_a_value_or_an_error_of_ours(text: str, name: str) -> None:
    with contextlib.suppress(errors.CLIException):
        parse_partial(train, f"{name}={text}")


expression = st.text("()[]{}:,.+-*/%<>= '\"ab01xforinlambdaifelse\n", max_size=30)


@given(expression)
def test_no_expression_reaches_python_itself(text: str) -> None:
    with contextlib.suppress(errors.CLIException):
        parse_value(text)


@given(st.text(max_size=30))
def test_an_argument_is_taken_apart_or_refused(text: str) -> None:
    try:
        argument = parse_argument(text)
    except errors.ArgumentParsingError:
        return
    assert argument.key + argument.operation.value in text.replace(" ", "") or any(c.isspace() for c in text)
    assert text.strip().startswith(argument.key)
    assert text.strip().endswith(argument.value)


@given(st.sampled_from(list(Operation)), st.text(max_size=10))
def test_the_first_operator_counts(operation: Operation, rest: str) -> None:
    argument = parse_argument(f"a.b[0]{operation.value}{rest}x")
    assert (argument.key, argument.operation, argument.value) == ("a.b[0]", operation, f"{rest}x")


@pytest.mark.parametrize(
    "text",
    [
        "().__class__.__bases__[0].__subclasses__()",
        "[c for c in ().__class__.__mro__]",
        "(lambda: open('/etc/passwd'))()",
        "[x for x in open('/etc/passwd')]",
        "{**globals()}",
        "[exec('1') for _ in range(1)]",
        "[10**10**10]",
        "[range(10**9)]",
        "['x' * 10**10]",
        "[i for i in range(1000000) for j in range(1000000)]",
        "[1 << 10**9]",
        "('%' + '09999999999d') % 1",
        "[(x := 1)]",
    ],
)
def test_nothing_is_run_and_nothing_hangs(text: str) -> None:
    with pytest.raises(errors.ParseError):
        parse_value(text if text[0] in "[{(" else f"[{text}]")


def test_text_that_is_no_python_is_text() -> None:
    assert parse_value("[" * 3000) == "[" * 3000
    assert parse_value("[a-b, /x") == "[a-b, /x"


def test_the_errors_are_one_tree() -> None:
    for name in ("ListParseError", "DictParseError"):
        assert issubclass(getattr(cli_parser, name), cli_parser.CollectionParseError)
    assert issubclass(errors.ParseError, errors.TypeParsingError)
    assert issubclass(errors.CLIException, errors.ConfigError)
    error = errors.ArgumentParsingError("wrong", "a=b", {"key": "a"}, hint="Do it right.")
    assert (error.arg, error.context, error.user_friendly_message()) == ("a=b", {"key": "a"}, "wrong Do it right.")


def test_a_sequence_takes_a_list() -> None:
    assert parse_value("[1, 2]", collections.abc.Sequence[int]) == [1, 2]
    assert parse_value("{1, 2}", set[int]) == {1, 2}
    assert parse_value("{'a': 1}", collections.abc.Mapping[str, float]) == {"a": 1.0}
