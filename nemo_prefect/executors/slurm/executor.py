"""`SlurmExecutor`: the contract, kept with sbatch, squeue, sacct and scancel."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import HttpUrl

from nemo_prefect.errors import ConfigError
from nemo_prefect.executors.base import JobRequest
from nemo_prefect.executors.slurm import arrays, script, transfer
from nemo_prefect.executors.slurm.fields import SlurmFields
from nemo_prefect.executors.slurm.states import indices
from nemo_prefect.executors.slurm.submission import read_note, submit, write_note
from nemo_prefect.executors.slurm.watch import CANCELLED, Cluster
from nemo_prefect.launchers import ExecutorMacros
from nemo_prefect.packaging import Packager
from nemo_prefect.refs import JobRef
from nemo_prefect.script import Script
from nemo_prefect.spec import TaskSpec
from nemo_prefect.states import Cause, JobState

#: Seconds that a cancelled job is waited for. (Slurm's KillWait, 30 s by default, ends what ignores TERM.)
GIVE_UP = 90.0
#: A file in the attempt's directory: Slurm took the job, but would never start it, so that it was cancelled.
NEVER = "never"

_clusters: dict[str, Cluster] = {}


class SlurmExecutor(SlurmFields):
    """Runs jobs on a Slurm cluster, from a login node or over SSH.

    One job is one sbatch; its tasks are started with srun. A group is one allocation (of several components with
    `heterogeneous`), and one `array` one submission.

    Example:
        Load a saved executor and give it to an experiment:

        ```python
        from nemo_prefect import SlurmExecutor

        executor = SlurmExecutor.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Slurm Executor"
    _block_type_slug = "slurm-executor"
    _logo_url = HttpUrl(
        "https://cdn.sanity.io/images/3ugk85nk/production/356e6766a91baf20e1d08bbe16e8b5aaef4d8643-48x48.png"
    )

    executor_name: ClassVar[str] = "slurm"
    supports_groups: ClassVar[bool] = True
    # The directory is looked into at every poll; squeue and sacct are asked at intervals of their own.
    poll_interval: ClassVar[tuple[float, float]] = (0.2, 4.0)
    lost_after: ClassVar[float] = 60.0

    def nnodes(self) -> int:
        return self.nodes

    def nproc_per_node(self) -> int:
        if self.torchrun_nproc_per_node is not None:
            return self.torchrun_nproc_per_node
        return self.ntasks_per_node if self.ntasks_per_node > 1 else self.gpus_per_node or 1

    def macro_values(self) -> ExecutorMacros:
        return script.MACROS

    @property
    def edge(self) -> Literal["afterok", "afterany", "afternotok"]:
        return self.dependency_type

    @property
    def infra_budget(self) -> int:
        return 0 if self.requeue == "slurm" else self.infra_retries  # never both: that would double jobs

    @property
    def cluster(self) -> str:
        return self.tunnel.key

    def info(self) -> str:
        return f"Slurm {self.partition or 'default partition'}, {self.nodes} node{'s' if self.nodes > 1 else ''}"

    @property
    def watched(self) -> Cluster:
        """What this process knows of the cluster's jobs."""
        return _clusters.setdefault(self.cluster, Cluster())

    def check_task(self, task: TaskSpec) -> None:
        if self.array and self.heterogeneous:
            raise ConfigError("Slurm has no arrays of heterogeneous jobs.", hint="Leave out array or heterogeneous.")
        if task.kind == "script":
            given = Script(**task.script)
            if not given.path or given.inline or given.m or type(self.packager) is not Packager:
                return
            if not self.tunnel.is_local and not os.path.isabs(given.path) and not self.container_image:
                raise ConfigError(
                    f"The script {given.path!r} is not on the cluster.",
                    hint="Give the executor a packager that brings it, or name it by its absolute path there.",
                )
            if self.tunnel.is_local and not self.container_image and not Path(given.path).expanduser().is_file():
                raise ConfigError(
                    f"The script {given.path!r} does not exist.",
                    hint=f"Give its path from {os.getcwd()}, where the job will run, or an absolute one.",
                )

    def render(self, request: JobRequest) -> script.RenderedSlurmJob:
        return script.render(self, self._there(request))

    def _there(self, request: JobRequest) -> JobRequest:
        return request.relocated(self.tunnel.directory_for(request.experiment_dir))

    def _ref(self, request: JobRequest, native_id: str) -> JobRef:
        parts = [str(i) for i in indices(self.array)] if self.array else []
        return JobRef(
            executor=self.executor_name,
            cluster=self.cluster,
            native_id=native_id,
            key=request.key,
            directory=str(request.directory),
            details={
                "remote": str(self._there(request).directory),
                "array": parts,
                "parts": parts or script.parts(self, request),
            },
        )

    async def launch(self, request: JobRequest) -> JobRef:
        if (note := read_note(request.directory)) and note["key"] == request.key:
            return self._ref(request, note["job"])
        there = self._there(request)
        rendered = script.render(self, there)
        await transfer.bring(self.tunnel, request, there, rendered.files, script.folders(self, request))
        if self.submit_as == "array" and len(request.tasks) == 1 and not self.array:
            facts = await self.watched.facts(self.tunnel)
            job = await arrays.join_array(self, request, there, facts.max_array_size)
        else:
            job = await submit(self.tunnel, rendered.argv)
        write_note(request.directory, key=request.key, job=job)
        return self._ref(request, job)

    async def find(self, request: JobRequest) -> JobRef | None:
        if (note := read_note(request.directory)) and note["key"] == request.key:
            return self._ref(request, note["job"])
        there = self._there(request)
        owner = await self.tunnel.read_file(str(there.directory / "lock" / "owner"))
        if owner and owner.strip() and not self.array:
            found = [owner.decode().strip()]
        else:
            accounting = (await self.watched.facts(self.tunnel)).accounting
            part = arrays.part_of(request)
            name = part.name if part else script.job_name(self, request)
            found = await arrays.look_up(self.tunnel, name, accounting)
            if part:
                found = [f"{job}_{part.index}" for job in found]
        if not found:
            return None
        oldest, *others = found
        if others:
            await self.watched.end(self.tunnel, others)
        write_note(request.directory, key=request.key, job=oldest)
        return self._ref(request, oldest)

    async def poll(self, refs: Sequence[JobRef]) -> dict[JobRef, JobState]:
        states = await self.watched.states(self.tunnel, refs)
        for ref, state in states.items():
            mark = Path(ref.directory, NEVER)
            if state.cause is Cause.LAUNCH_FAILED and not mark.exists():
                await self.watched.end(self.tunnel, [ref.native_id])
                mark.touch()
        return states

    async def cancel(self, refs: Sequence[JobRef]) -> None:
        states = await self.watched.states(self.tunnel, refs)
        left = [ref for ref in refs if not states[ref].status.is_terminal]
        for ref in left:
            Path(ref.directory, CANCELLED).touch()
        if not left:
            return
        for ref in left:
            if ref.details["remote"] != ref.directory:
                await self.tunnel.write_file(f"{ref.details['remote']}/{CANCELLED}", b"")
        began = time.monotonic()
        await self.watched.end(self.tunnel, [self.watched.runs_as(ref) for ref in left])
        while left and time.monotonic() - began < GIVE_UP:
            await asyncio.sleep(0.5)
            states = await self.watched.states(self.tunnel, left, ask=True)
            left = [ref for ref in left if not states[ref].status.is_terminal]

    async def fetch(self, ref: JobRef) -> None:
        await transfer.fetch(self.tunnel, ref)
