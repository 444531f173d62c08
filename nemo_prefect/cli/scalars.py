"""Text as numbers, strings, booleans, enums, literals; and as whatever it looks like."""

from __future__ import annotations

import ast
import enum
from collections.abc import Callable
from typing import Any, get_args

from nemo_prefect.cli.expressions import ExpressionError, evaluate
from nemo_prefect.cli.suggest import did_you_mean
from nemo_prefect.errors import LiteralParseError, ParseError

TRUE = ("true", "yes", "on", "1", "t", "y")
FALSE = ("false", "no", "off", "0", "f", "n")
#: What an expression for an unannotated parameter may be; anything else is a string, so that 2024-01-02 stays one.
_OPEN = (ast.Constant, ast.List, ast.Dict, ast.Set, ast.ListComp, ast.SetComp, ast.DictComp, ast.IfExp, ast.Lambda)


def unquoted(text: str) -> str:
    """A string literal's value; any other text as it is."""
    stripped = text.strip()
    if len(stripped) >= 2 and stripped[0] in "'\"" and stripped[-1] == stripped[0]:
        try:
            value = ast.literal_eval(stripped)
        except (SyntaxError, ValueError, MemoryError):
            return text
        return value if isinstance(value, str) else text
    return text


def open_value(text: str) -> Any:
    """The value of an unannotated parameter: a Python literal, comprehension, condition or lambda, else a string."""
    stripped = text.strip()
    looks = stripped[:1] in ("[", "{", "(") or stripped.startswith("lambda ")
    try:
        tree = ast.parse(stripped, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text
    signed = isinstance(tree, ast.UnaryOp) and isinstance(tree.operand, ast.Constant)
    call = isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)
    if not (isinstance(tree, _OPEN) or signed or call or looks):
        return text
    try:
        return evaluate(stripped)
    except ExpressionError as error:
        if looks:
            raise ParseError(text, Any, f"{error}.", hint="Put quotes around it if it is text.") from error
        return text


def _number(text: str, kinds: tuple[type, ...]) -> Any:
    try:
        made = evaluate(text)
    except ExpressionError:
        return None
    return made if type(made) in kinds else None


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        made = _number(text, (int, float))
    if isinstance(made, int):
        return made
    whole = made is not None and abs(made) < 2**53 and made == int(made)
    raise ParseError(text, int, "it is no whole number.", hint=f"Did you mean {int(made)}?" if whole else "")


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        made = _number(text, (int, float))
    if made is None:
        raise ParseError(text, float, "it is no number.")
    return float(made)


def _bool(text: str) -> bool:
    word = unquoted(text).strip().lower()
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    raise ParseError(text, bool, "it is neither true nor false.", hint=did_you_mean(word, ("true", "false")))


def _complex(text: str) -> complex:
    try:
        return complex(text.replace(" ", ""))
    except ValueError as error:
        raise ParseError(text, complex, "it is no number.") from error


SCALARS: dict[type, Callable[[str], Any]] = {
    str: unquoted,
    bool: _bool,
    int: _int,
    float: _float,
    complex: _complex,
    bytes: lambda text: unquoted(text).encode(),
}


def subclass(text: str, cls: Any) -> Any:
    try:
        return cls(unquoted(text))
    except (TypeError, ValueError) as error:
        raise ParseError(text, cls, f"{error}.") from error


def literal(text: str, annotation: Any) -> Any:
    options = get_args(annotation)
    for option in options:
        if unquoted(text) == option or text.strip() == str(option) or text.strip() == repr(option):
            return option
    hint = did_you_mean(unquoted(text), options)
    raise LiteralParseError(text, annotation, f"it is none of {', '.join(repr(o) for o in options)}.", hint=hint)


def enum_member(text: str, cls: type[enum.Enum]) -> enum.Enum:
    name = unquoted(text).strip().removeprefix(f"{cls.__name__}.")
    if name in cls.__members__:
        return cls.__members__[name]
    for member in cls:
        if str(member.value) == name or member.name.lower() == name.lower():
            return member
    options = list(cls.__members__)
    raise LiteralParseError(text, cls, f"it is none of {', '.join(options)}.", hint=did_you_mean(name, options))
