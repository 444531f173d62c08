"""Handing a job to sbatch, and finding one that was handed in."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_prefect.errors import ExecutorError, SubmissionError, UnreachableError
from nemo_prefect.exit_record import read_json
from nemo_prefect.transport import CommandResult, Tunnel

#: Where a submission is noted, in the attempt's directory on this machine.
NOTE = "slurm.json"
#: Seconds that sbatch may take. Past it, nobody knows whether the job was queued.
SUBMIT_TIMEOUT = 120.0
#: Seconds that a query may take.
QUERY_TIMEOUT = 60.0

#: What sbatch says when it may work another time, and when the job may have been queued all the same.
_PASSING = (
    "Socket timed out", "Unable to contact slurm controller", "Slurm controller not responding", "Connection refused",
    "Connection timed out", "Zero Bytes were transmitted", "temporarily unable to accept job", "Resource temporarily",
    "Communication connection failure", "Unexpected message received", "Broken pipe", "Slurm backup controller",
    "Unable to establish", "slurm_receive_msg", "Connection reset",
)  # fmt: skip
_HINTS = {
    "account": "`sacctmgr show assoc user=$USER format=account,partition,qos` lists what you may use.",
    "qos": "`sacctmgr show assoc user=$USER format=account,partition,qos` lists what you may use.",
    "partition": "`sinfo -o %P` lists the partitions.",
    "time limit": "`sinfo -o '%P %l'` lists the partitions' time limits.",
    "node count": "`sinfo -o '%P %D'` lists how many nodes each partition has.",
    "node configuration": "`sinfo -o '%P %D %c %m %G'` lists what the nodes have: CPUs, memory, GPUs.",
    "more processors": "`sinfo -o '%P %D %c'` lists nodes and CPUs.",
    "feature": "`sinfo -o '%P %f'` lists the nodes' features.",
    "dependency": "The job that it waits for is not known to Slurm any more, or ended in another way.",
    "submit limit": "Wait until some of your jobs have ended.",
}


def clean_environment() -> list[str]:
    """``env -u …``: keeps Prefect's settings (its API key is one) and an enclosing Slurm job's out of the new job."""
    names = [
        n for n in sorted(os.environ) if n.startswith(("PREFECT_", "SLURM_")) and n not in ("SLURM_CONF", "SLURM_CLUSTERS")
    ]
    return ["env", *(word for name in names for word in ("-u", name))] if names else []


async def submit(tunnel: Tunnel, argv: Sequence[str]) -> str:
    """Run sbatch, and give the job's id.

    Raises:
        SubmissionError: it did not submit, or (``transient``) it is not known whether it did.
        UnreachableError: sbatch was never called.
    """
    try:
        answer = await tunnel.run_command([*(clean_environment() if tunnel.is_local else []), *argv], timeout=SUBMIT_TIMEOUT)
    except UnreachableError:
        raise
    except ExecutorError as error:
        raise SubmissionError(error.message, hint=error.hint, transient=error.transient) from error
    return job_id(answer)


def job_id(result: CommandResult) -> str:
    """The job's id, from what ``sbatch --parsable`` answered.

    Raises:
        SubmissionError: it did not submit; in sbatch's own words.
    """
    if result.ok:
        for line in reversed(result.stdout.splitlines()):
            number = line.strip().partition(";")[0]
            if number.isdigit():
                return number
        raise SubmissionError(f"sbatch answered {result.stdout.strip()!r}, which is no job id.", transient=True)
    said = (result.stderr.strip() or result.stdout.strip() or f"exit code {result.exit_code}").replace("\n", " ")
    passing = any(word in said for word in _PASSING) or result.exit_code < 0
    hint = next((hint for word, hint in _HINTS.items() if word in said.lower()), "")
    if result.exit_code == 127:
        hint = "sbatch is not there: run this on a login node, or give the executor an SSHTunnel to one."
    raise SubmissionError(f"Slurm did not take the job: {said}", hint=hint, transient=passing)


def write_note(directory: Path, **data: Any) -> None:
    """Write down what was submitted, for whoever asks next."""
    temporary = directory / f".{NOTE}.{os.getpid()}"
    temporary.write_text(json.dumps(data))
    temporary.replace(directory / NOTE)


def read_note(directory: Path) -> dict[str, Any] | None:
    """What `write_note` wrote, or None."""
    return read_json(directory / NOTE)


async def find_by_name(tunnel: Tunnel, name: str, accounting: bool) -> list[str]:
    """The ids of the jobs that have this name, oldest first.

    Raises:
        ExecutorError: Slurm could not be asked, so that nothing is known.
    """
    queue = await tunnel.run_command(
        ["squeue", "--me", "-h", "-t", "all", "-o", "%i", f"--name={name}"], timeout=QUERY_TIMEOUT
    )
    if queue.failed:
        raise ExecutorError(f"squeue failed: {queue.stderr.strip() or queue.exit_code}", transient=True)
    found = {line.strip() for line in queue.stdout.splitlines()}
    if not found and accounting:
        done = await tunnel.run_command(
            ["sacct", "-X", "-P", "-n", f"--name={name}", "--starttime=now-30days", "--format=JobID"], timeout=QUERY_TIMEOUT
        )
        if done.failed:
            raise ExecutorError(f"sacct failed: {done.stderr.strip() or done.exit_code}", transient=True)
        found = {line.strip() for line in done.stdout.splitlines()}
    bases = {job.partition("_")[0].partition("+")[0] for job in found if job}
    return sorted((b for b in bases if b.isdigit()), key=int)
