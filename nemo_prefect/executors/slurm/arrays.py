"""Many jobs as one submission: those that become ready together and ask for the same become one array.

Each job keeps its own scripts, directory, lock and record; the array's script only starts the one that its index names. The
array is named by the keys of its jobs, and each job notes its place in it before it is submitted, so that an array whose
submission was not answered is found again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nemo_prefect.executors.base import JobRequest
from nemo_prefect.executors.slurm import options
from nemo_prefect.executors.slurm.script import BATCH, one_task_per_node
from nemo_prefect.executors.slurm.submission import find_by_name, submit
from nemo_prefect.executors.slurm.transfer import put
from nemo_prefect.exit_record import read_json
from nemo_prefect.shell import join, slug
from nemo_prefect.transport import Tunnel

if TYPE_CHECKING:
    from nemo_prefect.executors.slurm.fields import SlurmFields

#: Seconds without another job after which an array is submitted, and how long it waits for more at most.
QUIET, LONGEST = 0.5, 20.0
#: Where arrays lie in the experiment's directory, and where a job notes its place in one, in its own.
FOLDER, PLACE = "arrays", "array.json"

_SCRIPT = """\
#!/bin/bash
# An array of {count} jobs of {experiment}: each index is one, with scripts of its own.
dir=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {listing})
[ -d "$dir" ] || exit 1
exec bash "$dir/{batch}" >> "$dir/stdout.log" 2>> "$dir/stderr.log"
"""


@dataclass(frozen=True)
class Part:
    """A job's place in an array: the array's name on the cluster, and the job's index in it."""

    name: str
    index: int


@dataclass
class _Array:
    """An array that gathers its jobs."""

    executor: SlurmFields
    began: float
    jobs: list[tuple[JobRequest, JobRequest, asyncio.Future[str]]] = field(default_factory=list)
    latest: float = 0.0


_gathering: dict[tuple[str, ...], _Array] = {}
_submissions: set[asyncio.Task[None]] = set()
_lookups: dict[str, tuple[float, asyncio.Future[list[str]]]] = {}


async def join_array(executor: SlurmFields, request: JobRequest, there: JobRequest, limit: int) -> str:
    """Submit a job as part of an array, with those that come at about the same time; gives its id, ``123_4``.

    Args:
        executor: what the job asks for.
        request: the job.
        there: the job as it reads on the cluster.
        limit: tasks that an array may have.

    Raises:
        SubmissionError: the array was not submitted.
    """
    here = asyncio.get_running_loop()
    words = tuple(_options(executor, there))
    group = (str(id(here)), executor.cluster, str(there.experiment_dir), *words)
    array = _gathering.get(group)
    if array is None:
        array = _gathering[group] = _Array(executor, time.monotonic())
        task = asyncio.create_task(_submit_when_quiet(group, array, limit))
        _submissions.add(task)
        task.add_done_callback(_submissions.discard)
    answer: asyncio.Future[str] = here.create_future()
    array.jobs.append((request, there, answer))
    array.latest = time.monotonic()
    if len(array.jobs) >= limit:
        _gathering.pop(group, None)  # the next one begins another array
    return await answer


def part_of(request: JobRequest) -> Part | None:
    """The place that a job noted, or None where it was submitted by itself."""
    noted = read_json(request.directory / PLACE)
    return Part(noted["name"], noted["index"]) if noted else None


async def look_up(tunnel: Tunnel, name: str, accounting: bool) -> list[str]:
    """`find_by_name`; all jobs of an array that ask at the same time are one query.

    Raises:
        ExecutorError: Slurm could not be asked.
    """
    known = _lookups.get(name)
    here = asyncio.get_running_loop()
    if known is None or time.monotonic() - known[0] > 2.0 or known[1].get_loop() is not here:
        known = _lookups[name] = time.monotonic(), asyncio.ensure_future(find_by_name(tunnel, name, accounting))
        known[1].add_done_callback(lambda _: _lookups.pop(name, None))
    return await asyncio.shield(known[1])


def _options(executor: SlurmFields, there: JobRequest) -> list[str]:
    per_node = one_task_per_node(executor)
    return [*options.common(executor), *options.resources(executor, one_task_per_node=per_node)]


async def _submit_when_quiet(group: tuple[str, ...], array: _Array, limit: int) -> None:
    while len(array.jobs) < limit and (now := time.monotonic()) - array.latest < QUIET and now - array.began < LONGEST:
        await asyncio.sleep(QUIET / 5)
    if _gathering.get(group) is array:
        del _gathering[group]
    try:
        job = await _submit(array)
    except BaseException as error:  # noqa: BLE001 - every job of the array is told
        for _, _, answer in array.jobs:
            if not answer.done():
                answer.set_exception(error)
        return
    for index, (_, _, answer) in enumerate(array.jobs):
        if not answer.done():
            answer.set_result(f"{job}_{index}")


async def _submit(array: _Array) -> str:
    executor, (request, there, _) = array.executor, array.jobs[0]
    key = hashlib.sha256("".join(sorted(r.key for r, _, _ in array.jobs)).encode()).hexdigest()[:12]
    title = request.experiment_id.rpartition("_")[0] or request.experiment_id
    name = ".".join(slug(part.strip("."), 60) for part in (executor.job_name_prefix or "", title, "array", key) if part)
    for index, (each, _, _) in enumerate(array.jobs):
        (each.directory / PLACE).write_text(json.dumps({"name": name, "index": index}))
    folder = there.experiment_dir / FOLDER
    listing = "".join(f"{t.directory}\n" for _, t, _ in array.jobs)
    text = _SCRIPT.format(
        count=len(array.jobs), experiment=slug(request.experiment_id), listing=join([f"{folder}/{key}.txt"]), batch=BATCH
    )
    await put(executor.tunnel, request.experiment_dir / FOLDER, str(folder), {f"{key}.txt": listing, f"{key}.sh": text})
    words = ["sbatch", "--parsable", f"--job-name={name}", f"--array=0-{len(array.jobs) - 1}"]
    words += ["--output=/dev/null", "--error=/dev/null", *_options(executor, there), f"{folder}/{key}.sh"]
    return await submit(executor.tunnel, words)
