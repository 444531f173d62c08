"""From names and configs to objects: factories for a whole call, classes by their names, executors and plugins."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nemo_prefect.cli.annotations import members, parameters, target_of
from nemo_prefect.cli.suggest import did_you_mean
from nemo_prefect.errors import ArgumentValueError


def named_class(name: str, base: type) -> type | None:
    """`base`, or the one class below it, of that name: among those that are loaded, and among this package's own."""
    import nemo_prefect

    def below(cls: type) -> Iterator[type]:
        yield cls
        subclasses: list[type] = type.__subclasses__(cls)
        for sub in subclasses:
            yield from below(sub)

    if name in nemo_prefect.__all__:
        own = getattr(nemo_prefect, name)
        if isinstance(own, type) and issubclass(own, base):
            return own
    found = {cls for cls in below(base) if cls.__name__ == name}
    return found.pop() if len(found) == 1 else None


def factory_call(fn: Any, text: str) -> Any:
    """What a factory for the whole call of `fn` makes.

    Raises:
        ArgumentValueError: there is no such factory; the hint names the nearest.
    """
    from nemo_prefect.cli.factories import by_name, call_target, registrations, split_call
    from nemo_prefect.errors import NotFoundError
    from nemo_prefect.serialization import import_name

    name, call = split_call(text)
    found = by_name(registrations(fn))
    target = found.get(name)
    if target is None and "." in name:
        try:
            target = import_name(name)
        except NotFoundError as error:
            raise ArgumentValueError(error.message, text, hint=error.hint) from error
    if target is None:
        raise ArgumentValueError(
            f"There is no factory {name or text!r} for {fn.__name__}.",
            text,
            hint=did_you_mean(name, found) or f"Make one with @run.cli.factory(target={fn.__name__}).",
        )
    return call_target(target, call, text, call is not None)


def built(value: Any) -> Any:
    """An object from its config; any other value as it is.

    Raises:
        ArgumentValueError: a field has a wrong value, or one is missing.
    """
    import fiddle as fdl
    from pydantic import ValidationError

    if not isinstance(value, fdl.Buildable):
        return value
    name = target_of(value).__name__
    try:
        return fdl.build(value)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ArgumentValueError(f"{name} cannot be made: {wrong}.") from error
    except TypeError as error:
        raise ArgumentValueError(f"{name} cannot be made: {str(error).splitlines()[0]}.") from error


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables, for as long as the block runs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def context_parameters(fn: Callable[..., Any]) -> tuple[str | None, str | None]:
    """The names of the parameters that take the context and the experiment, where there are any."""
    from nemo_prefect.cli.context import RunContext
    from nemo_prefect.experiment import Experiment

    ctx = exp = None
    for name, parameter in parameters(fn)[0].items():
        types = [m for m in members(parameter.annotation) if isinstance(m, type)]
        if any(issubclass(t, RunContext) for t in types) or name == "ctx":
            ctx = ctx or name
        elif any(issubclass(t, Experiment) for t in types) or name in ("exp", "experiment"):
            exp = exp or name
    return ctx, exp
