"""What functions and classes say of their parameters."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import re
import sys
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, ForwardRef, Literal, TypeVar, get_args, get_origin

import fiddle as fdl

from nemo_prefect.config import Config, Partial
from nemo_prefect.external_main import MODULE

UNIONS = (typing.Union, types.UnionType)
BUILDABLES = (Config, Partial, fdl.Config, fdl.Partial, fdl.Buildable)
MISSING = inspect.Parameter.empty
#: Classes whose values are written as literals: a name in their place is never looked up as a factory.
PLAIN = (str, int, float, bool, complex, bytes, list, tuple, dict, set, frozenset, type(None), object)


@dataclass(frozen=True)
class Parameter:
    """A parameter: its name, annotation (`Any` where it has none) and default (`MISSING` where it has none)."""

    name: str
    annotation: Any = Any
    default: Any = MISSING


def target_of(made: Any) -> Any:
    """The function or class that is configured, or `made` itself."""
    return fdl.get_callable(made) if isinstance(made, fdl.Buildable) else made


def parameters(target: Any) -> tuple[dict[str, Parameter], bool]:
    """The parameters that `target` takes by name, and whether it takes others too (``**kwargs``)."""
    target = target_of(target)
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return {}, True
    hints = hints_of(target)
    made: dict[str, Parameter] = {}
    for name, each in signature.parameters.items():
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
            made[name] = Parameter(name, hints.get(name, Any), default_of(target, name, each.default))
    return made, any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())


def hints_of(target: Any) -> dict[str, Any]:
    """The annotations of a function or class, resolved as far as they can be: what only exists while type checking stays
    `Any`."""
    fields = getattr(target, "model_fields", None)
    if inspect.isclass(target) and isinstance(fields, dict):  # pydantic has resolved them
        return {name: info.annotation for name, info in fields.items()}
    where = target.__init__ if inspect.isclass(target) and not dataclasses.is_dataclass(target) else target
    where = inspect.unwrap(where) if callable(where) and not inspect.isclass(where) else where
    try:
        return typing.get_type_hints(where, include_extras=True)
    except Exception:  # noqa: BLE001 - one annotation that cannot be resolved must not hide the others
        raw = dict(getattr(where, "__annotations__", {}))
        module = sys.modules.get(getattr(where, "__module__", ""), None)
        return {name: _resolve(hint, vars(module) if module else {}) for name, hint in raw.items()}


def _resolve(hint: Any, names: dict[str, Any]) -> Any:
    if isinstance(hint, ForwardRef):
        hint = hint.__forward_arg__
    if not isinstance(hint, str):
        return hint
    holder = type("Holder", (), {"__annotations__": {"hint": hint}})
    try:
        return typing.get_type_hints(holder, names, {}, include_extras=True)["hint"]
    except Exception:  # noqa: BLE001 - a name that only exists while type checking
        return Any


def default_of(target: Any, name: str, default: Any) -> Any:
    """A parameter's default. A default factory's is made anew."""
    if dataclasses.is_dataclass(target):
        for field in dataclasses.fields(target):
            if field.name == name and field.default_factory is not dataclasses.MISSING:
                return field.default_factory()
    fields = getattr(target, "model_fields", None)
    if isinstance(fields, dict) and name in fields:
        return MISSING if fields[name].is_required() else fields[name].get_default(call_default_factory=True)
    return default


def bare(annotation: Any) -> Any:
    """`annotation` without what does not change which values it takes: Annotated, NewType, Required, Config[...],
    Partial[...]."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif type(annotation).__name__ == "TypeAliasType":  # type Size = int, in Python 3.12 and later
            annotation = annotation.__value__
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif origin in BUILDABLES and get_args(annotation):
            annotation = get_args(annotation)[0]
        elif annotation in BUILDABLES or annotation is MISSING or isinstance(annotation, (str, ForwardRef)):
            return Any
        elif isinstance(annotation, TypeVar):
            annotation = annotation.__bound__ or Any
        else:
            return annotation


def wants_partial(annotation: Any) -> bool:
    """Whether the annotation asks for a call that is made later."""
    if get_origin(annotation) is Annotated:
        return wants_partial(get_args(annotation)[0])
    if get_origin(annotation) in UNIONS:
        return any(wants_partial(a) for a in get_args(annotation))
    return (get_origin(annotation) or annotation) in (Partial, fdl.Partial)


def members(annotation: Any) -> list[Any]:
    """The members of a union, each without its wrapping; any other annotation alone."""
    annotation = bare(annotation)
    if get_origin(annotation) in UNIONS:
        return [m for a in get_args(annotation) for m in members(a)]
    return [type(None) if annotation is None else annotation]


def classes(annotation: Any) -> list[type]:
    """The classes among an annotation's members whose values can be configured: not numbers, strings, containers, enums."""
    import enum
    from pathlib import PurePath

    found = []
    for member in members(annotation):
        cls = get_origin(member) or member
        if isinstance(cls, type) and cls not in PLAIN and not issubclass(cls, (enum.Enum, PurePath)):
            if cls.__module__ not in ("collections.abc", "typing") and not typing.is_typeddict(cls):
                found.append(cls)
    return found


def type_name(annotation: Any) -> str:
    """An annotation as one would write it."""
    if annotation is MISSING or annotation is Any:
        return "Any"
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(args[0])
    if origin is Literal:
        return " | ".join(repr(a) for a in args)
    if origin in UNIONS:
        return " | ".join(type_name(a) for a in args)
    if annotation is type(None) or annotation is None:
        return "None"
    if origin in (collections.abc.Callable,):
        return "Callable"
    if origin is not None and args:
        inner = ", ".join("..." if a is ... else type_name(a) for a in args)
        name = getattr(origin, "__name__", str(origin))
        return type_name(args[0]) if origin in BUILDABLES else f"{name}[{inner}]"
    if isinstance(annotation, type):
        module, name = display_module(annotation.__module__), annotation.__qualname__
        return name if module.split(".")[0] in ("builtins", "pathlib") else f"{module}.{name}"
    return re.sub(r"\btyping\.", "", str(annotation))


def display_module(module: str) -> str:
    """A module's name as its user knows it: a script's is its file's."""
    if module in ("__main__", MODULE):
        from pathlib import Path

        file = getattr(sys.modules.get(module), "__file__", None)
        return Path(file).stem if file else module
    return module
