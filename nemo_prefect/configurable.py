"""`ConfigurableMixin`, apart from `config.py` so that a class can have it before anything needs Fiddle."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


def svg(draw: Callable[[], Any]) -> str | None:
    """The SVG of a Graphviz graph for a notebook, or None (the notebook then shows the repr) where Graphviz's ``dot``
    is not installed."""
    from graphviz import ExecutableNotFound

    try:
        return str(draw().pipe(format="svg").decode("utf-8"))
    except ExecutableNotFound:
        return None


class ConfigurableMixin:
    """Gives a class `to_config`, `clone`, `diff` and a picture in notebooks. Classes that are not dataclasses bring a
    ``to_config`` of their own."""

    def to_config(self) -> Any:
        """This object as a Fiddle `Config`."""
        from nemo_prefect.config import to_config

        return to_config(self)

    def clone(self) -> Self:
        """A deep copy."""
        return copy.deepcopy(self)

    def diff(self, old: Any, trim: bool = True, **kwargs: Any) -> Any:
        """What differs between `old` and this object: text in a terminal, a table in a notebook, and a Graphviz graph.

        Args:
            old: what to compare with.
            trim: leave out what is the same.
            **kwargs: for the graph: passed on to Fiddle's ``render_diff``.
        """
        from nemo_prefect.diff import ConfigDiff

        return ConfigDiff(old, self, trim=trim, **kwargs)

    def visualize(self, **kwargs: Any) -> Any:
        """This object as a Graphviz graph."""
        from fiddle.graphviz import render

        return render(self.to_config(), **kwargs)

    def _repr_svg_(self) -> str | None:
        return svg(self.visualize)
