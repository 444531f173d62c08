"""Making the import of Prefect cheaper."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: Modules below it that this import has to bring before it counts as Prefect's, and not as a few of ours.
MANY = 100


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector while Prefect is imported, and spare it those objects afterwards.

    The import makes half a million objects, all to stay: looking for garbage among them, meanwhile and again at the
    program's end, takes as long as a fifth of the import itself.
    """
    was_enabled, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) - before > MANY:
            gc.freeze()
        if was_enabled:
            gc.enable()
