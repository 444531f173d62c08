"""Making the import of Prefect cheaper, and that of Fiddle harmless."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector while Prefect is imported: that makes half a million objects, all to stay, and looking for
    garbage among them takes a tenth of the time. (Freezing them afterwards would save as much again, but hides them from
    ``gc.get_referrers``, which other libraries use.)"""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Stderr:
    """Whatever ``sys.stderr`` is when something is written; closing this closes nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def close(self) -> None:
        """Leave it open."""


def keep_stderr_open() -> None:
    """Fiddle brings absl's logging, which keeps the ``sys.stderr`` of that moment; Prefect, when it sets up its own logging,
    has every handler closed that is there, and absl's would close that stream with it, though somebody may have put it aside
    only for a while (pytest does, and whoever redirects the output)."""
    if (logging := sys.modules.get("absl.logging")) is not None:
        logging.get_absl_handler().python_handler.stream = _Stderr()
