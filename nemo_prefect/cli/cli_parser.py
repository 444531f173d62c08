"""Arguments of a command line, ``model.layers[0].size=3``, put into a config."""

from __future__ import annotations

import copy
import dataclasses
import enum
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import fiddle as fdl

from nemo_prefect.cli.annotations import MISSING, Parameter, bare, classes, members, parameters, target_of, wants_partial
from nemo_prefect.cli.factories import parse_factory
from nemo_prefect.cli.suggest import did_you_mean
from nemo_prefect.cli.types import TypeParser, parse_value, type_parser
from nemo_prefect.config import Config, Partial, to_config
from nemo_prefect.errors import (
    ArgumentParsingError,
    ArgumentValueError,
    CLIException,
    CollectionParseError,
    DictParseError,
    ListParseError,
    LiteralParseError,
    OperationError,
    ParseError,
    TypeParsingError,
    UndefinedVariableError,
    UnknownTypeError,
)

__all__ = [
    "Argument",
    "ArgumentParsingError",
    "ArgumentValueError",
    "CLIException",
    "CollectionParseError",
    "DictParseError",
    "ListParseError",
    "LiteralParseError",
    "Operation",
    "OperationError",
    "ParseError",
    "TypeParser",
    "TypeParsingError",
    "UndefinedVariableError",
    "UnknownTypeError",
    "parse_argument",
    "parse_cli_args",
    "parse_config",
    "parse_factory",
    "parse_partial",
    "parse_value",
    "type_parser",
]


class Operation(enum.Enum):
    """What an argument does with its value."""

    ASSIGN = "="
    ADD = "+="
    SUBTRACT = "-="
    MULTIPLY = "*="
    DIVIDE = "/="
    OR = "|="
    AND = "&="


_OPERATORS: dict[Operation, Callable[[Any, Any], Any]] = {
    Operation.ADD: operator.add,
    Operation.SUBTRACT: operator.sub,
    Operation.MULTIPLY: operator.mul,
    Operation.DIVIDE: operator.truediv,
    Operation.OR: operator.or_,
    Operation.AND: operator.and_,
}
_ARGUMENT = re.compile(r"([^\W\d]\w*(?:\.\w+|\[[^\[\]=]*\])*)\s*(\+=|-=|\*=|/=|\|=|&=|=)(.*)", re.DOTALL)
_STEP = re.compile(r"\[([^\[\]]*)\]|(\w+)")


@dataclass(frozen=True)
class Argument:
    """One argument: its text, the path that it names, what it does, and its value's text."""

    text: str
    key: str
    operation: Operation
    value: Any

    @property
    def steps(self) -> list[str]:
        """The steps of the path."""
        return steps_of(self.key)


def steps_of(key: str) -> list[str]:
    """The steps of a path such as ``model.layers[0].size``."""
    return [(index or name).strip("'\" ") for index, name in _STEP.findall(key)]


def parse_argument(text: str) -> Argument:
    """``key=value`` (or ``+= -= *= /= |= &=``) taken apart.

    Raises:
        ArgumentParsingError: it has not that form.
    """
    match = _ARGUMENT.fullmatch(text.strip())
    if match is None:
        raise ArgumentParsingError(
            f"Invalid argument format: {text!r} is not key=value.",
            text,
            hint="Write name=value, or model.name=value; put quotes around an argument with spaces in it.",
        )
    key, op, value = match.groups()
    return Argument(text, key, Operation(op), value)


def parse_cli_args(fn: Any, args: Sequence[str], output_type: Any = Partial) -> Any:
    """A config of `fn` with arguments as they are typed on a command line.

    Args:
        fn: a function or class, or a config, which is copied and changed.
        args: ``key=value`` each; one without a key goes to the next parameter, ``@FILE`` takes all that is in the file.
        output_type: `Partial` or `Config`.

    Raises:
        ArgumentParsingError: an argument has not the form ``key=value``.
        ArgumentValueError: it names no parameter; the hint names the nearest.
        ParseError: its value does not fit the parameter's annotation.
        UndefinedVariableError, OperationError: ``+=`` and the like, where there is no value or none that fits.
    """
    cfg = copy.deepcopy(fn) if isinstance(fn, fdl.Buildable) else output_type(fn)
    given: set[str] = set()
    for text in args:
        if text.startswith("@"):
            from nemo_prefect.cli.files import apply_file

            apply_file(cfg, text)
            continue
        argument = parse_argument(text) if _ARGUMENT.fullmatch(text.strip()) else _positional(cfg, text, given)
        given.add(argument.steps[0])
        assign(cfg, argument)
    return cfg


def parse_partial(fn: Any, *args: str) -> Any:
    """A `Partial` of `fn` with these arguments; see `parse_cli_args`."""
    return parse_cli_args(fn, args, Partial)


def parse_config(fn: Any, *args: str) -> Any:
    """A `Config` of `fn` with these arguments; see `parse_cli_args`."""
    return parse_cli_args(fn, args, Config)


def _positional(cfg: Any, text: str, given: set[str]) -> Argument:
    free = [name for name in parameters(cfg)[0] if name not in given]
    if not free or not text.strip() or re.match(r"[\w.\-]*\s*\W?=", text):
        parse_argument(text)
        raise ArgumentParsingError(f"Invalid argument format: there is no parameter left for {text!r}.", text)
    return Argument(text, free[0], Operation.ASSIGN, text)


def assign(root: Any, argument: Argument) -> None:
    """Put an argument's value where it says, below `root`.

    Raises:
        CLIException: the path is not there, or the value does not fit.
    """
    try:
        node, annotation = root, Any
        steps = argument.steps
        for step in steps[:-1]:
            node, annotation = _descend(node, annotation, step)
        _put(node, annotation, steps[-1], argument)
    except CLIException as error:
        if argument.text not in error.message:
            error.prefix(f"{argument.text}: ")
        error.arg = argument.text
        raise


def parameter_of(node: Any, name: str) -> Parameter:
    """The parameter `name` of what `node` configures.

    Raises:
        ArgumentValueError: there is none; the hint names the nearest.
    """
    known, any_name = parameters(node)
    if name not in known and not any_name:
        target = target_of(node)
        raise ArgumentValueError(
            f"No parameter named {name!r} exists for {getattr(target, '__qualname__', target)}.",
            name,
            {"key": name},
            hint=did_you_mean(name, known),
        )
    return known.get(name, Parameter(name))


def child_of(node: Any, name: str) -> Any:
    """The value of `node`'s argument `name`, made ready to be changed: a config's own, else its default, else a config of
    the class that it is annotated with."""
    parameter = parameter_of(node, name)
    value = node.__arguments__.get(name, MISSING)
    if value is MISSING:
        value = copy.deepcopy(parameter.default)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = to_config(value)
    elif hasattr(type(value), "model_fields"):
        value = Config(type(value), **{k: getattr(value, k) for k in value.model_fields_set})
    if value is MISSING or value is None:
        value = _empty(parameter)
    setattr(node, name, value)
    return value


def _empty(parameter: Parameter) -> Any:
    found = classes(parameter.annotation)
    if len(found) == 1:
        return (Partial if wants_partial(parameter.annotation) else Config)(found[0])
    if not found and any(
        str(bare(m)).startswith(("dict", "typing.Dict", "<class 'dict'>")) for m in members(parameter.annotation)
    ):
        return {}
    raise ArgumentValueError(
        f"{parameter.name!r} has no value yet.",
        parameter.name,
        hint=f"Set {parameter.name}=... first{': ' + ', '.join(c.__name__ for c in found) if found else ''}.",
    )


def _descend(node: Any, annotation: Any, step: str) -> tuple[Any, Any]:
    """The value at one step of a path, and what it is annotated with."""
    if isinstance(node, fdl.Buildable):
        return child_of(node, step), parameter_of(node, step).annotation
    inner = _inner(annotation)
    if isinstance(node, dict):
        key = _key(node, step, annotation)
        if key not in node:
            node[key] = {}
        return node[key], inner
    if isinstance(node, list):
        return node[_index(node, step)], inner
    raise _no_part(node, step)


def _no_part(node: Any, step: str) -> ArgumentValueError:
    return ArgumentValueError(f"A {type(node).__name__} has no {step!r} that could be set.", step)


def _inner(annotation: Any) -> Any:
    """What a list or dict of this annotation holds."""
    for member in members(annotation):
        if args := get_args(member):
            return args[-1] if args[-1] is not ... else args[0]
    return Any


def _key(node: dict[Any, Any], step: str, annotation: Any) -> Any:
    if step in node:
        return step
    for member in members(annotation):
        if len(args := get_args(member)) == 2:
            return type_parser.parse(step, args[0])
    return int(step) if step.lstrip("-").isdigit() and int(step) in node else step


def _index(node: list[Any], step: str) -> int:
    if not step.lstrip("-").isdigit() or not -len(node) <= int(step) < len(node):
        raise ArgumentValueError(
            f"A list of {len(node)} has no member {step!r}.", step, hint=f"Use 0 to {len(node) - 1}." if node else ""
        )
    return int(step)


def _put(node: Any, annotation: Any, step: str, argument: Argument) -> None:
    if isinstance(node, fdl.Buildable):
        parameter = parameter_of(node, step)
        old = node.__arguments__.get(step, MISSING)
        old = copy.deepcopy(parameter.default) if old is MISSING else old
        value = _computed(argument, old, parameter.annotation, target_of(node), step)
        try:
            setattr(node, step, value)
        except (AttributeError, TypeError, ValueError) as error:
            raise ArgumentValueError(f"{step!r} cannot be set: {error}.", step) from error
        return
    inner = _inner(annotation)
    if isinstance(node, dict):
        key = _key(node, step, annotation)
        node[key] = _computed(argument, node.get(key, MISSING), inner, None, "")
    elif isinstance(node, list):
        index = _index(node, step)
        node[index] = _computed(argument, node[index], inner, None, "")
    else:
        raise _no_part(node, step)


def _computed(argument: Argument, old: Any, annotation: Any, owner: Any, name: str) -> Any:
    """The value that an argument gives a parameter."""
    if not isinstance(argument.value, str):  # of a LazyEntrypoint, which records values
        if argument.operation is Operation.ASSIGN:
            return argument.value
        new = argument.value
    elif argument.operation is Operation.ASSIGN:
        return type_parser.parse(argument.value, annotation, owner=owner, arg=name)
    else:
        if old is MISSING:
            raise UndefinedVariableError(
                f"Cannot use {argument.operation.value!r}: {argument.key} has no value yet.",
                argument.text,
                {"key": argument.key},
                hint=f"Set it first, with {argument.key}=...",
            )
        new = type_parser.parse(argument.value, _operand(old, annotation), owner=owner, arg=name)
    return apply_operation(argument, old, new, annotation)


def _operand(old: Any, annotation: Any) -> Any:
    """What stands to the right of ``+=``: for a number any number, so that an int can be halved."""
    if isinstance(old, (int, float)) and not isinstance(old, bool) and annotation in (int, float, Any):
        return int | float
    return type(old) if annotation is Any and old is not None else annotation


def apply_operation(argument: Argument, old: Any, new: Any, annotation: Any = Any) -> Any:
    """`old` ``+=`` `new`, or what the argument says.

    Raises:
        UndefinedVariableError: there is no `old`.
        OperationError: the two cannot be combined so.
        ParseError: the result does not fit the annotation.
    """
    if old is MISSING:
        raise UndefinedVariableError(f"Cannot use {argument.operation.value!r}: there is no value yet.", argument.text)
    try:
        result = _OPERATORS[argument.operation](old, new)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise OperationError(
            f"{old!r} {argument.operation.value} {new!r} is not possible: {error}.",
            argument.text,
            {"old": old, "new": new},
        ) from error
    if bare(annotation) is int and isinstance(result, float):
        if result != result // 1:
            raise ParseError(str(result), int, "the result is no whole number.")
        return int(result)
    return result
