"""Finds the function that ``nemo-prefect run TARGET`` names."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from nemo_prefect.cli.suggest import did_you_mean, nearest
from nemo_prefect.errors import NotFoundError


def load(target: str) -> Any:
    """The function that a target names.

    Args:
        target: ``FILE:function``, ``package.module:function`` or ``package.module.function``; the function can be left out
            where there is only one entry point.

    Raises:
        NotFoundError: there is no such file, module or function; the hint names the nearest.
    """
    where, colon, name = target.rpartition(":")
    if not colon:
        where, name = target, ""
    if where.endswith(".py"):
        return _function(_load_file(where), name, where)
    if not colon and "." in where and not _is_module(where):
        where, _, name = where.rpartition(".")
    return _function(_load_module(where), name, where)


def _is_module(name: str) -> bool:
    _see_working_directory()
    try:
        return importlib.util.find_spec(name) is not None  # type: ignore[attr-defined,unused-ignore]
    except (ImportError, ValueError, AttributeError):
        return False


def _see_working_directory() -> None:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def _load_file(where: str) -> ModuleType:
    """A script, as its jobs import it: its ``if __name__ == "__main__"`` guard stays shut, and its source travels with the
    experiment."""
    from nemo_prefect.external_main import MODULE
    from nemo_prefect.worker.run import load_main

    path = Path(where).expanduser().resolve()
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*.py")]) if path.parent.is_dir() else None
        raise NotFoundError(f"There is no file {where}.", hint=f"Did you mean {near!r}?" if near else "")
    if getattr(sys.modules.get(MODULE), "__file__", None) != str(path):
        sys.modules.pop(MODULE, None)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        return load_main(str(path))  # type: ignore[no-untyped-call,no-any-return]
    except BaseException:
        sys.modules.pop(MODULE, None)
        raise


def _load_module(name: str) -> ModuleType:
    _see_working_directory()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # a module of theirs lacks something: their traceback says more
        hint = f"Did you mean {name}.py?" if Path(f"{name}.py").exists() else "Name FILE.py:FUNCTION or MODULE:FUNCTION."
        raise NotFoundError(f"There is no module {name!r}.", hint=hint) from error
    except ValueError as error:
        raise NotFoundError(f"{name!r} names no module.", hint="Name FILE.py:FUNCTION or MODULE:FUNCTION.") from error


def _function(module: ModuleType, name: str, where: str) -> Any:
    here = {n: f for n, f in vars(module).items() if callable(f) and getattr(f, "__module__", None) == module.__name__}
    entrypoints = {n: f for n, f in vars(module).items() if hasattr(f, "cli_entrypoint")}
    if not name:
        if len(entrypoints) == 1:
            return next(iter(entrypoints.values()))
        raise NotFoundError(
            f"{where} has {len(entrypoints) or 'no'} entry points.",
            hint=f"Name one of {', '.join(entrypoints)}: {where}:{next(iter(entrypoints))}."
            if entrypoints
            else f"Name a function: {where}:FUNCTION.",
        )
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        found = next((f for f in entrypoints.values() if f.cli_entrypoint.name == name), None)
    if not callable(found):
        functions = [n for n, f in here.items() if inspect.isfunction(f) and not hasattr(f, "__factory__")]
        raise NotFoundError(f"{where} has no function {name!r}.", hint=did_you_mean(name, [*entrypoints, *functions]))
    return found
