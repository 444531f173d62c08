"""`run.help`: what a function or class takes, and the factories for it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from nemo_prefect.cli.annotations import MISSING, Parameter, display_module, parameters, target_of, type_name
from nemo_prefect.cli.factories import DEFAULT, candidates, list_factories, registrations
from nemo_prefect.cli.types import element_of


def help(
    entity: Callable[..., Any],
    with_docs: bool = True,
    console: Any = None,
    namespace: str | None = None,
    executors: bool = True,
) -> None:
    """Show the parameters of a function or class with their types and defaults, and the factories that make values for
    them.

    Args:
        entity: the function or class, or a config of it.
        with_docs: show docstrings as well.
        console: the rich console to write to.
        namespace: only factories of this namespace.
        executors: list the executors and plugins too, where `entity` is an entry point.
    """
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    target = target_of(entity)
    entrypoint = getattr(target, "cli_entrypoint", None)
    if with_docs and (doc := inspect.getdoc(target)):
        console.print(Panel(Text(doc), title=f"{display_module(target.__module__)}.{target.__name__}", title_align="left"))
    known = _shown(target, entrypoint)
    told = docs_of(target)
    if known:
        table = Table.grid(padding=(0, 2))
        for each in known:
            default = Text("required", "red") if each.default is MISSING else Text(_short(each.default), "dim")
            table.add_row(
                Text(each.name, "bold cyan"),
                Text(type_name(each.annotation), "yellow"),
                default,
                Text(told.get(each.name, "")),
            )
        console.print(Panel(table, title="Parameters", title_align="left", border_style="dim"))
    for each in known:
        found: dict[str, Any] = candidates(target, each.name, each.annotation)
        found = {**found, **candidates(target, "", element_of(each.annotation))}
        _panel(console, f"Factories for {each.name}: {type_name(each.annotation)}", found, with_docs, namespace)
    _panel(console, "Factories for the whole call, --factory", _whole(target), with_docs, namespace)
    if entrypoint is not None and executors:
        from nemo_prefect.executors.base import Executor
        from nemo_prefect.executors.registry import executor_class, executor_names
        from nemo_prefect.plugin import ExperimentPlugin

        installed = {name: executor_class(name) for name in executor_names()}
        _panel(console, "Executors, executor=NAME", {**installed, **candidates(None, "", Executor)}, with_docs, None)
        _panel(console, "Plugins, plugins=NAME", candidates(None, "", ExperimentPlugin), with_docs, namespace)


def _shown(target: Any, entrypoint: Any) -> list[Parameter]:
    hidden: Iterable[str | None] = ()
    if entrypoint is not None and entrypoint.type == "experiment":
        from nemo_prefect.cli.resolve import context_parameters

        hidden = context_parameters(target)
    return [p for name, p in parameters(target)[0].items() if name not in hidden]


def _whole(target: Any) -> dict[str, Any]:
    return {r.name: r.fn for r in registrations(target)} if not inspect.isclass(target) else {}


def _panel(console: Any, title: str, found: dict[str, Any], with_docs: bool, namespace: str | None) -> None:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    if namespace is not None:
        allowed = list_factories(namespace)
        found = {name: fn for name, fn in found.items() if fn in allowed}
    if not found:
        return
    table = Table.grid(padding=(0, 2))
    for name, fn in found.items():
        shown = f"{name}{_call(fn)}" if name != DEFAULT else name
        doc = (inspect.getdoc(fn) or "").partition("\n")[0]
        table.add_row(
            Text(shown, "bold green"),
            Text(f"{display_module(fn.__module__)}.{fn.__qualname__}", "dim"),
            *([Text(doc)] if with_docs or doc else []),
        )
    console.print(Panel(table, title=title, title_align="left", border_style="dim"))


def _call(fn: Any) -> str:
    """The parameters of a factory, as its call would show them."""
    if inspect.isclass(fn):
        return ""
    names = [p.name if p.default is MISSING else f"{p.name}={_short(p.default)}" for p in parameters(fn)[0].values()]
    return f"({', '.join(names)})" if names else ""


def _short(value: Any) -> str:
    text = repr(value) if not inspect.isclass(value) and not inspect.isfunction(value) else value.__name__
    return text if len(text) <= 60 else f"{text[:57]}..."


def docs_of(target: Any) -> dict[str, str]:
    """What a docstring's ``Args:`` section says of each parameter."""
    doc = inspect.getdoc(target) or ""
    match = re.search(r"^(?:Args|Arguments|Parameters):\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    if match is None:
        return {}
    lines = match.group(1).splitlines()
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    told: dict[str, str] = {}
    name = ""
    for line in lines:
        head = re.match(r"(\*{0,2}\w+)(?:\s*\([^)]*\))?:\s*(.*)", line[indent:])
        if head and not line[indent : indent + 1].isspace():
            name = head.group(1)
            told[name] = head.group(2)
        elif name and line.strip():
            told[name] = f"{told[name]} {line.strip()}"
    return told
