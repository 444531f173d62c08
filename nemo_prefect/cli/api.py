"""The names of `nemo_prefect.cli`, where NeMo-Run has them."""

from __future__ import annotations

from typing import Any

from nemo_prefect.cli.context import RunContext
from nemo_prefect.cli.entrypoints import CommandDefaults, Entrypoint, entrypoint, main
from nemo_prefect.cli.factories import factory, list_entrypoints, list_factories, resolve_factory

__all__ = [
    "CommandDefaults",
    "Entrypoint",
    "RunContext",
    "create_cli",
    "entrypoint",
    "factory",
    "list_entrypoints",
    "list_factories",
    "main",
    "resolve_factory",
]


def create_cli(add_verbose_callback: bool = False, nested_entrypoints_creation: bool = True) -> Any:
    """The command ``nemo-prefect``, as a typer app, with the entry points that are known now.

    Args:
        add_verbose_callback: accepted for NeMo-Run's sake; every entry point has ``--verbose``.
        nested_entrypoints_creation: add the entry points.
    """
    from nemo_prefect.cli.app import app
    from nemo_prefect.cli.run_command import add_others

    if nested_entrypoints_creation:
        add_others(app)
    return app
