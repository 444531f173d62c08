"""Naming the nearest valid option."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Options that are listed where none is near.
SHOWN = 12


def nearest(typed: str, options: Iterable[object]) -> str | None:
    """The option most like what was typed, or None where none is near."""
    names = sorted({str(option) for option in options})
    lower = {name.lower(): name for name in reversed(names)}
    close = difflib.get_close_matches(typed.lower(), lower, 1, cutoff=0.5)
    starts = [name for name in names if typed and name.lower().startswith(typed.lower())]
    return starts[0] if starts else lower[close[0]] if close else None


def did_you_mean(typed: str, options: Iterable[object]) -> str:
    """A sentence that names the nearest option, or lists them where none is near; empty where there are none."""
    names = sorted({str(option) for option in options})
    if not names:
        return ""
    if (near := nearest(typed, names)) is not None:
        return f"Did you mean {near!r}?"
    shown = ", ".join(names[:SHOWN])
    return f"There are: {shown}{', …' if len(names) > SHOWN else ''}."
