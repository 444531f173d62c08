"""Asking whoever drives an experiment, through the states on the server that it watches."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

from nemo_prefect.errors import ExecutorError, ServerError

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import TaskRun


#: Seconds after which the server has recorded a task run that was made.
RECORDED_WITHIN = 15.0
#: Seconds that a cancelled job may take to end.
CANCEL_TIMEOUT = 30.0


async def asking(coroutine: Any) -> Any:
    """The server's answer.

    Raises:
        ServerError: there is none.
    """
    import httpx

    try:
        return await coroutine
    except httpx.HTTPError as error:
        raise ServerError(f"The Prefect server does not answer ({error!r}).", hint="Try `nemo-prefect doctor`.") from error


async def ask_driver(flow_run_id: UUID, job_id: str | None) -> None:
    """Ask whoever drives the run, by the states that it watches. A run that has ended is left alone."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import State, StateType
    from prefect.states import Cancelling

    from nemo_prefect._prefect import task_run_id

    client: PrefectClient
    async with get_client() as client:
        if job_id is None:
            if not (run := await client.read_flow_run(flow_run_id)).state or not run.state.is_final():
                await client.set_flow_run_state(flow_run_id, Cancelling(), force=True)
            return
        task_run = await _recorded(client, task_run_id(flow_run_id, job_id))
        if task_run.state is None or not task_run.state.is_final():
            state: State[Any] = State(type=StateType.CANCELLING, name="Cancelling")
            await client.set_task_run_state(task_run.id, state, force=True)


async def _recorded(client: PrefectClient, run_id: UUID) -> TaskRun:
    """A task run. The server records one a second or two after it was made: an early question is asked again."""
    from prefect.exceptions import ObjectNotFound

    deadline = time.monotonic() + RECORDED_WITHIN
    while True:
        try:
            return await client.read_task_run(run_id)
        except ObjectNotFound as error:
            if time.monotonic() > deadline:
                raise ExecutorError(
                    "The server does not know this job yet.", hint="Try again in a few seconds.", transient=True
                ) from error
            await asyncio.sleep(0.3)
