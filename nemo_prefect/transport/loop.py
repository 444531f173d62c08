"""The event loop on which connections live, in a thread of its own.

A connection outlives the loop that first asked for it: every ``status()`` or ``logs()`` in a notebook runs on a loop of its
own, and none of them should log in again (or ask for a one-time password again).
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

#: Seconds that closing connections may take when the process ends.
_PARTING = 3.0

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
_at_end: list[Callable[[], Coroutine[Any, Any, None]]] = []


async def on_connection_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result; it runs on the connections' loop. Cancelling this cancels it."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, _running()))


def at_end(close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run this on the connections' loop when the process ends."""
    _at_end.append(close)


def _running() -> asyncio.AbstractEventLoop:
    global _loop, _thread
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_loop.run_forever, name="nemo-prefect-ssh", daemon=True)
            _thread.start()
        return _loop


def _stop() -> None:
    global _loop, _thread
    with _lock:
        loop, thread, _loop, _thread = _loop, _thread, None, None
    if loop is None or thread is None:
        return

    async def part() -> None:
        for close in _at_end:
            await close()

    future = asyncio.run_coroutine_threadsafe(part(), loop)
    try:
        future.result(_PARTING)
    except Exception:  # noqa: BLE001 - the process ends; nobody is left to care
        pass
    loop.call_soon_threadsafe(loop.stop)
    thread.join(_PARTING)
    if not thread.is_alive():
        loop.close()


def _forget() -> None:
    """In a forked child: the thread is not there, and the connections are the parent's."""
    global _loop, _thread, _lock
    _lock = threading.Lock()
    _loop = _thread = None


atexit.register(_stop)
os.register_at_fork(after_in_child=_forget)
