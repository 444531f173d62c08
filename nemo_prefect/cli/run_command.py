"""``nemo-prefect run TARGET``, and the commands that other packages and a workspace file add."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from nemo_prefect.errors import UsageError

GROUP = "nemo_prefect.cli"
WORKSPACES = ("workspace_private.py", "workspace.py")


def run(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(help="FILE.py:FUNCTION or MODULE:FUNCTION.")],
) -> None:
    """Run a function as a task or an experiment: nemo-prefect run FILE.py:FUNCTION name=value model.lr=1e-4.

    What it takes, and the options, are shown by: nemo-prefect run FILE.py:FUNCTION --help
    """
    from nemo_prefect.cli.command import run_entrypoint
    from nemo_prefect.cli.entrypoints import Entrypoint
    from nemo_prefect.cli.lazy import load_target

    if target.startswith("-"):
        raise UsageError(f"The option {target} stands before the target.", hint="Write nemo-prefect run TARGET [OPTIONS].")
    fn = load_target(target)
    found = getattr(fn, "cli_entrypoint", None) or Entrypoint(fn)
    run_entrypoint(found, list(ctx.args), {}, prog_name=f"nemo-prefect run {target}")


def add_run(app: typer.Typer) -> None:
    """Add ``run`` to the command."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
    app.command("run", context_settings=settings)(run)


def add_others(app: typer.Typer) -> None:
    """Add the commands of other packages (entry-point group ``nemo_prefect.cli``: a typer app, or a module that defines
    entry points) and of the workspace file. One that cannot be loaded is named on stderr, and the others stay."""
    from nemo_prefect.cli.factories import list_entrypoints

    for point in entry_points(group=GROUP):
        try:
            loaded = point.load()
        except Exception as error:  # noqa: BLE001 - another package's fault must not take the command away
            _warn(f"The command {point.name} of {point.value} could not be loaded: {type(error).__name__}: {error}")
            continue
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=point.name)
        elif hasattr(loaded, "cli_entrypoint"):
            from nemo_prefect.cli.command import add_command

            add_command(app, loaded.cli_entrypoint)
    load_workspace()
    taken = {group.name for group in app.registered_groups}
    _add_namespaces(app, {n: m for n, m in list_entrypoints().items() if n.split(".")[0] not in taken})


def _add_namespaces(app: typer.Typer, namespaces: dict[str, Any]) -> None:
    """Entry points by their namespaces: ``llm.pretrain`` as ``nemo-prefect llm pretrain``."""
    from nemo_prefect.cli.command import add_command

    groups: dict[str, typer.Typer] = {"": app}
    for namespace, members in namespaces.items():
        path = ""
        for part in namespace.split("."):
            parent, path = path, f"{path}.{part}".lstrip(".")
            if path not in groups:
                groups[path] = typer.Typer(help=f"The entry points of {path}.", no_args_is_help=True)
                groups[parent].add_typer(groups[path], name=part)
        for entrypoint in members.values():
            add_command(groups[path], entrypoint)


def workspace_file() -> Path | None:
    """The nearest workspace file at or above the working directory, where ``INCLUDE_WORKSPACE_FILE`` asks for one."""
    if os.environ.get("INCLUDE_WORKSPACE_FILE", "").strip().lower() not in ("1", "true", "yes", "on"):
        return None
    for directory in (Path.cwd(), *Path.cwd().parents):
        for name in WORKSPACES:
            if (directory / name).is_file():
                return directory / name
    return None


def load_workspace() -> None:
    """Import the workspace file, so that its factories and entry points are there. Does nothing where there is none."""
    path = workspace_file()
    if path is None or "workspace" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location("workspace", path)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["workspace"] = module
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules["workspace"]
        raise


def _warn(text: str) -> None:
    from nemo_prefect.cli.command import err

    err.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
