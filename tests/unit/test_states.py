from __future__ import annotations

from pathlib import Path

import pytest

from nemo_prefect.exit_record import read_exit
from nemo_prefect.states import Cause, JobState, JobStatus, ended, from_prefect, overall, to_prefect

S = JobStatus


def test_only_exit_code_zero_is_success() -> None:
    assert ended(0).status is S.SUCCEEDED
    assert ended(1).status is S.FAILED
    assert ended(None).status is S.FAILED
    assert ended(0, signal=9).status is S.FAILED


@pytest.mark.parametrize(
    ("state", "type_", "name"),
    [
        (ended(0), "COMPLETED", "Completed"),
        (ended(3), "FAILED", "Failed"),
        (JobState(S.FAILED, Cause.OUT_OF_MEMORY), "FAILED", "OutOfMemory"),
        (JobState(S.FAILED, Cause.TIMEOUT), "FAILED", "TimedOut"),
        (JobState(S.FAILED, Cause.NODE_FAIL), "CRASHED", "NodeFail"),
        (JobState(S.FAILED, Cause.LOST), "CRASHED", "Lost"),
        (JobState(S.CANCELLED), "CANCELLED", "Cancelled"),
        (JobState(S.RUNNING), "RUNNING", "Running"),
        (JobState(S.PENDING), "RUNNING", "Queued"),
        (JobState(S.UNKNOWN), "RUNNING", "Unknown"),
    ],
)
def test_to_prefect_and_back(state: JobState, type_: str, name: str) -> None:
    made = to_prefect(state)
    assert (made.type.value, made.name) == (type_, name)
    if state.status is not S.UNKNOWN:
        assert from_prefect(made.type.value, made.name, made.message).status is state.status


def test_every_status_has_a_prefect_state_and_only_success_completes() -> None:
    for status in S:
        assert (to_prefect(JobState(status)).type.value == "COMPLETED") == (status is S.SUCCEEDED)


def test_a_failure_wins_over_a_cancellation() -> None:
    assert overall([ended(0), JobState(S.CANCELLED), ended(1)]) is S.FAILED
    assert overall([ended(0), JobState(S.CANCELLED)]) is S.CANCELLED
    assert overall([ended(0), JobState(S.UNKNOWN)]) is S.UNKNOWN
    assert overall([ended(0)]) is S.SUCCEEDED


def test_they_are_said_in_words() -> None:
    assert ended(3).describe() == "FAILED (exit code 3)"
    assert ended(None, signal=9).describe() == "FAILED (signal 9)"
    assert ended(0).describe() == "SUCCEEDED"
    assert JobState(S.FAILED, Cause.OUT_OF_MEMORY, message="limit 4 GiB").describe() == "FAILED (out of memory): limit 4 GiB"


def test_an_exit_record_can_say_why(tmp_path: Path) -> None:
    (tmp_path / "exit.json").write_text('{"exit_code": 137, "signal": null, "cause": "OUT_OF_MEMORY"}')
    assert read_exit(tmp_path) == JobState(S.FAILED, Cause.OUT_OF_MEMORY, 137)
    (tmp_path / "exit.json").write_text('{"exit_code": 0, "signal": null, "cause": ""}')
    assert read_exit(tmp_path) == ended(0)
