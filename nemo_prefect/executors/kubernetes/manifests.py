"""The objects of a job: a ``batch/v1`` Job for each node and one ConfigMap with the job's files.

Everything here is pure: an executor and a request in, dictionaries out. Why a Job for each node: Indexed Jobs came with
Kubernetes 1.21, and a Job of its own gives every rank a name, a state and an end of its own on every version.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nemo_prefect.errors import ConfigError, SubmissionError
from nemo_prefect.executors.base import WORKER_DIR, JobRequest, RenderedJob
from nemo_prefect.executors.kubernetes.merge import strategic_merge
from nemo_prefect.external_main import FILE as MAIN
from nemo_prefect.launchers import ExecutorMacros
from nemo_prefect.script import RUNDIR_NAME, Script
from nemo_prefect.shell import slug

if TYPE_CHECKING:
    from nemo_prefect.executors.kubernetes.executor import KubernetesExecutor

#: Prefix of our labels and annotations.
DOMAIN = "nemo-prefect.io"
KEY, RANK = f"{DOMAIN}/key", f"{DOMAIN}/rank"
MANAGED_BY = {"app.kubernetes.io/managed-by": "nemo-prefect"}
#: The annotation with the first pod's address, and where a pod finds it.
MASTER = f"{DOMAIN}/master-addr"
POD_DIR = "/nemo_prefect_pod"
#: Where a pod finds the job's files, read-only, and where they are copied to.
SOURCE = "/nemo_prefect"
ROOT = f"/{RUNDIR_NAME}"
CONTAINER = "job"
JOB_FILE = "job.json"
#: Bytes of packed code that still go into the ConfigMap.
CODE_LIMIT = 700_000
#: The init container that waits for code too large for that, and how it is told to take it.
INIT_CONTAINER = "nemo-prefect-code"
WORKER = f"{SOURCE}/{WORKER_DIR}/pod.py"
#: Bytes that one ConfigMap may hold. (The API allows 1 MiB, names included.)
CONFIG_MAP_LIMIT = 900_000
#: Variables in which a pod is told of its nodes.
MACROS = ExecutorMacros(
    head_node_ip_var="MASTER_ADDR",
    nproc_per_node_var="NPROC_PER_NODE",
    num_nodes_var="NUM_NODES",
    node_rank_var="NODE_RANK",
    het_group_host_var="het_group_host",
)


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


@dataclass(frozen=True)
class RenderedManifests(RenderedJob):
    """What will be created, as YAML."""

    manifests: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        documents = [yaml.dump(m, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True) for m in self.manifests]
        return "".join(f"# {note}\n" for note in self.notes) + "---\n".join(documents)


def job_name(request: JobRequest, rank: int, nodes: int) -> str:
    """The Job's name: the same for the same attempt, valid whatever the job is called, and short enough that a pod's name,
    which adds six characters, still is one. The key in it is what makes a second submission collide with the first."""
    readable = re.sub(r"[^a-z0-9]+", "-", request.job_id.lower()).strip("-")[:30].strip("-") or "job"
    if not readable[0].isalpha():
        readable = f"j-{readable}"
    return f"{readable}-{request.key}" + (f"-{rank}" if nodes > 1 else "")


def label(text: str) -> str:
    """`text` as a label's value: at most 63 letters, digits and ``._-``, made unique by a digest where it had to change."""
    safe = slug(text, 63)
    return safe if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", safe) else _digest(text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def selector(request_key: str) -> str:
    """The label selector that finds everything of one attempt."""
    return f"{KEY}={request_key}"


def files_of(request: JobRequest) -> dict[str, str]:
    """The job's files: where they are below the experiment's directory, by the ConfigMap's key."""
    root = request.experiment_dir
    names = [f"{WORKER_DIR}/{name}" for name in ("run.py", "supervise.py", "pod.py")]
    if any(request.payloads) and (root / MAIN).exists():
        names.append(MAIN)
    copied = copied_archive(request)
    names += [
        os.path.relpath(p, root) for p in (*request.scripts, *request.payloads, *request.archives) if p not in ("", copied)
    ]
    return {f"f{index}-{slug(os.path.basename(name), 60)}": name for index, name in enumerate(names)}


def copied_archive(request: JobRequest) -> str:
    """The packed code, where it is too large for a ConfigMap: it is copied into the pods, by an init container that waits
    for it. Else ""."""
    archive = next((path for path in request.archives if path), "")
    return archive if archive and os.path.exists(archive) and os.path.getsize(archive) > CODE_LIMIT else ""


def rendered(executor: KubernetesExecutor, request: JobRequest) -> RenderedManifests:
    """Everything that `launch` will create, with the contents of files left out."""
    command = _command(executor, request)
    shown = executor.num_nodes if executor.num_nodes <= 2 else 1
    jobs = [job(executor, request, command, rank) for rank in range(shown)]
    held = config_map(executor, request, command)
    held["data"] |= {key: f"<the file {name}>\n" for key, name in files_of(request).items()}
    notes = ["the code: " + _travels(request)]
    if executor.num_nodes > 1:
        notes.append(f"all {executor.num_nodes} pods start their command together, once each of them runs")
    if shown < executor.num_nodes:
        notes.append(f"the Jobs of the ranks 1 to {executor.num_nodes - 1} differ from that of rank 0 in the rank only")
    return RenderedManifests(command.argv, command.env, command.cwd, (*jobs, held), tuple(notes))


def _travels(request: JobRequest) -> str:
    if not any(request.archives):
        return "what the image holds; the task's own files from a ConfigMap"
    small, large = "in a ConfigMap", "copied over exec into an init container of each pod"
    if not os.path.exists(next(path for path in request.archives if path)):
        return f"packed; {small} up to {CODE_LIMIT // 1000} kB, else {large}"
    return f"packed; {large if copied_archive(request) else small}"


def _command(executor: KubernetesExecutor, request: JobRequest) -> RenderedJob:
    inside = request.relocated(ROOT)
    task = request.tasks[0]
    launcher = executor.model_copy().get_launcher()
    argv = launcher.wrap(
        inside.command(0, executor.python),
        nnodes=executor.nnodes(),
        nproc_per_node=executor.nproc_per_node(),
        directory=str(inside.directory),
        key=request.key,
    )
    nodes = {
        MACROS.num_nodes_var: str(executor.num_nodes),
        MACROS.nproc_per_node_var: str(executor.nproc_per_node()),
        "MASTER_PORT": str(executor.master_port),
    }
    told = {"PYTHONUNBUFFERED": "1", **launcher.environment()}
    script_env = Script(**task.script).env if task.kind == "script" else {}
    env = {**nodes, **told, **executor.env_vars, **script_env, **inside.environment()}
    # What only the pod will know is filled in there.
    inside_only = {name: "{{" + name + "}}" for name in (MACROS.head_node_ip_var, MACROS.node_rank_var)}
    hosts = {MACROS.het_group_host_var: "{{MASTER_ADDR}}"}
    cwd = str(inside.directory / "code") if any(request.archives) else ""
    return MACROS.apply(RenderedJob(tuple(argv), env, cwd), {**nodes, **inside_only, **hosts})


def config_map(executor: KubernetesExecutor, request: JobRequest, command: RenderedJob | None = None) -> dict[str, Any]:
    """The ConfigMap, with the job's description but without its other files."""
    command = command or _command(executor, request)
    inside = request.relocated(ROOT)
    launcher = executor.model_copy().get_launcher()
    description = {
        "key": request.key,
        "argv": list(command.argv),
        "cwd": command.cwd,
        "root": ROOT,
        "files": list(files_of(request).values()),
        "directory": str(inside.directory),
        "archive": inside.archives[0] if any(inside.archives) else "",
        "folders": launcher.folders(str(inside.directory)),
        "grace": executor.grace_period,
        "nodes": executor.num_nodes,
        "gate": f"{POD_DIR}/master-addr",
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(executor, request, config_map_name(executor, request)),
        "data": {JOB_FILE: json.dumps(description, indent=1)},
    }


def config_map_name(executor: KubernetesExecutor, request: JobRequest) -> str:
    """The ConfigMap's name: that of the Job of rank 0."""
    return job_name(request, 0, executor.num_nodes)


def fill(manifest: dict[str, Any], request: JobRequest) -> None:
    """Put the files into a ConfigMap.

    Raises:
        SubmissionError: they are too large for one, or cannot be read.
    """
    size = 0
    try:
        for key, name in files_of(request).items():
            content = (Path(request.experiment_dir) / name).read_bytes()
            size += len(content)
            try:
                manifest["data"][key] = content.decode()
            except UnicodeDecodeError:
                manifest.setdefault("binaryData", {})[key] = base64.b64encode(content).decode()
    except OSError as error:
        raise SubmissionError(f"The job's files cannot be read: {error}.", hint="Run the experiment anew.") from error
    if size > CONFIG_MAP_LIMIT:
        raise SubmissionError(
            f"The job's files are {size:,} bytes; a ConfigMap holds {CONFIG_MAP_LIMIT:,}.",
            hint="Pack less (a packager's include patterns), or put the code into the image or on a volume.",
        )


def job(
    executor: KubernetesExecutor, request: JobRequest, command: RenderedJob | None = None, rank: int = 0
) -> dict[str, Any]:
    """The Job of one rank."""
    command = command or _command(executor, request)
    metadata = _metadata(executor, request, job_name(request, rank, executor.num_nodes))
    labels = {**metadata["labels"], RANK: str(rank)}
    spec: dict[str, Any] = {
        "backoffLimit": 0,
        "parallelism": 1,
        "completions": 1,
        "ttlSecondsAfterFinished": executor.ttl_seconds_after_finished,
    }
    if executor.active_deadline is not None:
        spec["activeDeadlineSeconds"] = executor.active_deadline
    spec |= executor.spec_kwargs
    spec["template"] = {
        "metadata": {
            "labels": {**executor.pod_labels, **labels},
            "annotations": {**executor.pod_annotations, **metadata["annotations"]},
        },
        "spec": strategic_merge(_pod_spec(executor, request, command, rank), executor.pod_spec_overrides),
    }
    _check(spec)
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {**metadata, "labels": labels}, "spec": spec}


def _check(spec: dict[str, Any]) -> None:
    """Refuse overrides under which a task could run twice or unwatched."""
    if spec.get("backoffLimit") != 0 or spec["template"]["spec"].get("restartPolicy") != "Never":
        raise ConfigError(
            "The cluster must not restart a job by itself: backoffLimit is 0 and restartPolicy Never.",
            hint="Set the executor's retries: each is an attempt of its own, with its own log.",
        )
    if not any(c.get("name") == CONTAINER for c in spec["template"]["spec"].get("containers", [])):
        raise ConfigError(f"The container {CONTAINER!r} was overridden away.", hint="Keep its name.")


def _metadata(executor: KubernetesExecutor, request: JobRequest, name: str) -> dict[str, Any]:
    labels = {
        **executor.labels,
        **MANAGED_BY,
        KEY: request.key,
        f"{DOMAIN}/experiment": label(request.experiment_id),
        f"{DOMAIN}/job": label(request.job_id),
        f"{DOMAIN}/attempt": str(request.attempt),
    }
    told = {f"{DOMAIN}/experiment-id": request.experiment_id, f"{DOMAIN}/job-id": request.job_id}
    annotations = {**executor.annotations, **told}
    return {"name": name, "namespace": executor.namespace, "labels": labels, "annotations": annotations}


def _pod_spec(executor: KubernetesExecutor, request: JobRequest, command: RenderedJob, rank: int) -> dict[str, Any]:
    items = [{"key": JOB_FILE, "path": JOB_FILE}, *({"key": k, "path": p} for k, p in files_of(request).items())]
    volumes: list[dict[str, Any]] = [
        {"name": "nemo-prefect", "configMap": {"name": config_map_name(executor, request), "items": items}},
    ]
    mounts = [{"name": "nemo-prefect", "mountPath": SOURCE, "readOnly": True}]
    if executor.workdir_pvc:
        volumes.append({"name": "nemo-run", "persistentVolumeClaim": {"claimName": executor.workdir_pvc}})
        below = f"{label(request.experiment_id)}/{request.key}-{rank}"
        mounts.append({"name": "nemo-run", "mountPath": ROOT, "subPath": below})
    else:
        volumes.append({"name": "nemo-run", "emptyDir": {}})
        mounts.append({"name": "nemo-run", "mountPath": ROOT})
    if executor.num_nodes > 1:
        field = {"fieldPath": f"metadata.annotations['{MASTER}']"}
        volumes.append({"name": "nemo-pod", "downwardAPI": {"items": [{"path": "master-addr", "fieldRef": field}]}})
        mounts.append({"name": "nemo-pod", "mountPath": POD_DIR, "readOnly": True})
    if executor.shm_size:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": executor.shm_size}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": executor.image,
        "imagePullPolicy": executor.image_pull_policy,
        "command": [executor.python, "-I", "-S", WORKER, f"{SOURCE}/{JOB_FILE}"],
        "env": [
            *({"name": name, "value": _literal(value)} for name, value in command.env.items()),
            {"name": MACROS.node_rank_var, "value": str(rank)},
            *_own_address(executor),
            *executor.env_list,
        ],
        "resources": _resources(executor),
        "volumeMounts": [*mounts, *executor.volume_mounts],
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": executor.grace_period,
        "enableServiceLinks": False,
        "containers": [strategic_merge(container, executor.container_kwargs)],
        "volumes": [*volumes, *executor.volumes],
    }
    if archive := copied_archive(request):
        waiting: dict[str, Any] = {name: container[name] for name in ("image", "imagePullPolicy", "resources")}
        target = f"{ROOT}/{os.path.relpath(archive, request.experiment_dir)}"
        waiting |= {"name": INIT_CONTAINER, "volumeMounts": mounts}
        waiting["command"] = [executor.python, "-I", "-S", WORKER, "--await", target]
        spec["initContainers"] = [waiting]
    optional = {
        "nodeSelector": executor.node_selector,
        "tolerations": executor.tolerations,
        "affinity": executor.affinity,
        "serviceAccountName": executor.service_account,
        "priorityClassName": executor.priority_class,
        "imagePullSecrets": [{"name": name} for name in executor.image_pull_secrets],
    }
    return spec | {name: value for name, value in optional.items() if value}


def _resources(executor: KubernetesExecutor) -> dict[str, Any]:
    gpus = {"nvidia.com/gpu": str(executor.gpus_per_node)} if executor.gpus_per_node else {}
    requests = {"cpu": executor.cpu_requests, "memory": executor.memory_requests, **gpus}
    limits = {"cpu": executor.cpu_limits, "memory": executor.memory_limits, **gpus}
    asked = {
        "requests": {k: v for k, v in {**requests, **executor.extra_resource_requests}.items() if v},
        "limits": {k: v for k, v in {**limits, **executor.extra_resource_limits}.items() if v},
    }
    return {kind: amounts for kind, amounts in asked.items() if amounts}


def _own_address(executor: KubernetesExecutor) -> list[dict[str, Any]]:
    """Under which address torchrun tells the other pods of its own: a pod's name means nothing to them."""
    if executor.num_nodes == 1:
        return []
    return [{"name": "PET_LOCAL_ADDR", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]


def _literal(value: str) -> str:
    """`value` so that Kubernetes, which expands ``$(NAME)`` and halves ``$$``, leaves it as it was."""
    return value.replace("$", "$$") if "$(" in value or "$$" in value else value
