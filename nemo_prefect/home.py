"""Where experiments live on disk: ``$NEMORUN_HOME``, as in NeMo-Run, by default ``~/.nemo_run``."""

from __future__ import annotations

import logging
import os
from pathlib import Path

logger = logging.getLogger("nemo_prefect")

_override: str | None = None
#: A file in the home: the other directories that hold experiments, one a line.
_BASE_DIRS = ".base_dirs"


def get_nemorun_home() -> str:
    """The directory that holds all experiments: what `set_nemorun_home` set, else ``$NEMORUN_HOME``, else
    ``~/.nemo_run``. The variable is read at each call, so setting it after the import works as well."""
    return _override or os.path.expanduser(os.environ.get("NEMORUN_HOME") or "~/.nemo_run")


def set_nemorun_home(path: str) -> None:
    """Use `path` (``~`` is expanded) in this process from now on."""
    global _override
    _override = os.path.expanduser(path)


def remember_base_dir(base_dir: Path) -> None:
    """Note that experiments lie below `base_dir`, so that they are found by their ids and titles too."""
    known = Path(get_nemorun_home(), _BASE_DIRS)
    if base_dir.resolve() == Path(get_nemorun_home()).resolve() or base_dir in known_base_dirs():
        return
    try:
        known.parent.mkdir(parents=True, exist_ok=True)
        with known.open("a", encoding="utf-8") as out:
            out.write(f"{base_dir}\n")
    except OSError:  # a home that cannot be written to is no reason not to run elsewhere
        logger.warning("%s could not be noted in %s: catalog() will not list what lies there.", base_dir, known)


def known_base_dirs() -> list[Path]:
    """Where experiments lie besides `get_nemorun_home`."""
    try:
        lines = Path(get_nemorun_home(), _BASE_DIRS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [Path(line) for line in dict.fromkeys(lines)]


def experiments_dir(base_dir: str | os.PathLike[str] | None = None) -> Path:
    """The directory of all experiments, ``<base_dir or home>/experiments``; it need not exist."""
    return Path(base_dir or get_nemorun_home()).expanduser().absolute() / "experiments"
