"""Functions as commands, `entrypoint` and `factory`; and the command ``nemo-prefect`` itself, in `app`.

Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nemo_prefect.cli.api import create_cli
    from nemo_prefect.cli.cli_parser import parse_cli_args, parse_config, parse_partial
    from nemo_prefect.cli.context import RunContext
    from nemo_prefect.cli.entrypoints import Entrypoint, entrypoint, main
    from nemo_prefect.cli.factories import factory, list_entrypoints, list_factories, parse_factory, resolve_factory
    from nemo_prefect.cli.lazy import LazyEntrypoint, lazy_imports

_WHERE = {
    "Entrypoint": "entrypoints",
    "LazyEntrypoint": "lazy",
    "RunContext": "context",
    "create_cli": "api",
    "entrypoint": "entrypoints",
    "factory": "factories",
    "lazy_imports": "lazy",
    "list_entrypoints": "factories",
    "list_factories": "factories",
    "main": "entrypoints",
    "parse_cli_args": "cli_parser",
    "parse_config": "cli_parser",
    "parse_factory": "factories",
    "parse_partial": "cli_parser",
    "resolve_factory": "factories",
}
_MODULES = ("api", "cli_parser", "config", "lazy")

__all__ = [
    "Entrypoint",
    "LazyEntrypoint",
    "RunContext",
    "create_cli",
    "entrypoint",
    "factory",
    "lazy_imports",
    "list_entrypoints",
    "list_factories",
    "main",
    "parse_cli_args",
    "parse_config",
    "parse_factory",
    "parse_partial",
    "resolve_factory",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(import_module(f"nemo_prefect.cli.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f"nemo_prefect.cli.{name}")
    raise AttributeError(f"module 'nemo_prefect.cli' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
