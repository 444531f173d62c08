"""Whose fault a failure was decides which budget pays for the next attempt, and a lost job is never doubled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import PrivateAttr

import nemo_prefect as run
from nemo_prefect import retries
from nemo_prefect.errors import ExecutorError, ExperimentFailed
from nemo_prefect.executors.local import LocalExecutor
from nemo_prefect.refs import JobRef
from nemo_prefect.states import Cause, JobState, JobStatus, ended
from nemo_prefect.testing.fake import FakeExecutor

OWN = ended(1)
NODE = JobState(JobStatus.FAILED, Cause.NODE_FAIL)
LOST = JobState(JobStatus.FAILED, Cause.LOST)


def executor(**fields: Any) -> LocalExecutor:
    return LocalExecutor(**fields)


@pytest.mark.parametrize(
    ("fields", "ends", "follows"),
    [
        ({}, [], True),
        ({}, [OWN], False),
        ({}, [NODE], False),
        ({"retries": 1}, [OWN], True),
        ({"retries": 1}, [OWN, OWN], False),
        ({"retries": 1}, [NODE], False),
        ({"retries": 1, "infra_retries": 2}, [NODE, NODE, OWN], True),
        ({"retries": 1, "infra_retries": 2}, [NODE, NODE, NODE], False),
        ({"retries": 5, "infra_retries": 1}, [OWN, NODE], True),
        ({"retries": 5}, [JobState(JobStatus.CANCELLED)], False),
    ],
)
def test_each_kind_of_failure_has_its_own_budget(fields: dict[str, Any], ends: list[JobState], follows: bool) -> None:
    assert retries.may_follow(executor(**fields), ends) is follows


def test_pauses_after_losses_double_up_to_a_bound() -> None:
    pauses = [retries.pause_before(executor(infra_retries=20), [NODE] * n) for n in range(1, 12)]
    assert pauses[:3] == [10.0, 20.0, 40.0]
    assert pauses[-1] == retries.LONGEST_PAUSE
    assert retries.pause_before(executor(retry_delay=3.0), [OWN]) == 3.0
    assert retries.pause_before(executor(retry_delay=3.0), []) == 0.0


def test_a_node_that_failed_under_one_member_is_why_the_group_failed() -> None:
    assert retries.combine([OWN, JobState(JobStatus.CANCELLED), NODE]) == NODE
    assert retries.combine([ended(0), OWN]) == OWN
    assert retries.combine([ended(0), ended(0)]) == ended(0)


class Cluster(FakeExecutor):
    """One that says what the test wants."""

    _block_type_slug = "told-executor"
    _answers: list[Any] = PrivateAttr(default_factory=list)

    def answers(self, *answers: Any) -> Cluster:
        self._answers = list(answers)
        return self

    async def cancel(self, refs: Any) -> None: ...

    async def poll(self, refs: Any) -> dict[JobRef, JobState]:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return dict.fromkeys(refs, answer)


SAYS_GONE = JobState(JobStatus.UNKNOWN, Cause.LOST)
REF = JobRef("fake", "memory", "1", "k", "/nowhere")


@pytest.mark.parametrize(
    ("answers", "gone"),
    [
        ([SAYS_GONE], True),
        ([JobState(JobStatus.CANCELLED)], True),
        ([JobState(JobStatus.RUNNING)], False),
        ([JobState(JobStatus.UNKNOWN)], False),
        ([ExecutorError("No.", transient=True), SAYS_GONE], True),
        ([ExecutorError("No.", transient=True), JobState(JobStatus.RUNNING)], False),
        ([ExecutorError("No permission.")], False),
    ],
)
def test_a_lost_job_is_gone_only_where_its_cluster_says_so(
    monkeypatch: pytest.MonkeyPatch, answers: list[Any], gone: bool
) -> None:
    monkeypatch.setattr(retries, "ASK_AGAIN", 0.001)

    async def ask(ref: JobRef | None) -> bool:
        return await retries.is_gone(Cluster().answers(*answers), {"job": (ref, LOST)}, asyncio.Event())

    assert asyncio.run(ask(REF)) is gone
    assert asyncio.run(ask(None)) is False


def lose(monkeypatch: pytest.MonkeyPatch, times: int, as_cause: Cause) -> None:
    """Let the first polls that show a job's end show a loss of its machine."""
    poll, left = LocalExecutor.poll, [1] * times

    async def loses(self: LocalExecutor, refs: Any) -> Any:
        states = await poll(self, refs)
        for ref, state in states.items():
            if state.status.is_terminal and left and (self.infra_retries or self.retries):
                left.pop()
                states[ref] = JobState(JobStatus.FAILED, as_cause)
        return states

    monkeypatch.setattr(LocalExecutor, "poll", loses)
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.05)


@pytest.mark.usefixtures("server", "home")
def test_losses_and_failures_are_paid_for_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch, 2, Cause.NODE_FAIL)
    with run.Experiment("budgets", enable_goodbye_message=False, skip_status_at_exit=True) as exp:
        script = "echo try >> $NEMO_PREFECT_JOB_DIR/tries; [ $NEMO_PREFECT_ATTEMPT -ge 4 ]"
        exp.add(run.Script(inline=script), executor(retries=1, infra_retries=2), name="job")
        exp.add(run.Script(inline="true"), name="after", dependencies=["job"])
        exp.run()
    assert (exp.directory / "job/tries").read_text().count("try") == 4  # lost, lost, its own failure, success
    found = exp.status(return_dict=True)
    assert found is not None
    assert {v["status"].value for v in found.values()} == {"SUCCEEDED"}


@pytest.mark.usefixtures("server", "home")
def test_retries_are_never_spent_on_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch, 9, Cause.PREEMPTED)
    with run.Experiment("losses", enable_goodbye_message=False, skip_status_at_exit=True) as exp:
        exp.add(
            run.Script(inline="echo try >> $NEMO_PREFECT_JOB_DIR/tries"), executor(retries=5, infra_retries=1), name="job"
        )
        with pytest.raises(ExperimentFailed, match="preempted"):
            exp.run()
    assert (exp.directory / "job/tries").read_text().count("try") == 2


@pytest.mark.usefixtures("server", "home")
def test_a_job_that_runs_too_long_is_ended_and_timed_out() -> None:
    with run.Experiment("too-long", enable_goodbye_message=False, skip_status_at_exit=True) as exp:
        exp.add(run.Script(inline="echo $$ > $NEMO_PREFECT_JOB_DIR/pid; sleep 300"), executor(timeout=1.5), name="slow")
        exp.add(run.Script(inline="sleep 0.1"), executor(timeout=200), name="fast")
        with pytest.raises(ExperimentFailed, match=r"longer than 1\.5 seconds"):
            exp.run()
    found = exp.status(return_dict=True)
    assert found is not None
    assert (found["slow"]["status"].value, found["slow"]["cause"]) == ("FAILED", "TIMEOUT")
    assert found["fast"]["status"].value == "SUCCEEDED"
    import psutil

    assert not psutil.pid_exists(int((exp.directory / "slow/pid").read_text()))


@pytest.mark.usefixtures("server", "home")
def test_no_more_jobs_run_at_once_than_the_limit_says() -> None:
    one = executor(concurrency_limit=1)
    with run.Experiment("limited", executor=one, enable_goodbye_message=False, skip_status_at_exit=True) as exp:
        script = "mkdir $D/only || exit 9; sleep 0.3; rmdir $D/only"
        for index in range(3):
            exp.add(run.Script(inline=script, env={"D": str(exp.directory)}), name=f"job-{index}")
        exp.run()
    found = exp.status(return_dict=True)
    assert found is not None
    assert [v["status"].value for v in found.values()] == ["SUCCEEDED"] * 3
