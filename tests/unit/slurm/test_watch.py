"""Following jobs on a cluster whose answers are written down here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nemo_prefect.errors import ExecutorError
from nemo_prefect.executors.slurm import watch
from nemo_prefect.executors.slurm.watch import Cluster, Facts, parse_config
from nemo_prefect.refs import JobRef
from nemo_prefect.states import Cause, JobState, JobStatus
from nemo_prefect.transport import CommandResult, LocalTunnel

CONFIG = """Configuration data as of 2026-11-25T06:02:43
AccountingStorageType   = accounting_storage/{kind}
MaxArraySize            = 1001
MessageTimeout          = 10 sec
MinJobAge               = 300 sec
SLURM_VERSION           = 22.05.8
"""


class Answers(LocalTunnel):
    """Answers squeue, sacct and scontrol; files are real."""

    queue: str = ""
    archive: str = ""
    accounting: bool = True
    fails: bool = False
    asked: list[str] = []

    async def run_command(self, argv: Sequence[str], **_: Any) -> CommandResult:
        self.asked.append(argv[0])
        if self.fails:
            return CommandResult(1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
        kind = "slurmdbd" if self.accounting else "none"
        shown = {"squeue": self.queue, "sacct": self.archive, "scancel": "", "scontrol": CONFIG.format(kind=kind)}
        return CommandResult(0, shown[argv[0]], "")


def ref_at(directory: Path, native_id: str = "5", array: Sequence[str] = ()) -> JobRef:
    directory.mkdir(exist_ok=True)
    details = {"remote": str(directory), "array": list(array), "parts": list(array)}
    return JobRef("slurm", "local", native_id, f"key{native_id}", str(directory), details)


def record(directory: Path, code: int) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "exit.json").write_text(json.dumps({"exit_code": code, "signal": None}))


def look(cluster: Cluster, tunnel: Answers, *refs: JobRef, ask: bool = True) -> list[JobState]:
    return list(asyncio.run(cluster.states(tunnel, refs, ask=ask)).values())


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(watch, "CLOSEST", 0.0)
    return Cluster()


def test_a_recorded_success_needs_no_query(cluster: Cluster, tmp_path: Path) -> None:
    record(tmp_path, 0)
    tunnel = Answers()
    assert look(cluster, tunnel, ref_at(tmp_path))[0].status is JobStatus.SUCCEEDED
    assert cluster.queries == 0


def test_many_jobs_are_one_query(cluster: Cluster, tmp_path: Path) -> None:
    refs = [ref_at(tmp_path / str(n), str(n)) for n in range(100, 200)]
    tunnel = Answers(queue="".join(f"{n}|RUNNING|None|N/A|x\n" for n in range(100, 200)))
    assert {s.status for s in look(cluster, tunnel, *refs)} == {JobStatus.RUNNING}
    assert cluster.queries == 1
    look(cluster, tunnel, *refs, ask=False)
    assert cluster.queries == 1


def test_vanished_jobs_are_one_sacct(cluster: Cluster, tmp_path: Path) -> None:
    refs = [ref_at(tmp_path / str(n), str(n)) for n in (7, 8)]
    tunnel = Answers(archive="7|COMPLETED|0:0|0:0|x|None\n8|TIMEOUT|0:0|0:0|x|None\n")
    done, late = look(cluster, tunnel, *refs)
    assert done.status is JobStatus.SUCCEEDED
    assert (late.status, late.cause) == (JobStatus.FAILED, Cause.TIMEOUT)
    assert tunnel.asked.count("sacct") == 1


def test_missing_everywhere_is_lost_and_never_a_success(cluster: Cluster, tmp_path: Path) -> None:
    (state,) = look(cluster, Answers(), ref_at(tmp_path))
    assert (state.status, state.cause) == (JobStatus.UNKNOWN, Cause.LOST)


def test_without_accounting_sacct_is_never_asked(cluster: Cluster, tmp_path: Path) -> None:
    tunnel = Answers(accounting=False)
    (state,) = look(cluster, tunnel, ref_at(tmp_path))
    assert state.cause is Cause.LOST
    assert "sacct" not in tunnel.asked


def test_a_failed_query_is_no_information(cluster: Cluster, tmp_path: Path) -> None:
    tunnel = Answers(queue="5|RUNNING|None|N/A|x\n")
    ref = ref_at(tmp_path)
    assert look(cluster, tunnel, ref)[0].status is JobStatus.RUNNING
    tunnel.fails = True
    assert look(cluster, tunnel, ref)[0].status is JobStatus.RUNNING
    with pytest.raises(ExecutorError, match="Unable to contact"):
        look(Cluster(), tunnel, ref_at(tmp_path / "other", "6"))


def test_slurm_says_why_a_recorded_failure_happened(cluster: Cluster, tmp_path: Path) -> None:
    record(tmp_path, 137)
    tunnel = Answers(queue="5|OUT_OF_MEMORY|OutOfMemory|N/A|x\n")
    (state,) = look(cluster, tunnel, ref_at(tmp_path))
    assert (state.status, state.cause, state.exit_code) == (JobStatus.FAILED, Cause.OUT_OF_MEMORY, 137)


def test_a_failure_in_the_middle_of_a_cancel_is_a_cancel(cluster: Cluster, tmp_path: Path) -> None:
    record(tmp_path, 1)
    (state,) = look(cluster, Answers(queue="5|CANCELLED|None|N/A|x\n"), ref_at(tmp_path))
    assert state.status is JobStatus.CANCELLED


def test_a_recorded_failure_does_not_wait_for_slurm_for_ever(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "REASON_WITHIN", 0.0)
    record(tmp_path, 3)
    tunnel = Answers(queue="5|COMPLETING|None|N/A|x\n")
    ref = ref_at(tmp_path)
    look(cluster, tunnel, ref)
    assert look(cluster, tunnel, ref)[0].exit_code == 3


def test_what_slurm_ended_without_accounting_is_a_failure_unless_we_asked(cluster: Cluster, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "terminated").write_text("TERM\n")
    (tmp_path / "b" / watch.CANCELLED).touch()
    told, ours = look(cluster, Answers(accounting=False), ref_at(tmp_path / "a", "1"), ref_at(tmp_path / "b", "2"))
    assert (told.status, told.signal) == (JobStatus.FAILED, 15)
    assert ours.status is JobStatus.CANCELLED


def test_the_lock_says_that_a_job_runs(cluster: Cluster, tmp_path: Path) -> None:
    ref, tunnel = ref_at(tmp_path), Answers(queue="5|PENDING|Priority|N/A|x\n")
    assert look(cluster, tunnel, ref)[0].status is JobStatus.PENDING
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock/owner").write_text("5\n")
    assert look(cluster, tunnel, ref, ask=False)[0].status is JobStatus.RUNNING
    assert look(cluster, tunnel, ref)[0].status is JobStatus.PENDING  # Slurm queued it again


def test_an_array_ends_with_its_last_task(cluster: Cluster, tmp_path: Path) -> None:
    ref = ref_at(tmp_path, array=["0", "1"])
    record(tmp_path / "0", 0)
    tunnel = Answers(queue="5_0|COMPLETED|None|N/A|x\n5_1|RUNNING|None|N/A|x\n")
    assert look(cluster, tunnel, ref)[0].status is JobStatus.RUNNING
    record(tmp_path / "1", 0)
    assert look(cluster, tunnel, ref, ask=False)[0].status is JobStatus.SUCCEEDED


def test_the_clusters_facts_are_read() -> None:
    assert parse_config(CONFIG.format(kind="slurmdbd")) == Facts("22.05.8", True, 300.0, 1001, 10.0)
    assert not parse_config(CONFIG.format(kind="none")).accounting


def test_who_asks_at_the_same_time_gets_one_answer(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "CLOSEST", 60.0)
    refs = [ref_at(tmp_path / str(n), str(n)) for n in (1, 2, 3)]
    tunnel = Answers(queue="1|RUNNING|None|N/A|x\n2|RUNNING|None|N/A|x\n3|CANCELLED|None|N/A|x\n")

    async def story() -> list[dict[JobRef, JobState]]:
        return await asyncio.gather(*(cluster.states(tunnel, [ref], ask=True) for ref in refs))

    answers = asyncio.run(story())
    assert answers[2][refs[2]].status is JobStatus.CANCELLED
    assert tunnel.asked == ["squeue"]


def test_jobs_cancelled_together_are_one_scancel(cluster: Cluster) -> None:
    tunnel = Answers()

    async def story() -> None:
        await asyncio.gather(*(cluster.end(tunnel, [str(n)]) for n in range(20)))

    asyncio.run(story())
    assert tunnel.asked == ["scancel"]


def test_a_duplicate_is_as_the_job_that_runs_its_attempt(cluster: Cluster, tmp_path: Path) -> None:
    ref = ref_at(tmp_path, "8")
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock/owner").write_text("7\n")
    tunnel = Answers(queue="7|RUNNING|None|N/A|x\n8|FAILED|NonZeroExitCode|N/A|x\n")
    assert look(cluster, tunnel, ref)[0].status is JobStatus.RUNNING
    record(tmp_path, 0)
    assert look(cluster, tunnel, ref)[0].status is JobStatus.SUCCEEDED
