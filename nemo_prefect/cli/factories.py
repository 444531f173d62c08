"""The registry of factories and entry points, and how a name or a call on the command line finds its factory."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args, get_origin

from nemo_prefect.cli.suggest import did_you_mean
from nemo_prefect.errors import ArgumentValueError, ConfigError, NotFoundError

if TYPE_CHECKING:
    from nemo_prefect.cli.entrypoints import Entrypoint

F = Callable[..., Any]
DEFAULT = "default"


class NoFactoryError(NotFoundError):
    """There is no factory of that name."""


@dataclass(frozen=True)
class Registration:
    """A factory: its name, what it makes, and where it may be used.

    Attributes:
        name: what is typed on the command line.
        fn: the factory.
        target: the class that it makes, or the function or class whose argument it is for.
        target_arg: the argument's name; empty where it is for every parameter of the type `target`.
        many: whether it makes a list.
        namespace: the namespace that it was put into; those are found by it, not by type.
        is_default: whether it is its target's default.
    """

    name: str
    fn: F
    target: Any
    target_arg: str = ""
    many: bool = False
    namespace: str = ""
    is_default: bool = False

    def makes(self, cls: type) -> bool:
        """Whether what it makes is a `cls`."""
        if self.target is cls:
            return True
        return isinstance(self.target, type) and isinstance(cls, type) and issubclass(self.target, cls)


_factories: list[Registration] = []
_entrypoints: dict[str, dict[str, Entrypoint]] = {}


def factory(
    fn: F | None = None,
    target: Any = None,
    *,
    target_arg: str | None = None,
    is_target_default: bool = False,
    name: str | None = None,
    namespace: str | None = None,
) -> Any:
    """Give a function that returns a `Config` or `Partial` (or a list of them) a name on the command line:
    ``model=small(hidden=3)``.

    Args:
        fn: the function, where the decorator is used without arguments.
        target: what it is for: a class, for every parameter of that type; or a function, for the whole of its call, or
            with `target_arg` for that argument. By default what its return annotation names.
        target_arg: the argument of `target` that it is for.
        is_target_default: also found as ``default``.
        name: its name on the command line; by default the function's.
        namespace: found by `list_factories` and `resolve_factory` under this name.

    Raises:
        ConfigError: it does not say what it makes, or makes something that is no config (a ValueError as well).
    """

    def register(function: F) -> F:
        @functools.wraps(function)
        def as_factory(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        made, many = (target, False) if target is not None else _made_by(function)
        as_factory.wrapped = function  # type: ignore[attr-defined]
        as_factory.__factory__ = True  # type: ignore[attr-defined]
        register_factory(
            Registration(
                name or function.__name__,
                as_factory,
                made,
                target_arg=target_arg or "",
                many=many,
                namespace=namespace or "",
                is_default=is_target_default,
            )
        )
        return as_factory

    if target_arg and target is None:
        raise ConfigError(f"target_arg={target_arg!r} needs a target.", hint="Pass target=the_function as well.")
    return register if fn is None else register(fn)


def register_factory(registration: Registration) -> None:
    """Add a factory; one of the same name for the same target is replaced, as when a module is loaded again."""
    same = (registration.name, _key(registration.target), registration.target_arg, registration.namespace)
    _factories[:] = [r for r in _factories if (r.name, _key(r.target), r.target_arg, r.namespace) != same]
    _factories.append(registration)


def _key(target: Any) -> tuple[str, str]:
    return getattr(target, "__module__", ""), getattr(target, "__qualname__", repr(target))


def _made_by(function: F) -> tuple[Any, bool]:
    """What a factory's return annotation names, and whether it returns a list of them."""
    from nemo_prefect.cli.annotations import BUILDABLES, bare, hints_of

    hint = hints_of(function).get("return")
    many = get_origin(hint) is list and len(get_args(hint)) == 1
    inner = get_args(hint)[0] if many else hint
    if hint is None:
        raise ConfigError(
            f"The factory {function.__qualname__} does not say what it makes.",
            hint="Annotate what it returns, for example -> run.Config[Model], or pass target=...",
        )
    is_config = (get_origin(inner) or inner) in BUILDABLES
    if not is_config and not getattr(function, "__auto_config__", False):
        raise ConfigError(
            f"The factory {function.__qualname__} does not return a Config or a Partial.",
            hint="Return run.Config(...) and annotate that, or put @run.autoconvert below @run.cli.factory.",
        )
    made = bare(inner)
    made = get_origin(made) or made
    if made is Any or not (isinstance(made, type) or inspect.isfunction(made)):
        raise ConfigError(
            f"The factory {function.__qualname__} does not say of what it returns a config.",
            hint="Annotate the type, for example -> run.Config[Model], or pass target=...",
        )
    return made, many


def registrations(target: Any, arg: str = "", many: bool | None = None) -> list[Registration]:
    """The factories for the argument `arg` of `target`, or those that make a `target`."""
    if arg:
        return [r for r in _factories if r.target_arg == arg and _key(r.target) == _key(target)]
    return [
        r
        for r in _factories
        if not r.target_arg and not r.namespace and (r.makes(target) or _key(r.target) == _key(target))
        if many is None or r.many is many
    ]


def candidates(owner: Any, arg: str, annotation: Any, many: bool = False) -> dict[str, F]:
    """The factories that can make a value for the parameter `arg` of `owner`, by name.

    Args:
        owner: the function or class that has the parameter.
        arg: the parameter.
        annotation: what it is annotated with.
        many: whether those that make lists are meant.
    """
    from nemo_prefect.cli.annotations import classes

    found = [r for cls in classes(annotation) for r in registrations(cls, many=many)]
    found += registrations(owner, arg) if owner is not None and arg else []
    return by_name(found)


def by_name(found: Iterable[Registration]) -> dict[str, F]:
    """Factories by their names; a default is also ``default``."""
    named: dict[str, F] = {}
    for each in found:
        named[each.name] = each.fn
        if each.is_default:
            named[DEFAULT] = each.fn
    return named


def list_factories(type_or_namespace: Any) -> list[F]:
    """The factories that make a type, or those of a namespace (a type's ``module.qualname`` is one too).

    Args:
        type_or_namespace: a class, a function (for factories of its call and of its arguments), or a namespace.
    """
    if isinstance(type_or_namespace, str):
        found = [r for r in _factories if type_or_namespace in (r.namespace, ".".join(_key(r.target)))]
    else:
        key = _key(type_or_namespace)
        found = registrations(type_or_namespace) + [r for r in _factories if r.target_arg and _key(r.target) == key]
    return list(dict.fromkeys(r.fn for r in found))


def resolve_factory(target: Any, name: str) -> F:
    """The factory `name` that makes `target`.

    Args:
        target: a class, a function, or a namespace.
        name: the factory's name, or ``default``.

    Raises:
        NoFactoryError: there is none (a ValueError as well); the hint names the nearest.
    """
    if isinstance(target, str):
        found = by_name(r for r in _factories if target in (r.namespace, ".".join(_key(r.target))))
    else:
        found = by_name(registrations(target))
    if name not in found:
        shown = target if isinstance(target, str) else getattr(target, "__qualname__", target)
        raise NoFactoryError(f"No factory named {name!r} makes {shown}.", hint=did_you_mean(name, found))
    return found[name]


def register_entrypoint(entrypoint: Entrypoint) -> None:
    """Add an entry point to its namespace."""
    _entrypoints.setdefault(entrypoint.namespace, {})[entrypoint.name] = entrypoint


def list_entrypoints(namespace: str | None = None) -> dict[str, dict[str, Entrypoint]]:
    """The entry points, by namespace and name.

    Args:
        namespace: only those of this namespace.
    """
    if namespace is not None:
        return {namespace: dict(_entrypoints[namespace])} if namespace in _entrypoints else {}
    return {name: dict(members) for name, members in _entrypoints.items()}


# Names and calls on the command line -------------------------------------------------------------------------------------


def parse_factory(parent: Any, arg_name: str, arg_type: Any, value: str) -> Any:
    """What a name or a call on the command line makes: ``small``, ``small(hidden=3)``, ``Model(hidden=3)``,
    ``package.module.Model(hidden=3)``.

    Args:
        parent: the function or class that has the parameter.
        arg_name: the parameter.
        arg_type: what it is annotated with.
        value: the text.

    Raises:
        NoFactoryError: nothing of that name makes such a value (a ValueError as well); the hint names the nearest.
        ArgumentValueError: an argument of the call is wrong.
    """
    name, call = split_call(value)
    found = candidates(parent, arg_name, arg_type)
    target = _named(name, parent, arg_name, arg_type, found) if name else None
    if target is None:
        from nemo_prefect.cli.annotations import type_name

        options = [*found, *(cls.__name__ for cls in _classes(arg_type))]
        raise NoFactoryError(
            f"Nothing named {name or value!r} makes a {type_name(arg_type)}.", hint=did_you_mean(name or value, options)
        )
    return call_target(target, call, value, called=call is not None)


def _classes(annotation: Any) -> list[type]:
    from nemo_prefect.cli.annotations import classes

    return classes(annotation)


def _named(name: str, parent: Any, arg: str, annotation: Any, found: dict[str, F]) -> Any:
    if name in found:
        return found[name]
    if "." not in name:
        from nemo_prefect.cli.resolve import named_class

        return next((c for cls in _classes(annotation) if (c := named_class(name, cls)) is not None), None)
    from nemo_prefect.serialization import import_name

    try:
        return import_name(name)
    except NotFoundError:
        return None


def split_call(text: str) -> tuple[str, ast.Call | None]:
    """A dotted name and, where it is called, the call; an empty name where `text` is neither."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "", None
    call = tree if isinstance(tree, ast.Call) else None
    node = call.func if call is not None else tree
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return "", None
    return ".".join([node.id, *reversed(parts)]), call


def makes_configs(target: Any) -> bool:
    """Whether calling `target` gives a config: a factory, an autoconverted function, or one annotated so."""
    if getattr(target, "__factory__", False) or getattr(target, "__auto_config__", False):
        return True
    if not inspect.isfunction(target):
        return False
    from nemo_prefect.cli.annotations import BUILDABLES, hints_of

    hint = hints_of(target).get("return")
    return (get_origin(hint) or hint) in BUILDABLES


def call_target(target: Any, call: ast.Call | None, text: str, called: bool) -> Any:
    """What a found name makes: a factory is called; a class or any other function becomes a config of a call with these
    arguments; any other object stands for itself.

    Args:
        target: what the name stands for.
        call: the call on the command line, if it is one.
        text: the whole text.
        called: whether it had parentheses.
    """
    import copy

    import fiddle as fdl

    from nemo_prefect.config import Config

    if not callable(target) or isinstance(target, fdl.Buildable):
        if called:
            raise ArgumentValueError(f"{text.split('(')[0]} cannot be called.", text, hint="Leave out the parentheses.")
        return copy.deepcopy(target) if isinstance(target, fdl.Buildable) else target
    args, kwargs = call_arguments(target, call, text)
    if makes_configs(target):
        made = target(*args, **kwargs)
        if not isinstance(made, (fdl.Buildable, list)):
            raise ArgumentValueError(
                f"The factory {target.__qualname__} returned a {type(made).__name__}.",
                text,
                hint="Let it return run.Config(...) or run.Partial(...), or a list of them.",
            )
        return made
    return Config(target, *args, **kwargs)


def call_arguments(target: Any, call: ast.Call | None, text: str) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call on the command line, by the annotations of what it calls.

    Raises:
        ArgumentValueError: there is no such parameter, or one is given twice.
    """
    if call is None:
        return [], {}
    from nemo_prefect.cli.annotations import Parameter, parameters
    from nemo_prefect.cli.types import type_parser

    known, any_name = parameters(target)
    kwargs: dict[str, Any] = {}
    names = list(known)
    pairs: list[tuple[str, ast.expr]] = []
    for index, node in enumerate(call.args):
        if index >= len(names) or isinstance(node, ast.Starred):
            raise ArgumentValueError(f"{text} has more arguments than there are parameters.", text)
        pairs.append((names[index], node))
    for keyword in call.keywords:
        name = keyword.arg or "**"
        if name not in known and not (any_name and keyword.arg):
            raise ArgumentValueError(
                f"No parameter named {name!r} exists for {call_name(call)}.", text, hint=did_you_mean(name, known)
            )
        pairs.append((name, keyword.value))
    for name, node in pairs:
        if name in kwargs:
            raise ArgumentValueError(f"{text} gives {name} twice.", text)
        parameter = known.get(name, Parameter(name))
        segment = ast.get_source_segment(text.strip(), node) or ast.unparse(node)
        kwargs[name] = type_parser.parse(segment, parameter.annotation, owner=target, arg=name)
    return [], kwargs


def call_name(call: ast.Call) -> str:
    """The name that a call calls."""
    return ast.unparse(call.func)
