"""What cannot be provoked on a real executor: its own errors, a full disk, an answer that gets lost."""

from __future__ import annotations

import errno
from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.errors import ExecutorError, ExperimentFailed, SubmissionError, UnreachableError
from nemo_prefect.executors.local import LocalExecutor
from nemo_prefect.ledger import Ledger

pytestmark = pytest.mark.usefixtures("server", "home")


def experiment() -> run.Experiment:
    with run.Experiment("engine", enable_goodbye_message=False, skip_status_at_exit=True) as exp:
        exp.add(run.Script(inline="echo ran >> $NEMO_PREFECT_JOB_DIR/ran"), name="job")
        exp.add(run.Script(inline="true"), name="after", dependencies=["job"])
        exp.run()
    return exp


def statuses(exp: run.Experiment) -> dict[str, str]:
    found = exp.status(return_dict=True)
    assert found is not None
    return {k: v["status"].value for k, v in found.items()}


def runs(exp: run.Experiment) -> int:
    return (exp.directory / "job/ran").read_text().count("ran")


def test_an_answer_that_gets_lost_starts_no_second_job(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = LocalExecutor.launch
    calls: list[str] = []

    async def loses_its_answer(self: LocalExecutor, request: Any) -> Any:
        ref = await launch(self, request)
        calls.append(request.job_id)
        if calls == ["job"]:
            raise SubmissionError("The answer got lost.", transient=True)
        return ref

    monkeypatch.setattr(LocalExecutor, "launch", loses_its_answer)
    exp = experiment()
    assert calls == ["job", "after"]
    assert runs(exp) == 1


def test_a_submission_that_fails_for_a_passing_reason_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = LocalExecutor.launch
    calls: list[str] = []

    async def fails_once(self: LocalExecutor, request: Any) -> Any:
        calls.append(request.job_id)
        if len(calls) == 1:
            raise SubmissionError("Not now.", transient=True)
        return await launch(self, request)

    monkeypatch.setattr(LocalExecutor, "launch", fails_once)
    exp = experiment()
    assert calls == ["job", "job", "after"]
    assert statuses(exp) == {"job": "SUCCEEDED", "after": "SUCCEEDED"}


def test_a_lost_answer_and_a_cluster_that_cannot_be_asked_double_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    launch, find = LocalExecutor.launch, LocalExecutor.find
    launches: list[str] = []
    silent = [1, 2, 3]

    async def breaks_off(self: LocalExecutor, request: Any) -> Any:
        launches.append(request.job_id)
        ref = await launch(self, request)
        if len(launches) == 1:
            raise ConnectionResetError("The engine went away.")
        return ref

    async def is_away(self: LocalExecutor, request: Any) -> Any:
        if launches and silent and (request.directory / "process.json").exists():
            silent.pop()
            raise ExecutorError("The engine does not answer.", transient=True)
        return await find(self, request)

    monkeypatch.setattr(LocalExecutor, "launch", breaks_off)
    with monkeypatch.context() as patch:
        patch.setattr("nemo_prefect.executors.local.LocalExecutor.find", is_away)
        patch.setattr("nemo_prefect.engine.FIND_PAUSE", 0.01)
        # `launch` looks for its own supervisor with `find`: that must not be what is silent.
        patch.setattr(LocalExecutor, "launch", _with_find(find, breaks_off))
        exp = experiment()
    assert launches == ["job", "after"]
    assert runs(exp) == 1
    assert not silent


def test_a_cluster_that_was_never_reached_is_a_failure_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    async def is_away(self: LocalExecutor, request: Any) -> Any:
        calls.append(request.job_id)
        raise UnreachableError("me@cluster does not answer within 10 s.", hint="Is the network (a VPN) up?")

    monkeypatch.setattr(LocalExecutor, "launch", is_away)
    monkeypatch.setattr("nemo_prefect.engine.FIND_PAUSE", 0.01)
    with pytest.raises(ExperimentFailed, match=r"me@cluster does not answer within 10 s"):
        experiment()
    assert calls == ["job"] * 3


def test_a_cluster_that_goes_away_for_a_while_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = LocalExecutor.launch
    calls: list[str] = []

    async def comes_and_goes(self: LocalExecutor, request: Any) -> Any:
        calls.append(request.job_id)
        if 1 < len(calls) < 10:
            raise UnreachableError("me@cluster does not answer.")
        return await launch(self, request)

    monkeypatch.setattr(LocalExecutor, "launch", comes_and_goes)
    monkeypatch.setattr("nemo_prefect.engine.FIND_PAUSE", 0.001)
    exp = experiment()
    assert calls == ["job", *["after"] * 9]
    assert statuses(exp) == {"job": "SUCCEEDED", "after": "SUCCEEDED"}
    assert runs(exp) == 1


def _with_find(find: Any, launch: Any) -> Any:
    async def call(self: LocalExecutor, request: Any) -> Any:
        patched, LocalExecutor.find = LocalExecutor.find, find  # type: ignore[method-assign]
        try:
            return await launch(self, request)
        finally:
            LocalExecutor.find = patched  # type: ignore[method-assign]

    return call


@pytest.mark.parametrize("error", [SubmissionError("No such partition."), OSError(errno.ENOSPC, "No space left on device")])
def test_a_submission_that_fails_for_good_is_a_failure_that_says_why(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fails(self: LocalExecutor, request: Any) -> Any:
        raise error

    monkeypatch.setattr(LocalExecutor, "launch", fails)
    with pytest.raises(ExperimentFailed, match=str(error.args[-1])) as caught:
        experiment()
    assert [job.job_id for job in caught.value.jobs] == ["job"]
    exp = run.Experiment.from_title("engine")
    assert statuses(exp) == {"job": "FAILED", "after": "UNSUBMITTED"}


def test_a_query_that_breaks_in_any_way_says_nothing_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    poll = LocalExecutor.poll
    calls: list[int] = []

    async def breaks_twice(self: LocalExecutor, refs: Any) -> Any:
        calls.append(1)
        if len(calls) <= 2:
            raise OSError(errno.EMFILE, "Too many open files")
        return await poll(self, refs)

    monkeypatch.setattr(LocalExecutor, "poll", breaks_twice)
    assert statuses(experiment()) == {"job": "SUCCEEDED", "after": "SUCCEEDED"}


def test_a_ledger_that_cannot_be_written_after_the_launch_does_not_lose_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Ledger.write

    def full(self: Ledger, job_id: str, attempt: int, key: str, event: Any, payload: Any = None) -> None:
        if event != "SUBMITTING":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, job_id, attempt, key, event, payload)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", full)
        exp = experiment()
    assert runs(exp) == 1
    exp.resume()  # finds what ran, by its key, and does not run it again
    assert runs(exp) == 1
    assert statuses(exp) == {"job": "SUCCEEDED", "after": "SUCCEEDED"}
