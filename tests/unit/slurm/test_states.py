"""What Slurm's answers mean."""

from __future__ import annotations

import logging

import pytest

from nemo_prefect.executors.slurm.states import TABLE, Answer, Row, base_of, combine, parse_sacct, parse_squeue, state_of
from nemo_prefect.states import Cause, JobState, JobStatus, ended

#: Every state of job_state_codes in Slurm 24.11.
DOCUMENTED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PENDING",
    "PREEMPTED",
    "RUNNING",
    "SUSPENDED",
    "TIMEOUT",
    "COMPLETING",
    "CONFIGURING",
    "EXPEDITING",
    "LAUNCH_FAILED",
    "POWER_UP_NODE",
    "RECONFIG_FAIL",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESIZING",
    "RESV_DEL_HOLD",
    "REVOKED",
    "SIGNALING",
    "SPECIAL_EXIT",
    "STAGE_OUT",
    "STOPPED",
    "UPDATE_DB",
}


def test_every_documented_state_is_known() -> None:
    assert set(TABLE) == DOCUMENTED


def test_only_completed_is_a_success() -> None:
    assert [name for name, (status, _, _) in TABLE.items() if status is JobStatus.SUCCEEDED] == ["COMPLETED"]


@pytest.mark.parametrize("state", ["COMPLETING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED", "STAGE_OUT"])
def test_states_on_the_way_do_not_end_a_job(state: str) -> None:
    assert not state_of(Row("1", state)).status.is_terminal


def test_squeue_is_read() -> None:
    text = "12|PENDING|Resources|2026-11-25T06:03:10|a.b.c\n13_4|RUNNING|None|N/A|odd|name\n14+0|COMPLETED|None|N/A|x\n\n"
    assert parse_squeue(text) == [
        Row("12", "PENDING", "Resources", "2026-11-25T06:03:10", said="PENDING"),
        Row("13_4", "RUNNING", said="RUNNING"),
        Row("14+0", "COMPLETED", said="COMPLETED"),
    ]


def test_sacct_is_read() -> None:
    rows = parse_sacct("7|CANCELLED by 1001|0:15|0:0|Unknown|None\n8_[2-9]|PENDING|0:0|0:0|Unknown|None\n")
    assert [(r.job, base_of(r.job), r.state, r.exit_code) for r in rows] == [
        ("7", "7", "CANCELLED", "0:15"),
        ("8_[2-9]", "8", "PENDING", "0:0"),
    ]
    assert state_of(rows[0]) == JobState(JobStatus.CANCELLED, Cause.CANCELLED, None, None, "by user 1001")


def test_completed_with_an_exit_code_is_a_failure() -> None:
    assert state_of(Row("1", "COMPLETED", exit_code="0:0")) == ended(0)
    assert state_of(Row("1", "COMPLETED", exit_code="3:0")).status is JobStatus.FAILED
    assert state_of(Row("1", "COMPLETED", exit_code="0:9")).status is JobStatus.FAILED


def test_failures_keep_exit_code_or_signal() -> None:
    assert state_of(Row("1", "FAILED", exit_code="3:0")).exit_code == 3
    assert state_of(Row("1", "FAILED", exit_code="0:11")) == JobState(JobStatus.FAILED, Cause.SIGNAL, None, 11)


@pytest.mark.parametrize(
    "reason", ["PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints", "DependencyNeverSatisfied"]
)
def test_what_can_never_start_has_failed(reason: str) -> None:
    state = state_of(Row("1", "PENDING", reason))
    assert (state.status, state.cause) == (JobStatus.FAILED, Cause.LAUNCH_FAILED)
    assert reason in state.message


def test_what_waits_says_for_what_and_until_when() -> None:
    assert state_of(Row("1", "PENDING", "Resources", "2026-11-25T06:03:10")).message == (
        "waits for Resources, expected to start at 2026-11-25T06:03:10"
    )


def test_an_unknown_state_changes_nothing_and_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    before = JobState(JobStatus.RUNNING)
    with caplog.at_level(logging.WARNING, "nemo_prefect"):
        assert state_of(Row("1", "DREAMING", said="DREAMING"), before) == before
        assert state_of(Row("1", "DREAMING", said="DREAMING"), before) == before
    assert caplog.text.count("DREAMING") == 1


def test_a_job_of_parts_runs_until_the_last_has_ended() -> None:
    running, waiting = JobState(JobStatus.RUNNING), JobState(JobStatus.PENDING)
    assert combine([ended(0), waiting]).status is JobStatus.RUNNING
    assert combine([waiting, waiting]).status is JobStatus.PENDING
    assert combine([ended(1), running]).status is JobStatus.RUNNING
    assert combine([ended(0), ended(3), ended(0)]).exit_code == 3
    assert combine([ended(0), ended(0)]) == ended(0)


def test_the_lines_of_one_task_of_an_array_and_of_all() -> None:
    rows = [Row("5_0", "RUNNING"), Row("5_1", "COMPLETED"), Row("6", "RUNNING"), Row("7_[2-4,9%5]", "PENDING")]
    answer = Answer(rows)
    assert answer.about("5_1") == [rows[1]]
    assert answer.about("5") == rows[:2]
    assert answer.about("8") == []
    assert answer.about("7_4") == answer.about("7_9") == [rows[3]]
    assert answer.about("7_5") == []
