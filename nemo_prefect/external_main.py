"""What was defined in ``__main__``: in the launching script, or in the cells of a notebook.

A job cannot import ``__main__``. So its source travels with the experiment, and the worker imports it there under another
name, so that its ``if __name__ == "__main__"`` guard stays shut. A script without a guard is imported up to where it opens
its experiment: what its functions need has been defined by then, and no job launches the experiment again.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

from nemo_prefect.errors import ConfigError
from nemo_prefect.worker.run import MAIN, load_main

#: The name under which jobs import it, and the source's file in the experiment's directory.
MODULE, FILE = MAIN, "__main__.py"


class ExternalMainLoaded(BaseException):
    """Raised where a script that a job imports would open its experiment: the import ends here. (`load_main` catches it, by
    name, since it runs where this package may not be.)"""


def stop_if_imported_by_a_job() -> None:
    """End the import of a launching script here, if that is what is going on.

    Raises:
        ExternalMainLoaded: it is.
    """
    if getattr(sys.modules.get(MODULE), "__loading__", False):
        raise ExternalMainLoaded


def source_for(payloads: str) -> str | None:
    """The source that these payloads need: of ``__main__``, or of the script of the experiment that they were read from.

    Args:
        payloads: the tasks of one experiment, in JSON.

    Raises:
        ConfigError: they need both, and a job can import only one.
    """
    if f'"{MODULE}:' not in payloads:
        return main_source()
    if '"__main__:' in payloads:
        raise ConfigError(
            "This experiment has functions of two launching scripts: of this one, and of one that was read back.",
            hint="Move the functions into a module that both import.",
        )
    return Path(str(sys.modules[MODULE].__file__)).read_text(encoding="utf-8")


def main_source() -> str | None:
    """The source of ``__main__``, or None where there is none to send: an interactive session, ``python -c``."""
    module = sys.modules.get("__main__")
    file = getattr(module, "__file__", None)
    if file and file.endswith(".py") and Path(file).is_file():
        return Path(file).read_text(encoding="utf-8")
    shell = _ipython()
    return None if shell is None else _definitions(shell)


def _ipython() -> Any:
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None else None


def _definitions(shell: Any) -> str:
    """What the cells run so far define: imports, functions, classes and plain assignments. What they did is left out."""
    kept: list[str] = []
    for cell in shell.user_ns.get("In", []):
        try:
            tree = ast.parse(shell.transform_cell(cell))
        except SyntaxError:
            continue  # such a cell did not run either
        kept += [ast.unparse(node) for node in tree.body if _defines(node)]
    return "\n".join(kept) + "\n"


def _defines(node: ast.stmt) -> bool:
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return not any(isinstance(n, (ast.Call, ast.Await)) for n in ast.walk(node))
    return isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))


def maybe_load_external_main(exp_dir: str) -> None:
    """Import the script that launched the experiment in `exp_dir`, under the name ``__external_main__``, so that configs
    naming what it defines can be read. Does nothing where there is no such script."""
    path = Path(exp_dir) / FILE
    loaded = sys.modules.get(MODULE)
    if path.exists() and getattr(loaded, "__file__", None) != str(path):
        sys.modules.pop(MODULE, None)
        load_main(str(path))  # type: ignore[no-untyped-call]
