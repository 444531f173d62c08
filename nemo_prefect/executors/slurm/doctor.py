"""What the cluster at hand is like and allows: ``nemo-prefect doctor slurm``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from nemo_prefect.doctor import Finding
from nemo_prefect.executors.slurm.submission import QUERY_TIMEOUT
from nemo_prefect.executors.slurm.watch import parse_config
from nemo_prefect.transport import CommandResult, LocalTunnel

_PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "srun")


def examine() -> Iterator[Finding]:
    """Look at the cluster of which this machine is a login node."""
    missing = [name for name in _PROGRAMS if _ask(name, "--version").failed]
    if missing:
        yield Finding(
            "error",
            "slurm",
            f"{', '.join(missing)} cannot be run here.",
            "Log in to a login node, or give the executor an SSHTunnel to one.",
        )
        return
    config = _ask("scontrol", "show", "config")
    if config.failed:
        yield Finding(
            "error", "slurmctld", config.stderr.strip() or "does not answer.", "Ask again, or ask the administrators."
        )
        return
    facts = parse_config(config.stdout)
    yield Finding("ok", "Slurm", f"{facts.version}.")
    yield Finding("ok", "MaxArraySize", f"{facts.max_array_size}: larger sweeps become several arrays.")
    purged = f"{facts.min_job_age:g} s: so long ended jobs stay in the queue"
    if facts.accounting:
        found = _ask("sacct", "-X", "-n", "-P", "--starttime=now-1hours", "--format=JobID")
        if found.ok:
            yield Finding("ok", "accounting", "sacct answers.")
        else:
            yield Finding("warning", "accounting", f"sacct fails: {found.stderr.strip()}", "Ask the administrators.")
        yield Finding("ok", "MinJobAge", f"{purged}, then sacct knows them.")
    else:
        yield Finding(
            "warning",
            "accounting",
            "is off: why Slurm ended a job (preempted, out of memory) is only known while the queue shows it.",
            "Nothing has to be done: the jobs' own records tell how they ended.",
        )
        yield Finding("ok" if facts.min_job_age >= 60 else "warning", "MinJobAge", f"{purged}.")
    yield from _partitions()
    if facts.accounting:
        yield from _accounts()


def _partitions() -> Iterator[Finding]:
    shown = _ask("sinfo", "-h", "-o", "%P|%a|%l|%D|%c|%m|%G")
    for line in shown.stdout.splitlines():
        name, state, limit, nodes, cpus, memory, gres = line.split("|")
        gpus = "" if gres == "(null)" else f", {gres}"
        yield Finding(
            "ok" if state == "up" else "warning",
            f"partition {name}",
            f"{state}: {nodes} nodes of {cpus} CPUs, {memory} MB{gpus}; time limit {limit}.",
        )


def _accounts() -> Iterator[Finding]:
    import getpass

    shown = _ask("sacctmgr", "-nP", "list", "assoc", f"user={getpass.getuser()}", "format=account,partition,qos")
    for line in sorted(set(shown.stdout.splitlines())):
        account, partition, qos = line.split("|")
        where = f"partition {partition}" if partition else "every partition"
        yield Finding("ok", f"account {account}", f"{where}; quality of service {qos or 'any'}.")


def _ask(*argv: str) -> CommandResult:
    return asyncio.run(LocalTunnel().run_command(list(argv), timeout=QUERY_TIMEOUT))
