"""An experiment whose directory is on another machine: what the Prefect server knows of it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from nemo_prefect._async import run_sync
from nemo_prefect.errors import ExecutorError
from nemo_prefect.history.driver import CANCEL_TIMEOUT, ask_driver, asking
from nemo_prefect.history.view import JobView, no_such_job
from nemo_prefect.spec import ExperimentSpec
from nemo_prefect.states import JobState, JobStatus, from_prefect

if TYPE_CHECKING:
    from prefect.client.schemas.objects import TaskRun


class ServerHistory:
    """An experiment whose directory is on another machine: what the Prefect server knows of it."""

    spec: ExperimentSpec | None = None

    def __init__(self, exp_id: str, flow_run_id: UUID, summary: Mapping[str, Any]) -> None:
        self.id = exp_id
        self._id = flow_run_id
        self._summary = summary

    @property
    def flow_run_id(self) -> str:
        """The id of its flow run."""
        return str(self._id)

    def views(self) -> list[JobView]:
        """All jobs."""
        from nemo_prefect.server import connected

        with connected():
            runs = {run.name: run for run in run_sync(asking(self._task_runs()))}
        jobs = self._summary.get("jobs", {})
        views = []
        for job_id in [*jobs, *(n for n in runs if n not in jobs)]:
            run = runs.get(job_id)
            state = run.state if run is not None else None
            views.append(
                JobView(
                    job_id,
                    from_prefect(state.type.value, state.name, state.message) if state else JobState(JobStatus.UNSUBMITTED),
                    jobs.get(job_id, {}).get("executor", ""),
                )
            )
        return views

    async def _task_runs(self) -> list[TaskRun]:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
        from prefect.client.schemas.sorting import TaskRunSort

        found: list[TaskRun] = []
        async with get_client() as client:
            while True:
                page = await client.read_task_runs(
                    flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[self._id])),
                    sort=TaskRunSort.NAME_ASC,
                    limit=200,
                    offset=len(found),
                )
                found += page
                if len(page) < 200:
                    return found

    def lines(self, job_id: str, regex: str | None = None, follow: bool = True) -> Iterator[tuple[str, str]]:
        """The lines of a job that reached the server, each with the job's id; goes on while the job runs.

        Raises:
            NotFoundError: there is no such job.
        """
        from nemo_prefect._prefect import task_run_id
        from nemo_prefect.server import connected

        known = [v.id for v in self.views()]
        if job_id not in known:
            raise no_such_job(self.id, job_id, known)
        wanted, read = re.compile(regex) if regex else None, 0
        while True:
            state = next(v.state for v in self.views() if v.id == job_id)
            with connected():
                lines = run_sync(asking(self._log_page(task_run_id(self._id, job_id), read)))
            read += len(lines)
            yield from ((job_id, text) for text in lines if wanted is None or wanted.search(text))
            if not lines:
                if not follow or state.status is not JobStatus.RUNNING:
                    return
                time.sleep(1.0)

    async def _log_page(self, run_id: UUID, offset: int) -> list[str]:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import LogFilter, LogFilterTaskRunId
        from prefect.client.schemas.sorting import LogSort

        async with get_client() as client:
            logs = await client.read_logs(
                LogFilter(task_run_id=LogFilterTaskRunId(any_=[run_id])),
                limit=200,
                offset=offset,
                sort=LogSort.TIMESTAMP_ASC,
            )
        return [log.message for log in logs]

    def cancel(self, job_id: str | None = None) -> None:
        """Ask the experiment's driver, wherever it is, to end a job (all, without an id), and wait until it did.

        Raises:
            NotFoundError: there is no such job.
            ExecutorError: it did not end in time: perhaps nothing drives the experiment any more.
        """
        from nemo_prefect.server import connected

        known = [v.id for v in self.views()]
        if job_id is not None and job_id not in known:
            raise no_such_job(self.id, job_id, known)
        with connected():
            run_sync(asking(ask_driver(self._id, job_id)))
        deadline = time.monotonic() + CANCEL_TIMEOUT
        while time.monotonic() < deadline:
            views = [v for v in self.views() if job_id in (None, v.id)]
            if all(v.state.status is not JobStatus.RUNNING for v in views):
                return
            time.sleep(0.5)
        raise ExecutorError(
            f"{job_id or self.id} did not end within {CANCEL_TIMEOUT:.0f} seconds.",
            hint=f"If its runner on {self._summary.get('host') or 'the other machine'} is gone, cancel it there.",
            transient=True,
        )
