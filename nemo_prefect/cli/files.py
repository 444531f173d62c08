"""Configs from files that people write: a mapping of arguments, with the names of factories and classes in it.

Where `serialization` reads back what was written, this fills in what can be left out: the class, where the annotation names
it; ``_factory_: small(hidden=3)`` in place of ``_target_``; and values are checked against annotations.
"""

from __future__ import annotations

from typing import Any

import fiddle as fdl

from nemo_prefect.cli.annotations import classes, parameters, target_of, type_name
from nemo_prefect.cli.cli_parser import child_of, parameter_of
from nemo_prefect.cli.config import read_file
from nemo_prefect.cli.types import type_parser
from nemo_prefect.config import Config, Partial
from nemo_prefect.errors import ArgumentValueError, CLIException, NotFoundError
from nemo_prefect.serialization import ARGS, CALL, PARTIAL, TARGET, import_name

FACTORY = "_factory_"
RESERVED = (TARGET, PARTIAL, CALL, ARGS, FACTORY)


def config_from(data: dict[str, Any], annotation: Any, owner: Any = None, arg: str = "") -> Any:
    """A config from a mapping.

    Args:
        data: its arguments, and ``_target_`` or ``_factory_`` where the annotation does not name one class.
        annotation: what the parameter is annotated with.
        owner: the function or class that has the parameter.
        arg: the parameter.

    Raises:
        CLIException: a name or a value in it is wrong.
    """
    if FACTORY in data:
        made = type_parser.parse(str(data[FACTORY]), annotation, owner=owner, arg=arg)
    elif TARGET in data:
        target = _target(str(data[TARGET]))
        if data.get(CALL) is False:
            return target
        args = [type_parser.convert(v, Any) for v in data.get(ARGS, [])]
        kind: Any = Partial if data.get(PARTIAL) else Config
        made = kind(target, *args)
    else:
        found = classes(annotation)
        if len(found) != 1:
            raise ArgumentValueError(
                f"It is not clear of which class this is: {type_name(annotation)}.",
                hint=f"Say it with {TARGET}: module.Class.",
            )
        made = Config(found[0])
    rest = {k: v for k, v in data.items() if k not in RESERVED}
    if rest and not isinstance(made, fdl.Buildable):
        raise ArgumentValueError(f"{data.get(FACTORY) or data.get(TARGET)} makes no config, so it takes no arguments.")
    apply(made, rest)
    return made


def _target(name: str) -> Any:
    try:
        return import_name(name)
    except NotFoundError as error:
        raise ArgumentValueError(error.message, name, hint=error.hint) from error


def apply(node: Any, data: Any) -> None:
    """Put a mapping's values into a config; mappings go into the configs that are there.

    Raises:
        CLIException: a name or a value in it is wrong; the message names its path.
    """
    if not isinstance(data, dict):
        raise ArgumentValueError(f"A {type(data).__name__} stands where names and values are expected.")
    for key, value in data.items():
        try:
            _apply_one(node, str(key), value)
        except CLIException as error:
            error.prefix(f"{key}{'.' if _is_path(error.message) else ': '}")
            raise


def _is_path(message: str) -> bool:
    head = message.partition(":")[0]
    return ":" in message and all(part.isidentifier() for part in head.split("."))


def _apply_one(node: Any, key: str, value: Any) -> None:
    name, _, rest = key.partition(".")
    parameter = parameter_of(node, name)
    value = {rest: value} if rest else value
    nested = isinstance(value, dict) and not any(k in value for k in (TARGET, FACTORY))
    current = node.__arguments__.get(name)
    if nested and (isinstance(current, fdl.Buildable) or len(classes(parameter.annotation)) == 1):
        child = child_of(node, name)
        if isinstance(child, fdl.Buildable):
            apply(child, value)
            return
    setattr(node, name, type_parser.convert(value, parameter.annotation, owner=target_of(node), arg=name))


def apply_file(node: Any, where: str) -> dict[str, Any]:
    """Put what is in a file into a config.

    Args:
        node: the config.
        where: ``PATH[:section]``, with or without ``@``.

    Returns:
        What stands under ``run`` in the file, and ``executor`` and ``plugins``: the options of the run itself.

    Raises:
        CLIException: the file is not there, or something in it is wrong.
    """
    return apply_mapping(node, read_file(where), where.removeprefix("@"))


def apply_mapping(node: Any, data: Any, where: str) -> dict[str, Any]:
    """Put a mapping into a config, as `apply_file` does with what it read from the file `where`."""
    if not isinstance(data, dict):
        raise ArgumentValueError(f"{where} holds no mapping of names and values.", where)
    known, data, options = parameters(node)[0], dict(data), {}
    if isinstance(data.get("run"), dict) and "run" not in known:
        options = data.pop("run")
    for name in ("executor", "plugins"):
        if name in data and name not in known:
            options = {**options, name: data.pop(name)}
    try:
        if (target := data.pop(TARGET, None)) is not None:
            _check_target(node, str(target))
        data.pop(PARTIAL, None)
        apply(node, data)
    except CLIException as error:
        error.prefix(f"{where}: ")
        raise
    return options


def _check_target(node: Any, name: str) -> None:
    expected = target_of(node)
    if name.rpartition(".")[2] != getattr(expected, "__name__", "") and _target(name) is not expected:
        raise ArgumentValueError(
            f"It is a configuration of {name}, not of {getattr(expected, '__qualname__', expected)}.", name
        )
