"""The one table from what Kubernetes says of a Job and its pod to our states."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from nemo_prefect.executors.kubernetes.manifests import CONTAINER
from nemo_prefect.states import Cause, JobState, JobStatus, ended

#: Why the kubelet does not start a container, and never will without somebody's help.
_HOPELESS = {
    "ErrImageNeverPull": "the image is not on the node, and its pull policy forbids to pull it",
    "InvalidImageName": "the image's name is none",
    "CreateContainerConfigError": "its configuration cannot work",
}
_PULLS = ("ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError")
#: What a registry says of images that no further try will find.
_NO_SUCH_IMAGE = re.compile(r"not found|manifest unknown|denied|unauthorized|invalid reference", re.IGNORECASE)
#: Reasons of a disrupted pod, from its status or from its DisruptionTarget condition, to what happened.
_DISRUPTIONS = {
    "Evicted": Cause.PREEMPTED,
    "Preempting": Cause.PREEMPTED,
    "Preempted": Cause.PREEMPTED,
    "PreemptionByScheduler": Cause.PREEMPTED,
    "PreemptionByKubeScheduler": Cause.PREEMPTED,
    "EvictionByEvictionAPI": Cause.PREEMPTED,
    "TerminationByKubelet": Cause.NODE_FAIL,
    "DeletionByTaintManager": Cause.NODE_FAIL,
    "DeletionByPodGC": Cause.NODE_FAIL,
    "NodeLost": Cause.NODE_FAIL,
    "NodeShutdown": Cause.NODE_FAIL,
    "Shutdown": Cause.NODE_FAIL,
    "Terminated": Cause.NODE_FAIL,
    "NodeAffinity": Cause.NODE_FAIL,
    "UnexpectedAdmissionError": Cause.NODE_FAIL,
    "OutOfcpu": Cause.NODE_FAIL,
    "OutOfmemory": Cause.NODE_FAIL,
    "OutOfpods": Cause.NODE_FAIL,
}
_OWN_FAULT = re.compile(r"ephemeral.storage", re.IGNORECASE)


def rank_state(job: Mapping[str, Any] | None, pods: Sequence[Mapping[str, Any]], key: str, patience: float) -> JobState:
    """The state of one rank.

    Args:
        job: its Job, or None where no answer shows one.
        pods: its pods, the oldest first. There should be one: a second is a replacement that nobody asked for.
        key: the submission's key; termination messages that do not carry it are not ours.
        patience: seconds for which pulling the image may go on failing.
    """
    pod = pods[0] if pods else None
    if pod is not None:
        state = _pod_state(pod, key, patience)
        if state.status is JobStatus.SUCCEEDED:
            return state
    else:
        state = None
    for condition in _conditions(job):
        if condition.get("status") != "True":
            continue
        if condition["type"] == "Failed" and condition.get("reason") == "DeadlineExceeded":
            return JobState(JobStatus.FAILED, Cause.TIMEOUT, message="its active deadline passed")
        if state is None and condition["type"] == "Complete":
            return JobState(JobStatus.SUCCEEDED, exit_code=0, message="its pod was removed before it was looked at")
        if state is None and condition["type"] == "Failed":
            return JobState(JobStatus.FAILED, Cause.PREEMPTED, message=f"its pod is gone: {condition.get('message', '')}")
    if state is not None:
        if state.cause is Cause.PREEMPTED and pod is not None and _deadline_ended(job, pod):
            return JobState(JobStatus.FAILED, Cause.TIMEOUT, message="its active deadline passed")
        return state
    if job is None:
        return JobState(JobStatus.UNKNOWN, Cause.LOST, message="neither its Job nor its pod is in the cluster")
    return JobState(JobStatus.PENDING)


def _deadline_ended(job: Mapping[str, Any] | None, pod: Mapping[str, Any]) -> bool:
    """Whether a pod that is being deleted is so because of its Job's deadline: the Job says it a moment later."""
    seconds = ((job or {}).get("spec") or {}).get("activeDeadlineSeconds")
    started = ((job or {}).get("status") or {}).get("startTime")
    deleted = pod["metadata"].get("deletionTimestamp")  # when it has to be gone: after its grace period
    if not (seconds and started and deleted):
        return False
    return bool(_time(deleted) - _time(started) >= timedelta(seconds=seconds))


def _time(stamp: str | datetime) -> datetime:
    return stamp if isinstance(stamp, datetime) else datetime.fromisoformat(stamp.replace("Z", "+00:00"))


def was_replaced(pods: Sequence[Mapping[str, Any]], first: str) -> bool:
    """Whether the pod with the uid `first` is gone and another one took its place."""
    return bool(first) and bool(pods) and all(p["metadata"]["uid"] != first for p in pods)


def is_over(pod: Mapping[str, Any]) -> bool:
    """Whether nothing of the pod runs any more, nor ever will: a pod that is being deleted starts no container."""
    status = pod.get("status", {})
    if status.get("phase") in ("Succeeded", "Failed"):
        return True
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    running = any("running" in (c.get("state") or {}) for c in containers)
    return bool(pod["metadata"].get("deletionTimestamp")) and not running


def container_of(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """The status of the container that runs the command; empty where there is none yet."""
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return next((c for c in statuses if c.get("name") == CONTAINER), {})


def has_output(pod: Mapping[str, Any]) -> bool:
    """Whether there is a log to read."""
    state = container_of(pod).get("state", {})
    return "running" in state or ("terminated" in state and bool(state["terminated"].get("containerID")))


def exit_record(pod: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """What the command's supervisor left in the container's termination message, or None."""
    try:
        record = json.loads(container_of(pod)["state"]["terminated"]["message"])
    except (KeyError, ValueError, TypeError):
        return None
    return record if isinstance(record, dict) and record.get("key") == key else None


def combine(ranks: Sequence[JobState]) -> JobState:
    """The state of a job from those of its ranks: it fails with the first that fails, and runs once all run."""
    if len(ranks) == 1:
        return ranks[0]
    for index, state in _by_status(ranks, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.UNKNOWN):
        return state.with_message(f"rank {index}: {state.message}" if state.message else f"rank {index}")
    if all(s.status is JobStatus.SUCCEEDED for s in ranks):
        return ranks[0]
    for index, state in _by_status(ranks, JobStatus.PENDING):
        return state.with_message(f"rank {index}: {state.message}" if state.message else f"rank {index} waits")
    return JobState(JobStatus.RUNNING)


def _by_status(ranks: Sequence[JobState], *statuses: JobStatus) -> list[tuple[int, JobState]]:
    found = [(i, s) for status in statuses for i, s in enumerate(ranks) if s.status is status]
    # A rank that failed by itself tells more than those that failed because it was gone.
    return sorted(found, key=lambda pair: (statuses.index(pair[1].status), pair[1].cause.is_infrastructure))


def _pod_state(pod: Mapping[str, Any], key: str, patience: float) -> JobState:
    status = pod.get("status", {})
    state = container_of(pod).get("state", {})
    message = (status.get("message") or "").strip()
    if "terminated" in state:
        found = _terminated(state["terminated"], exit_record(pod, key))
        disruption = _disruption(pod)
        if found.status is JobStatus.FAILED and found.cause is not Cause.OUT_OF_MEMORY and disruption is not Cause.NONE:
            return JobState(JobStatus.FAILED, disruption, found.exit_code, found.signal, message or _why_disrupted(pod))
        return found
    if status.get("phase") == "Failed":
        cause = _disruption(pod)
        if _OWN_FAULT.search(message):
            cause = Cause.NONE
        return JobState(JobStatus.FAILED, cause or Cause.NONE, message=f"{status.get('reason') or 'Failed'}: {message}")
    if pod["metadata"].get("deletionTimestamp"):
        return JobState(JobStatus.FAILED, _disruption(pod), message=message or _why_disrupted(pod))
    if status.get("phase") == "Succeeded":
        return JobState(JobStatus.SUCCEEDED, exit_code=0)
    if status.get("phase") == "Running" and "running" in state:
        return JobState(JobStatus.RUNNING)
    return _waiting(pod, patience)


def _terminated(terminated: Mapping[str, Any], record: Mapping[str, Any] | None) -> JobState:
    code = terminated.get("exitCode")
    reason, message = terminated.get("reason") or "", (terminated.get("message") or "").strip()
    if code == 0:
        return ended(0)
    if reason == "OOMKilled":
        return JobState(JobStatus.FAILED, Cause.OUT_OF_MEMORY, code, message="it used more memory than its limit")
    if record is not None:
        return ended(record["exit_code"], record["signal"], record.get("message", ""))
    if reason in ("ContainerCannotRun", "StartError", "ContainerStatusUnknown"):
        cause = Cause.LOST if reason == "ContainerStatusUnknown" else Cause.LAUNCH_FAILED
        return JobState(JobStatus.FAILED, cause, code, message=f"{reason}: {message}")
    if isinstance(code, int) and code > 128:
        return ended(None, code - 128)
    return ended(code, None, "" if reason == "Error" else reason)


def _disruption(pod: Mapping[str, Any]) -> Cause:
    status = pod.get("status", {})
    if cause := _DISRUPTIONS.get(status.get("reason") or ""):
        return cause
    for condition in status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return _DISRUPTIONS.get(condition.get("reason") or "", Cause.PREEMPTED)
    return Cause.PREEMPTED if pod["metadata"].get("deletionTimestamp") else Cause.NONE


def _why_disrupted(pod: Mapping[str, Any]) -> str:
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition.get("type") == "DisruptionTarget":
            return str(condition.get("message") or condition.get("reason") or "")
    return "its pod was deleted, and not by this experiment"


def _waiting(pod: Mapping[str, Any], patience: float) -> JobState:
    status = pod.get("status", {})
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = container.get("state", {}).get("waiting") or {}
        reason, message = waiting.get("reason") or "", (waiting.get("message") or "").strip()
        text = f"{reason}: {message}" if message else reason
        if reason in _HOPELESS:
            text = f"{text} ({_HOPELESS[reason]})"
            return JobState(JobStatus.FAILED, Cause.LAUNCH_FAILED, message=text)
        if reason in _PULLS:
            image = container.get("image", "")
            text = text if image in text else f"{text} ({image})"
            given_up = age(status.get("startTime")) > patience or _NO_SUCH_IMAGE.search(message)
            if given_up:
                return JobState(JobStatus.FAILED, Cause.LAUNCH_FAILED, message=text)
            return JobState(JobStatus.PENDING, message=text)
        if reason not in ("", "ContainerCreating", "PodInitializing"):
            return JobState(JobStatus.PENDING, message=text)
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return JobState(JobStatus.PENDING, message=f"{condition.get('reason')}: {condition.get('message', '')}")
    return JobState(JobStatus.PENDING)


def says_why(state: JobState) -> bool:
    """Whether a waiting state's message tells more than which rank waits."""
    return bool(state.message) and not re.fullmatch(r"rank \d+ waits", state.message)


def age(timestamp: str | None) -> float:
    """Seconds since a time as Kubernetes writes it. (The clocks of this machine and the cluster's may differ a little.)"""
    if not timestamp:
        return 0.0
    return (datetime.now(timezone.utc) - datetime.fromisoformat(timestamp.replace("Z", "+00:00"))).total_seconds()


def _conditions(job: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    return (job or {}).get("status", {}).get("conditions") or []
