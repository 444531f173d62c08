"""The one module that touches Prefect's half-private functions.

Prefect creates an awaited task's run only when its upstreams have ended. To show the whole graph from the first second, the
task runs are made here first, with their edges, and handed to the task engine later. Written against Prefect 3.8.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID, uuid5

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State, TaskRun, TaskRunResult
from prefect.context import AsyncClientContext, FlowRunContext, TaskRunContext
from prefect.events.worker import EventsWorker
from prefect.exceptions import Abort
from prefect.logging.handlers import APILogHandler, APILogWorker
from prefect.task_engine import run_task_async
from prefect.utilities.engine import emit_task_run_state_change_event

__all__ = [
    "Abort",
    "announce",
    "discard_unsent",
    "execute",
    "make_task",
    "one_client",
    "plan",
    "quiet_console",
    "shown_in_runs",
    "task_run_id",
]


def task_run_id(flow_run_id: UUID, job_id: str) -> UUID:
    """The id of a job's task run: the same for whoever drives the experiment, so that a second one goes on with it."""
    return uuid5(flow_run_id, job_id)


def make_task(job_id: str, body: Callable[[], Awaitable[State[Any]]], retries: int) -> Task[[], Any]:
    """A Prefect task for a job. Its body returns the state that it ends in."""

    async def job() -> State[Any]:
        return await body()

    return Task(
        job,
        name=job_id,
        task_run_name=job_id,
        retries=retries,
        retry_delay_seconds=0,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


async def plan(task: Task[[], Any], flow_run_id: UUID, job_id: str, upstreams: Sequence[UUID]) -> TaskRun:
    """Make the job's task run, with its edges, and show it as Pending."""
    run = await task.create_local_run(id=task_run_id(flow_run_id, job_id))
    run.name = job_id
    run.dynamic_key = job_id
    run.task_inputs = {"wait_for": [TaskRunResult(id=u) for u in upstreams]}
    emit_task_run_state_change_event(task_run=run, initial_state=None, validated_state=run.state)  # type: ignore[arg-type]
    return run


async def execute(task: Task[[], Any], run: TaskRun, upstreams: Sequence[State[Any]]) -> State[Any]:
    """Run the task; without a success of all `upstreams` it ends as Pending "NotReady" and its body is never called."""
    state = await run_task_async(task, task_run=run, wait_for=list(upstreams), return_type="state")
    return state  # type: ignore[return-value]


def announce(run: TaskRun, state: State[Any]) -> None:
    """Put the task run into `state` from outside the task engine: while its body runs, or when it never will."""
    before = run.state
    if before is not None and (before.type, before.name, before.message) == (state.type, state.name, state.message):
        return
    state.state_details.task_run_id = run.id
    state.state_details.flow_run_id = run.flow_run_id
    run.state, run.state_id, run.state_type, run.state_name = state, state.id, state.type, state.name
    if state.is_final():
        run.end_time = state.timestamp  # type: ignore[assignment]
    emit_task_run_state_change_event(task_run=run, initial_state=before, validated_state=state)


@asynccontextmanager
async def one_client() -> AsyncIterator[PrefectClient]:
    """A client that everything inside shares: opening one takes as long as a dozen of its requests."""
    async with AsyncClientContext.get_or_create() as context:
        yield context.client


def discard_unsent() -> int:
    """Throw away the events and log lines that Prefect has not sent yet, once it is sure that nobody takes them; returns how
    many. At the end of the program Prefect would try each of them for seven seconds."""
    discarded = 0
    for service in (EventsWorker, APILogWorker):
        instances: dict[int, Any] = service._instances  # type: ignore[misc]
        for unsent in [instance._queue for instance in list(instances.values())]:
            while True:
                try:
                    unsent.get_nowait()
                except queue.Empty:
                    break
                unsent.task_done()
                discarded += 1
    return discarded


@contextmanager
def shown_in_runs(name: str) -> Iterator[None]:
    """Send what the logger `name` says inside a flow or task run (an image is pulled, a cluster does not answer) to that
    run's log as well."""
    handler, log = APILogHandler(), logging.getLogger(name)
    handler.addFilter(lambda record: bool(FlowRunContext.get() or TaskRunContext.get()))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextmanager
def quiet_validation() -> Iterator[None]:
    """Keep Prefect from logging parameters that do not fit: the error that it raises says it, and is shown once."""
    log = logging.getLogger("prefect.flows")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


@contextmanager
def quiet_console() -> Iterator[None]:
    """Keep Prefect's own lines about runs off the terminal (the server gets them all the same): ours say it better."""

    names = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine", "prefect", "")

    def wanted(record: logging.LogRecord) -> bool:
        return not record.name.startswith(names[:3])

    handlers = [
        handler
        for name in names
        for handler in logging.getLogger(name).handlers
        if type(handler).__name__ == "PrefectConsoleHandler"
    ]
    for handler in handlers:
        handler.addFilter(wanted)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(wanted)
