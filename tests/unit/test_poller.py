from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from nemo_prefect.executors.base import JobRequest
from nemo_prefect.poller import Poller
from nemo_prefect.states import Cause, JobState, JobStatus, ended
from nemo_prefect.testing import FakeExecutor
from nemo_prefect.testing.fake import state


def request(key: str) -> JobRequest:
    return JobRequest(key, "e", key, 1, (), Path("/e"), Path("/e/j"))


def ignore(_: JobState) -> None: ...


def test_changes_are_told_once_and_in_order() -> None:
    async def story() -> None:
        running = state("RUNNING")
        executor = FakeExecutor().script([state("PENDING"), state("PENDING"), running, running, ended(0)])
        ref, told = await executor.launch(request("a")), []
        assert await Poller().watch(executor, ref, told.append) == ended(0)
        assert [s.status for s in told] == [JobStatus.PENDING, JobStatus.RUNNING]

    asyncio.run(story())


def test_a_thousand_jobs_share_one_query_a_round() -> None:
    async def story() -> None:
        executor = FakeExecutor().script([state("RUNNING")] * 3 + [ended(0)])
        refs = [await executor.launch(request(str(i))) for i in range(1000)]
        poller = Poller()
        ends = await asyncio.gather(*(poller.watch(executor, ref, ignore) for ref in refs))
        assert {e.status for e in ends} == {JobStatus.SUCCEEDED}
        assert executor.queries <= 8

    asyncio.run(story())


def test_a_failed_query_says_nothing_of_any_job(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        executor = FakeExecutor().script([state("RUNNING"), ended(0)])
        executor.fail_queries(3)
        ref = await executor.launch(request("a"))
        assert await Poller().watch(executor, ref, ignore) == ended(0)

    with caplog.at_level(logging.WARNING, "nemo_prefect"):
        asyncio.run(story())
    assert sum("Could not ask" in r.message for r in caplog.records) == 3


def test_a_missing_job_is_lost_after_a_while_and_never_a_success() -> None:
    async def story() -> None:
        executor = FakeExecutor().script([state("RUNNING")])
        ref = await executor.launch(request("a"))
        executor.forget(ref)
        end = await Poller().watch(executor, ref, ignore)
        assert (end.status, end.cause) == (JobStatus.FAILED, Cause.LOST)

    asyncio.run(story())


def test_a_job_that_is_missing_for_a_moment_is_not_lost() -> None:
    async def story() -> None:
        executor = FakeExecutor().script([state("RUNNING")] * 2 + [ended(0)])
        ref = await executor.launch(request("a"))
        plan = executor._jobs.pop(ref.key)
        asyncio.get_running_loop().call_later(0.02, executor._jobs.__setitem__, ref.key, plan)
        assert await Poller().watch(executor, ref, ignore) == ended(0)

    asyncio.run(story())


def test_abandoning_raises_in_every_watch() -> None:
    async def story() -> None:
        executor = FakeExecutor().script([state("RUNNING")])
        refs = [await executor.launch(request(str(i))) for i in range(3)]
        poller = Poller()
        watches = [asyncio.create_task(poller.watch(executor, ref, ignore)) for ref in refs]
        await asyncio.sleep(0.01)
        poller.abandon(KeyError("left"))
        assert all(isinstance(r, KeyError) for r in await asyncio.gather(*watches, return_exceptions=True))

    asyncio.run(story())
