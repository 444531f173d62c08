"""What may be set, and what it becomes."""

from __future__ import annotations

import pytest

from nemo_prefect import SlurmExecutor
from nemo_prefect.errors import SubmissionError
from nemo_prefect.executors.slurm import options
from nemo_prefect.executors.slurm.states import indices
from nemo_prefect.executors.slurm.submission import job_id
from nemo_prefect.shell import expanding
from nemo_prefect.transport import CommandResult


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("partition", "debug\n#SBATCH --uid=0"),
        ("account", "a'b"),
        ("account", ""),
        ("comment", "two\nlines"),
        ("time", "an hour"),
        ("time", "1:00:00; rm"),
        ("array", "0-3;ls"),
        ("signal", "USR2 120"),
        ("nodes", 0),
        ("env_vars", {"NOT A NAME": "1"}),
        ("env_vars", {"NUL": "a\0b"}),
        ("srun_args", ["--x\n"]),
        ("container_mounts", ["/a:/b\n"]),
        ("additional_parameters", {"wrap": "rm"}),
        ("additional_parameters", {"job_name": "x"}),
        ("additional_parameters", {"no dash": "x"}),
        ("additional_parameters", {"mail_user": "a\nb"}),
        ("dependencies", ["afterok:1"]),
        ("het_group_indices", [1, 0]),
        ("dependency_type", "never"),
        ("no_such_field", 1),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_set(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        SlurmExecutor(**{"account": "research", field: value})


def test_quotes_and_blanks_arrive_as_one_argument() -> None:
    executor = SlurmExecutor(account="r", comment='it\'s "odd" $HOME', additional_parameters={"mail_user": "a b"})
    assert f"--comment={executor.comment}" in options.common(executor)
    assert "--mail-user=a b" in options.resources(executor, one_task_per_node=False)


def test_additional_parameters_become_options() -> None:
    executor = SlurmExecutor(account="r", additional_parameters={"hint": "nomultithread", "spread_job": True, "x11": False})
    words = options.resources(executor, one_task_per_node=False)
    assert words[-4:] == ["--nodes=1", "--ntasks-per-node=1", "--hint=nomultithread", "--spread-job"]


def test_requeueing_has_one_owner() -> None:
    assert "--no-requeue" in options.common(SlurmExecutor(account="r"))
    assert "--requeue" in options.common(SlurmExecutor(account="r", requeue="slurm"))


def test_indices_of_arrays() -> None:
    assert indices("0-3") == [0, 1, 2, 3]
    assert indices("1,5-9:2,7%2") == [1, 5, 7, 9]


def test_the_answer_of_sbatch() -> None:
    assert job_id(CommandResult(0, "123\n", "")) == "123"
    assert job_id(CommandResult(0, "sbatch: a notice\n123;cluster\n", "")) == "123"


@pytest.mark.parametrize(
    ("said", "passing", "hint"),
    [
        ("sbatch: error: invalid partition specified: nope", False, "sinfo"),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination", False, "sacctmgr"),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", True, ""),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", True, ""),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid", False, "time limits"),
    ],
)
def test_refusals_are_in_slurms_own_words(said: str, passing: bool, hint: str) -> None:
    with pytest.raises(SubmissionError) as caught:
        job_id(CommandResult(1, "", said + "\n"))
    assert said in str(caught.value)
    assert caught.value.transient is passing
    assert hint in caught.value.hint


def test_an_answer_that_is_no_id_may_have_submitted() -> None:
    with pytest.raises(SubmissionError) as caught:
        job_id(CommandResult(0, "what?\n", ""))
    assert caught.value.transient


def test_only_the_named_variables_expand() -> None:
    assert expanding("$a:$HOME ${a}b $ab", "a") == "\"${a}\"':$HOME '\"${a}\"'b $ab'"
    assert expanding("", "a") == "''"
