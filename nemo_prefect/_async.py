"""Running a coroutine to its end from synchronous code, whether or not a loop is running (a notebook's is)."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result. Under a running loop it runs on a loop in a thread of its own, with this context."""
    if not _loop_runs():
        return asyncio.run(coroutine)
    outcome: list[T] = []
    failure: list[BaseException] = []
    context = contextvars.copy_context()

    def work() -> None:
        try:
            outcome.append(context.run(asyncio.run, coroutine))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=work, name="nemo-prefect", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def in_async_context() -> bool:
    """Whether the caller can await: inside a Prefect run that is whether its function is async, else whether a loop runs."""
    from prefect.context import get_run_context
    from prefect.exceptions import MissingContextError

    try:
        context = get_run_context()
    except MissingContextError:
        return _loop_runs()
    function = getattr(context, "task", None) or getattr(context, "flow", None)
    return bool(getattr(function, "isasync", True)) and _loop_runs()
