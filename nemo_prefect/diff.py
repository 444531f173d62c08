"""What differs between two configs, experiments or tasks: coloured text in a terminal, a table in a notebook, and, where
Graphviz is installed, a picture."""

from __future__ import annotations

import html
import inspect
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["added", "removed", "changed", "same"]

_SIGNS: dict[Kind, str] = {"added": "+", "removed": "-", "changed": "~", "same": " "}
_STYLES: dict[Kind, str] = {"added": "green", "removed": "red", "changed": "yellow", "same": "dim"}


@dataclass(frozen=True)
class Change:
    """One path of a config, with its value in the old and in the new one (as source text; None where it has none)."""

    path: str
    old: str | None
    new: str | None

    @property
    def kind(self) -> Kind:
        """What happened to it."""
        if self.old is None:
            return "added"
        if self.new is None:
            return "removed"
        return "same" if self.old == self.new else "changed"

    def __str__(self) -> str:
        values = {"added": self.new, "removed": self.old, "same": self.new, "changed": f"{self.old} -> {self.new}"}
        return f"{_SIGNS[self.kind]} {self.path}: {values[self.kind]}"


class ConfigDiff:
    """What differs between two configs. It prints as text, a notebook shows it as a table, and it is false where nothing
    differs. Whatever else it is asked for (``render``, ``pipe``, ``source``) its Graphviz graph answers.

    Args:
        old: a config, or anything that has ``to_config``, or a list or dict of these.
        new: what to compare with it.
        trim: leave out what is the same.
        **kwargs: for `graph`: passed on to Fiddle's ``render_diff``.
    """

    def __init__(self, old: Any, new: Any, trim: bool = True, **kwargs: Any) -> None:
        self._old, self._new, self._kwargs = as_config(old), as_config(new), {"trim": trim, **kwargs}
        before, after = _flat(self._old), _flat(self._new)
        every = [Change(path, _text(before, after, path), _text(after, before, path)) for path in {**before, **after}]
        self.changes = [change for change in every if change.kind != "same" or not trim]

    @property
    def graph(self) -> Any:
        """The two configs as one Graphviz ``Digraph``."""
        from fiddle.graphviz import render_diff

        return render_diff(old=self._old, new=self._new, **self._kwargs)

    def __bool__(self) -> bool:
        return any(change.kind != "same" for change in self.changes)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copying and notebooks ask for such names
            raise AttributeError(name)
        return getattr(self.graph, name)

    def __rich__(self) -> Any:
        from rich.text import Text

        lines = [Text(str(change), _STYLES[change.kind]) for change in self.changes]
        return Text("\n").join(lines) if lines else Text("no differences", "dim")

    def __str__(self) -> str:
        if not (sys.stdout.isatty() and not os.environ.get("NO_COLOR")):
            return "\n".join(map(str, self.changes)) or "no differences"
        from rich.console import Console

        out = io.StringIO()
        Console(file=out, force_terminal=True).print(self.__rich__(), soft_wrap=True)
        return out.getvalue().rstrip("\n")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        colours = {"added": "green", "removed": "crimson", "changed": "darkorange", "same": "gray"}
        rows = "".join(
            f'<tr style="color: {colours[c.kind]}"><td>{c.kind}</td><td>{html.escape(c.path)}</td>'
            f"<td>{html.escape(c.old or '')}</td><td>{html.escape(c.new or '')}</td></tr>"
            for c in self.changes
        )
        head = "".join(f"<th>{name}</th>" for name in ("", "path", "old", "new"))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def as_config(value: Any) -> Any:
    """`value` as Fiddle sees it: what has a ``to_config`` as its config, in lists, tuples and dicts too."""
    if isinstance(value, dict):
        return {key: as_config(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_config(inner) for inner in value]
    if isinstance(value, type) or hasattr(value, "__fn_or_cls__") or not hasattr(value, "to_config"):
        return value
    return value.to_config()


@dataclass(frozen=True)
class _Leaf:
    """A value's text, that of its parameter's default, and the path of the config that holds it."""

    text: str
    default: str | None = None
    holder: str = ""


def _text(mine: dict[str, _Leaf], others: dict[str, _Leaf], path: str) -> str | None:
    """The text of what lies at `path`: what was not given there is at its default, if the same is configured there."""
    if path in mine:
        return mine[path].text
    other = others[path]
    return other.default if other.holder in mine and mine[other.holder] == others[other.holder] else None


def _flat(value: Any) -> dict[str, _Leaf]:
    """Every path below `value`. A job is found by its id, not by its place among the others."""
    return dict(_walk("", value, None, ""))


def _walk(path: str, value: Any, default: str | None, holder: str) -> Iterator[tuple[str, _Leaf]]:
    if hasattr(value, "__fn_or_cls__"):
        target, here = value.__fn_or_cls__, path or "<root>"
        yield here, _Leaf(f"{type(value).__name__}({getattr(target, '__qualname__', target)})")
        defaults = _defaults(target)
        for name, inner in value.__arguments__.items():
            yield from _walk(f"{path}.{name}" if path else str(name), inner, defaults.get(name), here)
    elif isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _walk(f"{path}[{key!r}]", inner, None, "")
    elif isinstance(value, (list, tuple)) and value:
        for index, inner in enumerate(value):
            job_id = inner.__arguments__.get("id") if hasattr(inner, "__fn_or_cls__") else None
            yield from _walk(f"{path}[{index if job_id is None else job_id!r}]", inner, None, "")
    else:
        yield path or "<root>", _Leaf(repr(value), default, holder)


def _defaults(target: Any) -> dict[Any, str]:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # of builtins
        return {}
    return {p.name: repr(p.default) for p in parameters if p.default is not p.empty}
