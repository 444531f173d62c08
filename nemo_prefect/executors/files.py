"""Executors kept as functions in a Python file: ``$NEMORUN_HOME/executors.py``, or any other."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from nemo_prefect.errors import ConfigError, NotFoundError
from nemo_prefect.home import get_nemorun_home

#: Its name among the modules: no module of the user's own may have to give way to it.
_MODULE = "_nemo_prefect_executor_file"


def import_executor(name: str, file_path: str | None = None, call: bool = True, **kwargs: Any) -> Any:
    """What `name` is in an executor file: an executor, or a function that makes one.

    Args:
        name: the function or variable.
        file_path: the file; by default ``executors.py`` in NeMo-Run's home.
        call: call the function (with `kwargs`) and return what it makes; else return the function itself.
        **kwargs: the function's arguments.

    Raises:
        NotFoundError: there is no such file, or no such name in it; the message names the nearest one.
        ConfigError: `kwargs` are given for what is no function.
    """
    path = Path(file_path or Path(get_nemorun_home()) / "executors.py").expanduser()
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise NotFoundError(f"There is no executor file {path}.", hint=f"Write it, with a function {name!r} in it.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module  # dataclasses in the file look themselves up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[_MODULE]
        raise
    if not hasattr(module, name):
        known = [n for n, value in vars(module).items() if _is_one(value)]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(known) or 'nothing'}."
        raise NotFoundError(f"{path} has no {name!r}.", hint=hint)
    found = getattr(module, name)
    if callable(found):
        return found(**kwargs) if call else found
    if kwargs:
        raise ConfigError(f"{name!r} in {path} is no function, so it takes no arguments.", hint="Leave them out.")
    return found


def _is_one(value: Any) -> bool:
    """Whether what an executor file holds is an executor or a function of its own."""
    return type(value).__name__.endswith("Executor") or getattr(value, "__module__", None) == _MODULE
