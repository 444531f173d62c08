"""Where experiments live on disk: ``$NEMORUN_HOME``, as in NeMo-Run, by default ``~/.nemo_run``."""

from __future__ import annotations

import os
from pathlib import Path

_override: str | None = None


def get_nemorun_home() -> str:
    """The directory that holds all experiments: what `set_nemorun_home` set, else ``$NEMORUN_HOME``, else
    ``~/.nemo_run``. The variable is read at each call, so setting it after the import works as well."""
    return _override or os.path.expanduser(os.environ.get("NEMORUN_HOME") or "~/.nemo_run")


def set_nemorun_home(path: str) -> None:
    """Use `path` (``~`` is expanded) in this process from now on."""
    global _override
    _override = os.path.expanduser(path)


def experiments_dir(base_dir: str | os.PathLike[str] | None = None) -> Path:
    """The directory of all experiments, ``<base_dir or home>/experiments``; it need not exist."""
    return Path(base_dir or get_nemorun_home()).expanduser().absolute() / "experiments"
