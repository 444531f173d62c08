"""Text of a command line, and values of a file, as what a parameter is annotated with."""

from __future__ import annotations

import ast
import collections.abc
import enum
import inspect
import typing
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, Literal, get_args, get_origin

from nemo_prefect.cli.annotations import bare, classes, members, type_name, wants_partial
from nemo_prefect.cli.expressions import ExpressionError, evaluate
from nemo_prefect.cli.scalars import SCALARS, enum_member, literal, open_value, subclass
from nemo_prefect.errors import (
    DictParseError,
    ListParseError,
    NotFoundError,
    ParseError,
    UnknownTypeError,
)

NONE = ("none", "null")
_LISTS: dict[Any, Callable[[Any], Any]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
    collections.abc.Set: set,
}
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class TypeParser:
    """Turns text into a value of the annotated type. `register_parser` adds types."""

    def __init__(self) -> None:
        self._parsers: dict[Any, Callable[[str, Any], Any]] = {}

    def register_parser(self, type_: Any) -> Callable[[Callable[[str, Any], Any]], Callable[[str, Any], Any]]:
        """Decorator: the function ``(text, annotation) -> value`` parses values of `type_`; it raises ValueError for text
        that is none."""

        def register(parser: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
            self._parsers[type_] = parser
            return parser

        return register

    def parse(self, value: str, annotation: Any, *, owner: Any = None, arg: str = "") -> Any:
        """The value that `value` stands for.

        Args:
            value: the text.
            annotation: what the parameter is annotated with.
            owner: the function or class that has the parameter; its factories count.
            arg: the parameter's name.

        Raises:
            ParseError: it is none of the annotated type.
            ArgumentValueError: a factory's argument is wrong, or a file is not there.
        """
        text = value.strip()
        if text.startswith("@") and (classes(annotation) or _is_container(annotation) or bare(annotation) is Any):
            from nemo_prefect.cli.config import read_file

            return self.convert(read_file(text), annotation, owner=owner, arg=arg)
        options = members(annotation)
        if type(None) in options and text.lower() in NONE:
            return None
        from nemo_prefect.cli.factories import call_target, candidates, split_call

        name, call = split_call(text)
        for many in (False, True):
            found = candidates(owner, arg, annotation if not many else element_of(annotation), many)
            if name in found:
                return _as_wanted(call_target(found[name], call, text, call is not None), annotation)
        errors = []
        for member in options:
            if member is type(None) and len(options) > 1:
                continue
            try:
                return _as_wanted(self._parse_one(value, member, owner, arg), annotation)
            except ParseError as error:
                errors.append(error)
        if len(errors) == 1:
            raise errors[0]
        hint = next((e.hint for e in errors if e.hint), "")
        raise ParseError(value, annotation, f"it is none of {', '.join(type_name(m) for m in options)}.", hint=hint)

    def _parse_one(self, value: str, annotation: Any, owner: Any, arg: str) -> Any:
        text, origin = value.strip(), get_origin(annotation) or annotation
        if annotation in self._parsers or origin in self._parsers:
            try:
                return (self._parsers.get(annotation) or self._parsers[origin])(value, annotation)
            except (ValueError, TypeError) as error:
                raise ParseError(value, annotation, f"{error}.") from error
        if annotation is Any or annotation is object:
            return open_value(value)
        if annotation is type(None):
            if text.lower() not in NONE:
                raise ParseError(value, annotation, "only None is.")
            return None
        if origin is Literal:
            return literal(value, annotation)
        if origin in (type, collections.abc.Callable):
            return self._importable(value, annotation)
        if origin in _LISTS:
            return self._list(value, annotation, origin)
        if origin in _DICTS or typing.is_typeddict(origin):
            return self._dict(value, annotation)
        if isinstance(origin, type):
            for base, parse in SCALARS.items():
                if origin is base:
                    return parse(value)
            if issubclass(origin, enum.Enum):
                return enum_member(value, origin)
            if issubclass(origin, (PurePath, str, int, float, bytes)):
                return subclass(value, origin)
            return self._object(value, origin, owner, arg)
        raise UnknownTypeError(value, annotation, "there is no way to write such a value on a command line.")

    def _object(self, value: str, cls: Any, owner: Any, arg: str) -> Any:
        import fiddle as fdl

        from nemo_prefect.cli.factories import NoFactoryError, parse_factory

        try:
            made = parse_factory(owner, arg, cls, value)
        except NoFactoryError as error:
            raise UnknownTypeError(value, cls, "no factory or class has this name.", hint=error.hint) from error
        target = fdl.get_callable(made) if isinstance(made, fdl.Buildable) else None
        fits = isinstance(made, cls) if target is None else not isinstance(target, type) or issubclass(target, cls)
        if not fits and not getattr(cls, "_is_protocol", False):
            got = target.__qualname__ if target is not None else type(made).__qualname__
            raise UnknownTypeError(value, cls, f"it makes a {got}.")
        return made

    def _importable(self, value: str, annotation: Any) -> Any:
        """A function or class, by its name; or a lambda."""
        from nemo_prefect.serialization import import_name

        text = value.strip()
        origin = get_origin(annotation) or annotation
        if origin is not type and text.startswith("lambda"):
            try:
                return evaluate(text)
            except ExpressionError as error:
                raise ParseError(value, annotation, f"{error}.") from error
        import builtins

        found = getattr(builtins, text, None) if text.isidentifier() else None
        try:
            found = import_name(text) if found is None else found
        except NotFoundError as error:
            raise ParseError(value, annotation, error.message, hint="Write package.module.name.") from error
        if origin is type and not (inspect.isclass(found) and _is_subclass(found, get_args(annotation))):
            raise ParseError(value, annotation, "it is no such class.")
        if not callable(found):
            raise ParseError(value, annotation, "it cannot be called.")
        return found

    def _list(self, value: str, annotation: Any, origin: Any) -> Any:
        items = _items(value)
        if items is None:
            try:
                made = evaluate(value)
                if isinstance(made, (str, bytes, dict)) or not isinstance(made, collections.abc.Iterable):
                    raise ExpressionError("it is no list")
            except ExpressionError as error:
                raise ListParseError(value, annotation, f"{error}.", hint=f"Write [{value.strip()}] for a list.") from error
            return self.convert(list(made), annotation)
        wanted = _element_types(annotation, len(items))
        if wanted is None:
            raise ListParseError(
                value, annotation, f"it has {len(items)} members, and {len(get_args(annotation))} are expected."
            )
        made = []
        for item, each in zip(items, wanted, strict=True):
            try:
                made.append(self.parse(item, each))
            except ParseError as error:
                raise ListParseError(value, annotation, error.message, hint=error.hint) from error
        return _LISTS[origin](made)

    def _dict(self, value: str, annotation: Any) -> Any:
        try:
            tree = ast.parse(value.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise DictParseError(value, annotation, "it is no Python dict.", hint="Write {'name': value}.") from error
        if not isinstance(tree, ast.Dict) or None in tree.keys:
            try:
                made = evaluate(value)
            except ExpressionError as error:
                raise DictParseError(value, annotation, f"{error}.", hint="Write {'name': value}.") from error
            if not isinstance(made, dict):
                raise DictParseError(value, annotation, "it is no dict.", hint="Write {'name': value}.")
            return self.convert(made, annotation)
        keys, values = (*get_args(annotation), Any, Any)[:2] if len(get_args(annotation)) == 2 else (Any, Any)
        result = {}
        for key, each in zip(tree.keys, tree.values, strict=True):
            try:
                name = self.parse(_segment(value, key), keys)
                result[name] = self.parse(_segment(value, each), values)
            except ParseError as error:
                raise DictParseError(value, annotation, error.message, hint=error.hint) from error
        return result

    def convert(self, value: Any, annotation: Any, *, owner: Any = None, arg: str = "") -> Any:
        """A value that is no text, from a file or an expression, as what the parameter is annotated with.

        Raises:
            ParseError: it does not fit.
        """
        from nemo_prefect.cli.files import config_from
        from nemo_prefect.serialization import from_data, is_marked

        options = members(annotation)
        if is_marked(value):
            value = from_data(value)
        if isinstance(value, str):
            if str in options or bare(annotation) is Any:
                return value
            return self.parse(value, annotation, owner=owner, arg=arg)
        if value is None:
            if type(None) in options or Any in options or object in options:
                return None
            raise ParseError("None", annotation, "None is not allowed.")
        if isinstance(value, dict) and ("_target_" in value or "_factory_" in value or classes(annotation)):
            return _as_wanted(config_from(value, annotation, owner, arg), annotation)
        for member in options:
            origin = get_origin(member) or member
            if isinstance(value, (list, tuple, set, frozenset)) and origin in _LISTS:
                wanted = _element_types(member, len(value))
                if wanted is not None:
                    return _LISTS[origin](self.convert(v, w) for v, w in zip(value, wanted, strict=True))
            if isinstance(value, dict) and origin in _DICTS:
                keys, values = get_args(member) if len(get_args(member)) == 2 else (Any, Any)
                return {self.convert(k, keys): self.convert(v, values) for k, v in value.items()}
        if bare(annotation) is Any or Any in options:
            return from_data(value) if isinstance(value, (dict, list)) else value
        if isinstance(value, (bool, int, float)):
            return self.parse(repr(value) if str not in options else str(value), annotation, owner=owner, arg=arg)
        if any(isinstance(m, type) and isinstance(value, m) for m in options):
            return value
        raise ParseError(repr(value), annotation, f"it is a {type(value).__name__}.")


def _is_subclass(cls: Any, wanted: tuple[Any, ...]) -> bool:
    bases = [b for w in wanted for b in members(w) if isinstance(b, type)]
    return not bases or any(issubclass(cls, b) for b in bases)


def _is_container(annotation: Any) -> bool:
    return any((get_origin(m) or m) in (*_LISTS, *_DICTS) for m in members(annotation))


def element_of(annotation: Any) -> Any:
    """What the lists among an annotation's members hold."""
    for member in members(annotation):
        if (get_origin(member) or member) in _LISTS and get_args(member):
            return get_args(member)[0]
    return type(None)


def _element_types(annotation: Any, count: int) -> list[Any] | None:
    """The types of a list's or tuple's members; None where a tuple of another length is expected."""
    args = get_args(annotation)
    if (get_origin(annotation) or annotation) is tuple and args and args[-1] is not ...:
        return list(args) if len(args) == count else None
    return [args[0] if args else Any] * count


def _as_wanted(made: Any, annotation: Any) -> Any:
    """A Config as a Partial, where the annotation asks for a call that is made later."""
    import fiddle as fdl

    from nemo_prefect.config import Config, Partial

    if wants_partial(annotation) and isinstance(made, fdl.Config):
        return fdl.cast(Partial, made)
    return fdl.cast(Config, made) if type(made) is fdl.Config else made


def _segment(text: str, node: ast.expr | None) -> str:
    return (node and ast.get_source_segment(text.strip(), node)) or ""


def _items(text: str) -> list[str] | None:
    """The texts of a list's members, or None where it is no list, tuple or set of members. Members need not be Python:
    ``[a-b, /data]`` is a list of two strings."""
    text = text.strip()
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _split(text[1:-1]) if text[:1] + text[-1:] in ("[]", "()", "{}") else None
    if isinstance(tree, (ast.List, ast.Tuple, ast.Set)) and not any(isinstance(e, ast.Starred) for e in tree.elts):
        return [_segment(text, e) for e in tree.elts]
    return None


def _split(text: str) -> list[str]:
    """Split at commas that are not within brackets or quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for index, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts


type_parser = TypeParser()


def parse_value(value: str, annotation: Any = None) -> Any:
    """The value of a text; by its annotation where there is one.

    Raises:
        ParseError: it does not fit the annotation.
    """
    return type_parser.parse(value, Any if annotation is None else annotation)
