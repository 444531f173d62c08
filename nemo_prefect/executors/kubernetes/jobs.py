"""A submitted job in the cluster: looking at it, judging what is seen, and taking it away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_prefect.executors.kubernetes import pod_logs, states
from nemo_prefect.executors.kubernetes.api import Api, ApiError
from nemo_prefect.executors.kubernetes.manifests import INIT_CONTAINER, KEY, MANAGED_BY, MASTER, RANK, WORKER
from nemo_prefect.executors.kubernetes.record import Record, only_one, write_exit
from nemo_prefect.refs import JobRef
from nemo_prefect.states import Cause, JobState, JobStatus

logger = logging.getLogger("nemo_prefect")

#: Keys in one selector: more would make an address too long for some servers.
KEYS_AT_MOST = 100
#: Seconds for which one of several ranks may be missing before the others are ended.
MISSING_AFTER = 30.0
#: Seconds that a pod may wait for no stated reason before the cluster's events are asked for one.
EXPLAIN_AFTER = 5.0
#: Seconds beyond the grace period after which pods that do not go (their node is dead) are not waited for.
PATIENCE = 30.0


@dataclass
class Seen:
    """One look at a job: its Jobs and pods by rank, the oldest pod first."""

    jobs: dict[int, dict[str, Any]] = field(default_factory=dict)
    pods: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def all_pods(self) -> list[dict[str, Any]]:
        """All of its pods."""
        return [pod for pods in self.pods.values() for pod in pods]

    def has_begun(self) -> bool:
        """Whether anything of it runs or has run."""
        phases = {pod.get("status", {}).get("phase") for pod in self.all_pods}
        return bool(phases & {"Running", "Succeeded", "Failed"}) or any(_done(job) for job in self.jobs.values())

    def active(self) -> list[int]:
        """The ranks of which something runs, or will."""
        over = {r for r, pods in self.pods.items() if pods and all(states.is_over(p) for p in pods)}
        return sorted(
            ({*self.jobs, *self.pods}) - over - {r for r, j in self.jobs.items() if r not in self.pods and _done(j)}
        )


async def look(api: Api, namespace: str, keys: Sequence[str]) -> dict[str, Seen]:
    """What the cluster shows of each of these submissions, with one list of Jobs and one of pods for all."""
    some = f"{KEY} in ({','.join(sorted(keys))})"
    selector = some if len(keys) <= KEYS_AT_MOST else ",".join(f"{k}={v}" for k, v in MANAGED_BY.items())
    jobs = await api.items(f"/apis/batch/v1/namespaces/{namespace}/jobs", labelSelector=selector)
    pods = await api.items(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)
    found = {key: Seen() for key in keys}
    for item in jobs:
        if (seen := found.get(item["metadata"]["labels"].get(KEY, ""))) is not None:
            seen.jobs[int(item["metadata"]["labels"].get(RANK, 0))] = item
    for item in sorted(pods, key=lambda p: p["metadata"]["creationTimestamp"]):
        if (seen := found.get(item["metadata"]["labels"].get(KEY, ""))) is not None:
            seen.pods.setdefault(int(item["metadata"]["labels"].get(RANK, 0)), []).append(item)
    return found


async def judge(api: Api, ref: JobRef, seen: Seen, patience: float) -> JobState:
    """The job's state from one look at it. Pods that wait for each other are let go; of a job that failed the rest is ended.

    Args:
        api: the API.
        ref: the job.
        seen: what the cluster shows of it.
        patience: seconds for which pulling an image may go on failing.
    """
    record = Record.of(ref.directory)
    state = record.state
    if state is None:
        state = _state(ref, seen, record, patience)
        if not state.status.is_terminal:
            _remember(record, seen)
            if ref.details.get("archive"):
                await _copy_code(api, ref, seen)
            if state.status is JobStatus.RUNNING and ref.details["nodes"] > 1:
                return await _let_go(api, ref, seen)
            if state.status is JobStatus.PENDING:
                return await _explained(api, ref, seen, state)
            return state
        record.verdict, record.ending = state.to_dict(), time.time()
        record.save()
    active = seen.active()
    if active and time.time() - record.ending < ref.details["grace"] + PATIENCE:
        async with only_one(ref.directory):
            await fetch_what_can_be(api, ref, seen)
        await delete(api, ref, [seen.jobs[r] for r in active if r in seen.jobs])
        return JobState(JobStatus.RUNNING, message=f"ending what is left of it: {state.describe()}")
    return state


def _state(ref: JobRef, seen: Seen, record: Record, patience: float) -> JobState:
    ranks = []
    for rank in range(ref.details["nodes"]):
        pods = seen.pods.get(rank, [])
        if states.was_replaced(pods, record.pods.get(str(rank), "")):
            gone = "its pod was deleted, and the cluster started another one"
            ranks.append(JobState(JobStatus.FAILED, Cause.PREEMPTED, message=gone))
        else:
            ranks.append(states.rank_state(seen.jobs.get(rank), pods, ref.key, patience))
    state = states.combine(ranks)
    lost = state.status is JobStatus.UNKNOWN and state.cause is Cause.LOST
    if lost and (seen.jobs or seen.pods):
        record.missing = record.missing or time.time()
        if time.time() - record.missing > MISSING_AFTER:
            return JobState(JobStatus.FAILED, Cause.LOST, message=state.message)
        record.save()
    return state


async def _explained(api: Api, ref: JobRef, seen: Seen, state: JobState) -> JobState:
    """A state of waiting that says why, where neither pod nor Job do: a quota, a volume that cannot be mounted."""
    if states.says_why(state) or not seen.jobs:
        return state
    for rank, job in sorted(seen.jobs.items()):
        pods = seen.pods.get(rank, [])
        waiting = pods[0] if pods else job
        begun = states.container_of(waiting).get("state", {}).keys() & {"running", "terminated"}
        if begun or states.age(waiting["metadata"]["creationTimestamp"]) < EXPLAIN_AFTER:
            continue
        about = f"involvedObject.uid={waiting['metadata']['uid']},type=Warning"
        try:
            events = await api.items(f"/api/v1/namespaces/{ref.details['namespace']}/events", fieldSelector=about)
        except ApiError:
            return state  # not everybody may read events
        if events:
            newest = max(events, key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or "")
            rank_of = f"rank {rank}: " if ref.details["nodes"] > 1 else ""
            return state.with_message(f"{rank_of}{newest.get('reason', '')}: {newest.get('message', '').strip()}")
    return state


def _remember(record: Record, seen: Seen) -> None:
    pods = {str(rank): pods[0]["metadata"]["uid"] for rank, pods in seen.pods.items() if pods}
    if pods.items() - record.pods.items():
        record.pods = {**pods, **record.pods}
        record.save()


async def _let_go(api: Api, ref: JobRef, seen: Seen) -> JobState:
    """Tell every pod, once all run, the address of the first: that is what they wait for."""
    first = next(iter(seen.pods.get(0, [])), {})
    address = first.get("status", {}).get("podIP")
    waiting = [p for p in seen.all_pods if MASTER not in (p["metadata"].get("annotations") or {})]
    if not waiting:
        return JobState(JobStatus.RUNNING)
    if not address:
        return JobState(JobStatus.PENDING, message="the first pod has no address yet")
    patch = {"metadata": {"annotations": {MASTER: address}}}
    for pod in waiting:
        path = f"/api/v1/namespaces/{ref.details['namespace']}/pods/{pod['metadata']['name']}"
        try:
            await api.request("PATCH", path, body=patch, kind="merge-patch+json")
        except ApiError as error:
            return JobState(JobStatus.PENDING, message=f"its pods cannot be told where the first one is: {error}")
    return JobState(JobStatus.RUNNING)


async def _copy_code(api: Api, ref: JobRef, seen: Seen) -> None:
    """Copy the code into the pods that wait for it. One that cannot be reached now waits for the next time."""
    source, target = ref.details["archive"]
    for pod in seen.all_pods:
        waiting = pod.get("status", {}).get("initContainerStatuses") or []
        if not any(c.get("name") == INIT_CONTAINER and "running" in c.get("state", {}) for c in waiting):
            continue
        content = await asyncio.to_thread(Path(source).read_bytes)
        command = [ref.details["python"], "-I", "-S", WORKER, "--receive", target, str(len(content))]
        try:
            await api.send(ref.details["namespace"], pod["metadata"]["name"], INIT_CONTAINER, command, content)
        except ApiError as error:
            logger.warning("The code cannot be copied into %s yet: %s", pod["metadata"]["name"], error)


async def fetch_what_can_be(api: Api, ref: JobRef, seen: Seen) -> None:
    """`fetch_logs` where something else must go on, whatever becomes of the logs: a node that is dead gives none."""
    try:
        await fetch_logs(api, ref, seen)
    except ApiError as error:
        logger.warning("Not all output of %s can be read: %s", ref.handle, error)


async def fetch_logs(api: Api, ref: JobRef, seen: Seen) -> None:
    """Bring what the pods wrote to the job's directory.

    Raises:
        ApiError: one of the logs could not be read.
    """
    for rank, pods in seen.pods.items():
        pod = pods[0]
        if not states.has_output(pod):
            continue
        directory = rank_directory(ref, rank)
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        await pod_logs.pull(
            api,
            ref.details["namespace"],
            name,
            uid,
            directory / "stdout.log",
            directory / "log-cursor.json",
            (directory if rank else Path(ref.directory)) / "artifacts",
            final="terminated" in states.container_of(pod).get("state", {}),
        )


def rank_directory(ref: JobRef, rank: int) -> Path:
    """Where a rank's log and exit record are: the job's own directory, where it has one rank only."""
    return Path(ref.directory) / str(rank) if ref.details["nodes"] > 1 else Path(ref.directory)


def write_exits(ref: JobRef, seen: Seen, state: JobState) -> None:
    """Write the exit records of the ranks and of the whole."""
    for rank, pods in seen.pods.items():
        if ref.details["nodes"] == 1 or not pods or not states.is_over(pods[0]):
            continue
        known = states.exit_record(pods[0], ref.key) or {"host": pods[0]["metadata"]["name"]}
        write_exit(rank_directory(ref, rank), states.rank_state(None, pods, ref.key, 0.0), known)
    records = [r for p in seen.all_pods if (r := states.exit_record(p, ref.key))]
    times = {
        "start": min((r["start"] for r in records), default=None),
        "end": max((r["end"] for r in records), default=time.time()),
        "host": records[0]["host"] if records else "",
        "key": ref.key,
    }
    write_exit(Path(ref.directory), state, times)


async def delete(api: Api, ref: JobRef, jobs: Sequence[dict[str, Any]]) -> None:
    """Delete Jobs and their pods, and with the last one the ConfigMap. Those that are gone already are left alone."""
    for job in jobs:
        if job["metadata"].get("deletionTimestamp"):
            continue
        path = f"/apis/batch/v1/namespaces/{ref.details['namespace']}/jobs/{job['metadata']['name']}"
        body = {"propagationPolicy": "Background", "preconditions": {"uid": job["metadata"]["uid"]}}
        try:
            await api.request("DELETE", path, body=body)
        except ApiError as error:
            if error.status not in (404, 409):  # 409: another Job of that name
                raise


def _done(job: dict[str, Any]) -> bool:
    conditions = job.get("status", {}).get("conditions") or []
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)
