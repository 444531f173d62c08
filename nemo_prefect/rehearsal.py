"""``--dryrun``: within it, no experiment runs, whoever asks for it."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager

_rehearsing: contextvars.ContextVar[bool] = contextvars.ContextVar("nemo_prefect_rehearsing", default=False)


def is_rehearsal() -> bool:
    """Whether experiments are only to show what they would run."""
    return _rehearsing.get()


@contextmanager
def rehearsing(on: bool = True) -> Iterator[None]:
    """Within the block, `Experiment.run` is `Experiment.dryrun`."""
    token = _rehearsing.set(on or _rehearsing.get())
    try:
        yield
    finally:
        _rehearsing.reset(token)
