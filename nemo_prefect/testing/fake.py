"""`FakeExecutor`: a cluster in memory, for what real ones cannot be made to do on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import PrivateAttr

from nemo_prefect.errors import ExecutorError
from nemo_prefect.executors.base import Executor, JobRequest, RenderedJob
from nemo_prefect.logs import LogLine
from nemo_prefect.refs import JobRef
from nemo_prefect.states import Cause, JobState, JobStatus, ended


class FakeExecutor(Executor):
    """Jobs go through the states that `plan` gives for them, one a poll; the last one stays.

    Attributes:
        jobs: what was launched, by key.
        launches: how often each key was launched.
        queries: how many polls there were.
        on_launch: called with each request before it is launched; it may raise.
    """

    _block_type_slug = "fake-executor"
    executor_name: ClassVar[str] = "fake"
    poll_interval: ClassVar[tuple[float, float]] = (0.001, 0.01)
    lost_after: ClassVar[float] = 0.05

    _plan: list[JobState] = PrivateAttr(default_factory=lambda: [JobState(JobStatus.RUNNING), ended(0)])
    _jobs: dict[str, list[JobState]] = PrivateAttr(default_factory=dict)
    _launches: dict[str, int] = PrivateAttr(default_factory=dict)
    _queries: int = PrivateAttr(default=0)
    _failing: int = PrivateAttr(default=0)
    _on_launch: Callable[[JobRequest], None] | None = PrivateAttr(default=None)

    def script(self, plan: Sequence[JobState], on_launch: Callable[[JobRequest], None] | None = None) -> FakeExecutor:
        """Let the jobs launched from now on go through `plan`. Returns itself."""
        self._plan, self._on_launch = list(plan), on_launch
        return self

    def fail_queries(self, count: int) -> None:
        """Let the next `count` polls fail."""
        self._failing = count

    def forget(self, ref: JobRef) -> None:
        """Let no query show the job any more."""
        self._jobs.pop(ref.key, None)

    @property
    def launches(self) -> dict[str, int]:
        """How often each key was launched."""
        return self._launches

    @property
    def queries(self) -> int:
        """How many polls there were."""
        return self._queries

    @property
    def cluster(self) -> str:
        return "memory"

    def render(self, request: JobRequest) -> RenderedJob:
        return RenderedJob(argv=tuple(request.command(0, "python")), env=request.environment())

    async def launch(self, request: JobRequest) -> JobRef:
        if self._on_launch:
            self._on_launch(request)
        self._launches[request.key] = self._launches.get(request.key, 0) + 1
        self._jobs[request.key] = list(self._plan)
        return self._ref(request.key, str(request.directory))

    async def find(self, request: JobRequest) -> JobRef | None:
        return self._ref(request.key, str(request.directory)) if request.key in self._jobs else None

    async def poll(self, refs: Sequence[JobRef]) -> dict[JobRef, JobState]:
        self._queries += 1
        if self._failing:
            self._failing -= 1
            raise ExecutorError("The cluster does not answer.", transient=True)
        lost = JobState(JobStatus.UNKNOWN, Cause.LOST, message="no query shows it")
        return {ref: self._next(ref.key) if ref.key in self._jobs else lost for ref in refs}

    def _next(self, key: str) -> JobState:
        plan = self._jobs[key]
        return plan.pop(0) if len(plan) > 1 else plan[0]

    async def cancel(self, refs: Sequence[JobRef]) -> None:
        for ref in refs:
            if ref.key in self._jobs and not self._jobs[ref.key][0].status.is_terminal:
                self._jobs[ref.key] = [JobState(JobStatus.CANCELLED, Cause.CANCELLED)]

    async def logs(
        self,
        ref: JobRef,
        *,
        follow: bool = False,
        offsets: Mapping[str, int] | None = None,
        ended: asyncio.Event | None = None,
    ) -> AsyncIterator[LogLine]:
        yield LogLine(f"output of {ref.key}", "stdout", 1)

    def _ref(self, key: str, directory: str) -> JobRef:
        return JobRef(self.executor_name, self.cluster, key, key, directory)


def state(status: str, **fields: Any) -> JobState:
    """A state, shorter to write in a plan."""
    return JobState(JobStatus(status), **fields)
