"""What becomes of submitted jobs: their records first, which cost the scheduler nothing; then one ``squeue`` for all jobs of
a cluster; then one ``sacct`` for those that it shows no more."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_prefect.errors import ExecutorError
from nemo_prefect.executors.slurm.states import Answer, Row, base_of, combine, parse_sacct, parse_squeue, state_of
from nemo_prefect.executors.slurm.submission import QUERY_TIMEOUT
from nemo_prefect.exit_record import FILE, read_exit
from nemo_prefect.refs import JobRef
from nemo_prefect.states import Cause, JobState, JobStatus
from nemo_prefect.transport import Tunnel

logger = logging.getLogger("nemo_prefect")

#: Seconds between two squeues: at least, and at most while the jobs' directories tell what happens.
SHORTEST, LONGEST = 1.0, 30.0
#: Seconds between two squeues that somebody waits for.
CLOSEST = 0.4
#: Seconds that a failed job waits for Slurm to say why, before its own record is all there is.
REASON_WITHIN = 15.0
#: Job ids in one sacct.
CHUNK = 500
#: A file in the attempt's directory: this job was cancelled by us.
CANCELLED = "cancelled"


@dataclass(frozen=True)
class Facts:
    """What a cluster is like.

    Attributes:
        version: Slurm's.
        accounting: whether sacct can be asked.
        min_job_age: seconds that ended jobs stay in the queue.
        max_array_size: one more than the highest index of an array.
        message_timeout: seconds after which a command gives up on slurmctld.
    """

    version: str = ""
    accounting: bool = True
    min_job_age: float = 300.0
    max_array_size: int = 1001
    message_timeout: float = 10.0


@dataclass
class _Job:
    """What is known of one job."""

    since: float
    state: JobState
    runs_as: str  # its id; of a duplicate that found its attempt taken, the id of the job that runs it
    asked: float = -1.0
    began: bool = False
    failed_at: float | None = None
    recorded: JobState | None = None
    terminated: bool = False


class Cluster:
    """The jobs of one cluster, as far as this process follows them.

    Attributes:
        queries: how often squeue and sacct were asked.
    """

    def __init__(self) -> None:
        self.queries = 0
        self._facts: Facts | None = None
        self._jobs: dict[JobRef, _Job] = {}
        self._final: dict[JobRef, JobState] = {}
        self._asked = self._cost = 0.0
        self._failures = 0
        self._hurry = False
        self._jitter = 1.0
        self._flight: asyncio.Future[None] | None = None
        self._condemned: dict[str, None] = {}
        self._execution: asyncio.Future[None] | None = None

    async def facts(self, tunnel: Tunnel) -> Facts:
        """What the cluster is like; asked once."""
        if self._facts is None:
            shown = await tunnel.run_command(["scontrol", "show", "config"], timeout=QUERY_TIMEOUT)
            if shown.failed:
                raise ExecutorError(f"scontrol failed: {shown.stderr.strip() or shown.exit_code}", transient=True)
            self._facts = parse_config(shown.stdout)
        return self._facts

    def look_now(self) -> None:
        """Ask the scheduler as soon as is decent: something has just been done to a job."""
        self._hurry = True

    def known(self, ref: JobRef) -> JobState:
        """The job's state as it was last seen."""
        return self._final.get(ref) or self._jobs[ref].state

    def runs_as(self, ref: JobRef) -> str:
        """The id of the job that runs this attempt: its own, unless it was submitted twice and another one was first."""
        return self._jobs[ref].runs_as if ref in self._jobs else ref.native_id

    async def states(self, tunnel: Tunnel, refs: Sequence[JobRef], *, ask: bool = False) -> dict[JobRef, JobState]:
        """The state of each job.

        Args:
            tunnel: the way to the cluster.
            refs: the jobs.
            ask: ask the scheduler now, whenever it was asked last.

        Raises:
            ExecutorError: nothing is known of any of them.
        """
        now = time.monotonic()
        for ref in refs:
            if ref not in self._final and ref not in self._jobs:
                self._jobs[ref] = _Job(now, JobState(JobStatus.SUBMITTED), ref.native_id)
        await self._read([r for r in refs if r not in self._final], tunnel)
        left = [r for r in refs if r not in self._final]
        if left and (ask or self._is_due(left)):
            try:
                await self._ask_once(tunnel)
                self._failures = 0
            except ExecutorError as error:
                self._failures += 1
                if self._failures == 1:
                    logger.warning("Slurm does not answer (%s). Its jobs go on; asking again.", error)
                if len(left) == len(refs) and all(self._jobs[r].asked < 0 and not self._jobs[r].began for r in left):
                    raise
        return {ref: self.known(ref) for ref in refs}

    async def end(self, tunnel: Tunnel, jobs: Sequence[str]) -> None:
        """Cancel jobs; those that are cancelled at about the same time with one scancel.

        Raises:
            ExecutorError: it did not work.
        """
        self._condemned.update(dict.fromkeys(jobs))
        here = asyncio.get_running_loop()
        if self._execution is None or self._execution.done() or self._execution.get_loop() is not here:
            self._execution = asyncio.ensure_future(self._scancel(tunnel))
        await asyncio.shield(self._execution)

    async def _scancel(self, tunnel: Tunnel) -> None:
        while self._condemned:
            await asyncio.sleep(0.05)
            jobs = list(self._condemned)[:CHUNK]
            for job in jobs:
                del self._condemned[job]
            done = await tunnel.run_command(["scancel", *jobs], timeout=QUERY_TIMEOUT)
            said = done.stderr.strip()
            if done.failed and "Invalid job id" not in said and "already" not in said:
                raise ExecutorError(f"scancel: {said or done.exit_code}", transient=True)

    # Records ---------------------------------------------------------------------------------------------------------

    async def _read(self, refs: Sequence[JobRef], tunnel: Tunnel) -> None:
        """Look into the jobs' directories: which have begun, which have ended and how."""
        wanted: dict[str, int] = {}
        for ref in refs:
            wanted.update(dict.fromkeys(_files(ref, began=self._jobs[ref].began), 0))
        found = await tunnel.read_many(wanted) if wanted else {}
        now = time.monotonic()
        for ref in refs:
            job, root = self._jobs[ref], ref.details["remote"]
            places = [f"{root}/{part}" for part in ref.details["array"]] or [root]
            if not job.began and any(f"{p}/lock/owner" in found for p in places):
                job.began = True
                owner = found.get(f"{root}/lock/owner", b"").decode().strip()
                if re.fullmatch(r"\d+(_\d+)?", owner):
                    job.runs_as = owner
                if job.state.status in (JobStatus.SUBMITTED, JobStatus.PENDING):
                    job.state = JobState(JobStatus.RUNNING)
            job.terminated = any(f"{p}/terminated" in found for p in places)
            self._hurry = self._hurry or job.terminated
            records = [found.get(f"{p}/{FILE}") for p in places]
            if not all(records):
                continue
            ended = [_read_record(ref, part, data) for part, data in zip(ref.details["array"] or [""], records, strict=True)]
            recorded = combine(ended)
            if recorded.status is JobStatus.SUCCEEDED:
                self._final[ref] = recorded
                continue
            job.recorded = recorded
            job.failed_at = job.failed_at or now
            self._hurry = True
            if now - job.failed_at > REASON_WITHIN:
                self._final[ref] = recorded

    # Queries ---------------------------------------------------------------------------------------------------------

    def _is_due(self, refs: Sequence[JobRef]) -> bool:
        now = time.monotonic()
        age = now - max(self._jobs[r].since for r in refs)
        longest = LONGEST
        if self._facts is not None and not self._facts.accounting:
            longest = max(SHORTEST, min(LONGEST, self._facts.min_job_age / 2))
        pause = SHORTEST if self._hurry else min(max(age / 2, SHORTEST), longest)
        pause = max(pause, 5 * self._cost) * 2 ** min(self._failures, 5) * self._jitter
        return bool(now - self._asked >= pause)

    async def _ask_once(self, tunnel: Tunnel) -> None:
        """Query for all jobs that are followed; whoever asks meanwhile gets the same answer."""
        here = asyncio.get_running_loop()
        if self._flight is None or self._flight.done() or self._flight.get_loop() is not here:
            if time.monotonic() - self._asked < CLOSEST and not self._failures:
                return
            self._flight = asyncio.ensure_future(self._query([r for r in self._jobs if r not in self._final], tunnel))
        await asyncio.shield(self._flight)

    async def _query(self, refs: Sequence[JobRef], tunnel: Tunnel) -> None:
        self._hurry, self._jitter = False, random.uniform(0.8, 1.2)
        began = self._asked = time.monotonic()
        self.queries += 1
        shown = await tunnel.run_command(
            ["squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T|%r|%S|%j"], timeout=QUERY_TIMEOUT
        )
        self._cost = time.monotonic() - began
        if shown.failed:
            raise ExecutorError(f"squeue: {shown.stderr.strip() or shown.exit_code}", transient=True)
        answer = Answer(parse_squeue(shown.stdout))
        gone = []
        for ref in refs:
            rows = answer.about(self.runs_as(ref))
            if rows:
                self._take(ref, rows, began)
            else:
                gone.append(ref)
        if not gone:
            return
        archived = await self._sacct(gone, tunnel) if (await self.facts(tunnel)).accounting else Answer([])
        await self._read([r for r in gone if r not in self._final], tunnel)  # they may have ended since the last look
        for ref in gone:
            rows = archived.about(self.runs_as(ref))
            if ref in self._final:
                continue
            if rows:
                self._take(ref, rows, began)
            else:
                self._missing(ref, began)

    async def _sacct(self, refs: Sequence[JobRef], tunnel: Tunnel) -> Answer:
        ids, found = sorted({base_of(self.runs_as(ref)) for ref in refs}, key=int), list[Row]()
        for start in range(0, len(ids), CHUNK):
            self.queries += 1
            columns = "JobID,State,ExitCode,DerivedExitCode,End,Reason"
            argv = ["sacct", "-X", "-P", "-n", "-j", ",".join(ids[start : start + CHUNK]), f"--format={columns}"]
            shown = await tunnel.run_command(argv, timeout=QUERY_TIMEOUT)
            if shown.failed:
                raise ExecutorError(f"sacct: {shown.stderr.strip() or shown.exit_code}", transient=True)
            found += parse_sacct(shown.stdout)
        return Answer(found)

    def _take(self, ref: JobRef, rows: Sequence[Row], asked: float) -> None:
        """What the scheduler says, and what the job's own record says where it says more."""
        job = self._jobs[ref]
        state = combine([state_of(row, job.state) for row in rows])
        if state.status is JobStatus.PENDING and job.began and asked < job.since:
            return
        job.asked = asked
        if not state.status.is_terminal:
            if job.recorded is None:
                job.began = job.began and state.status is not JobStatus.PENDING  # it was queued again
                job.state = state
            return
        if job.recorded is not None:
            state = _explained(job.recorded, state)
        elif job.terminated and _cancelled_by_us(ref):
            state = JobState(JobStatus.CANCELLED, Cause.CANCELLED)
        self._final[ref] = state

    def _missing(self, ref: JobRef, asked: float) -> None:
        job = self._jobs[ref]
        if job.recorded is not None:
            self._final[ref] = job.recorded
        elif job.terminated:
            if _cancelled_by_us(ref):
                self._final[ref] = JobState(JobStatus.CANCELLED, Cause.CANCELLED)
            else:
                told = "Slurm ended it, and no accounting says why: cancelled, preempted or out of time"
                self._final[ref] = JobState(JobStatus.FAILED, Cause.SIGNAL, None, 15, told)
        elif asked > job.since:
            self._hurry = True
            job.state = JobState(JobStatus.UNKNOWN, Cause.LOST, message="Slurm shows it no more, and it left no record")


def parse_config(text: str) -> Facts:
    """The facts in what ``scontrol show config`` prints."""
    values = {k.strip(): v.strip() for k, _, v in (line.partition("=") for line in text.splitlines())}

    def number(name: str, default: float) -> float:
        word = values.get(name, "").split(" ")[0]
        return float(word) if word.replace(".", "", 1).isdigit() else default

    return Facts(
        version=values.get("SLURM_VERSION", ""),
        accounting="slurmdbd" in values.get("AccountingStorageType", ""),
        min_job_age=number("MinJobAge", 300),
        max_array_size=int(number("MaxArraySize", 1001)),
        message_timeout=number("MessageTimeout", 10),
    )


def _files(ref: JobRef, *, began: bool) -> list[str]:
    root = ref.details["remote"]
    places = [f"{root}/{part}" for part in ref.details["array"]] or [root]
    names = [FILE, "terminated"] if began else [FILE, "terminated", "lock/owner"]
    return [f"{place}/{name}" for place in places for name in names]


def _read_record(ref: JobRef, part: str, data: bytes | None) -> JobState:
    """A record, brought to this machine where it is not here already."""
    directory = Path(ref.directory, part)
    if not (directory / FILE).exists():
        directory.mkdir(parents=True, exist_ok=True)
        temporary = directory / f".{FILE}.fetched"
        temporary.write_bytes(data or b"")
        temporary.replace(directory / FILE)
    return read_exit(directory) or JobState(JobStatus.UNKNOWN)


def _explained(recorded: JobState, said: JobState) -> JobState:
    """A failure as the job recorded it, with the cause that Slurm knows."""
    if said.status is JobStatus.CANCELLED:
        return said
    if said.status is JobStatus.FAILED and said.cause not in (Cause.EXIT_CODE, Cause.SIGNAL, Cause.NONE):
        return JobState(JobStatus.FAILED, said.cause, recorded.exit_code, recorded.signal, said.message)
    return recorded


def _cancelled_by_us(ref: JobRef) -> bool:
    return Path(ref.directory, CANCELLED).exists()
