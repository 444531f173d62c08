"""What users set of a Slurm job: every field of NeMo-Run's, checked when it is set."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, field_validator

from nemo_prefect.errors import ConfigError
from nemo_prefect.executors.base import Executor
from nemo_prefect.polymorphic import Polymorphic
from nemo_prefect.transport import LocalTunnel, Tunnel

_TIME = re.compile(r"(\d+|\d+:\d+(:\d+)?|\d+-\d+(:\d+){0,2}|INFINITE|UNLIMITED)", re.IGNORECASE)
_ARRAY = re.compile(r"\d+(-\d+(:\d+)?)?(,\d+(-\d+(:\d+)?)?)*(%\d+)?")
_SIGNAL = re.compile(r"(R?B?:)?([A-Z0-9]+)(@\d+)?")
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
#: sbatch options that are this package's own.
_OURS = {
    "array", "chdir", "D", "error", "e", "h", "help", "J", "job-name", "no-requeue", "o", "output", "parsable", "requeue",
    "test-only", "usage", "version", "V", "W", "wait", "wrap",
}  # fmt: skip


class SlurmJobDetails(Polymorphic):
    """Names that NeMo-Run lets users change. Logs are in the attempt's directory, whatever the job is called."""

    job_name: str | None = Field(default=None, description="Put in front of the job's name.")
    folder: str | None = Field(default=None, description="Accepted for NeMo-Run's sake.")


class SlurmFields(Executor):
    """The fields of `SlurmExecutor`. Those without a word about it are passed to sbatch as they are."""

    account: str = Field(description="The account that is charged.")
    partition: str | None = Field(default=None, description="The partition, or several with commas between.")
    job_name_prefix: str | None = Field(default=None, description="Put in front of the job's name.")
    time: str = Field(default="00:10:00", description="The time limit: minutes, HH:MM:SS or D-HH:MM:SS.")
    nodes: int = Field(default=1, ge=1, description="How many nodes the job spans.")
    ntasks_per_node: int = Field(default=1, ge=1, description="How many tasks run on each; with torchrun, its ranks.")
    cpus_per_task: int | None = Field(default=None, ge=1, description="CPUs of each task.")
    cpus_per_gpu: int | None = Field(default=None, ge=1, description="CPUs for each GPU.")
    gpus_per_node: int | None = Field(default=None, ge=0, description="GPUs of each node.")
    gpus_per_task: int | None = Field(default=None, ge=0, description="GPUs of each task.")
    qos: str | None = Field(default=None, description="The quality of service.")
    mem: str | None = Field(default=None, description="Memory of each node: MiB, or with a unit, such as 32G.")
    mem_per_gpu: str | None = Field(default=None, description="Memory for each GPU: MiB, or with a unit.")
    mem_per_cpu: str | None = Field(default=None, description="Memory for each CPU: MiB, or with a unit.")
    comment: str | None = Field(default=None, description="A comment on the job.")
    constraint: str | None = Field(default=None, description="Features that the nodes must have.")
    exclude: str | None = Field(default=None, description="Nodes to keep away from.")
    gres: str | None = Field(default=None, description="Generic resources of each node.")
    signal: str | None = Field(
        default=None,
        description="The signal that tasks get before the time limit, and how many seconds before it: USR2@120. With B: in "
        "front Slurm gives it to the batch script, which passes it on.",
    )
    exclusive: bool | str | None = Field(default=None, description="Whether the job has its nodes for itself.")
    array: str | None = Field(default=None, description="Indices of an array, such as 0-15%4: the task runs once for each.")
    open_mode: Literal["append", "truncate"] = Field(default="append", description="What becomes of logs that exist.")
    container_image: str | None = Field(default=None, description="The image in which tasks run.")
    container_mounts: list[str] = Field(
        default_factory=list, description="Mounts, SOURCE:TARGET[:FLAGS]; /$nemo_run is the attempt's directory."
    )
    container_env: list[str] | None = Field(
        default=None, description="Variables that keep the job's value where the image has one of its own."
    )
    container_runtime: Literal["pyxis", "apptainer"] | None = Field(
        default="pyxis", description="What runs containers on this cluster; None where nothing does: tasks run without."
    )
    additional_parameters: dict[str, Any] | None = Field(
        default=None, description="More options of sbatch by their long names; True for one that takes no value."
    )
    srun_args: list[str] | None = Field(default=None, description="More arguments of srun.")
    heterogeneous: bool = Field(default=False, description="Give each of a group's members nodes of its own.")
    memory_measure: bool = Field(default=False, description="Write the GPUs' memory to the log every 60 s (nvidia-smi).")
    job_details: SerializeAsAny[SlurmJobDetails] = Field(default_factory=SlurmJobDetails, description="Names of the job.")
    tunnel: SerializeAsAny[Tunnel] = Field(
        default_factory=LocalTunnel, description="The way to the cluster's login node; by default this machine is one."
    )
    dependencies: list[str] = Field(
        default_factory=list, description="Ids of Slurm jobs outside the experiment to wait for."
    )
    dependency_type: Literal["afterok", "afterany", "afternotok"] = Field(
        default="afterok", description="How jobs that this one depends on must have ended."
    )
    torchrun_nproc_per_node: int | None = Field(default=None, ge=1, description="Ranks that torchrun starts on each node.")
    wait_time_for_group_job: int = Field(default=30, ge=0, description="Seconds between the starts of a group's members.")
    monitor_group_job: bool = Field(default=True, description="End a group's other members when one fails.")
    monitor_group_job_wait_time: int = Field(
        default=60, ge=0, description="Accepted for NeMo-Run's sake: a member's failure is seen within a second."
    )
    setup_lines: str | None = Field(default=None, description="Shell lines that the batch script runs before the task.")
    het_group_indices: list[int] | None = Field(
        default=None, description="Which component of a heterogeneous job each of a group's members runs in."
    )
    segment: int | None = Field(default=None, ge=1, description="Nodes of each segment (block topologies).")
    network: str | None = Field(default=None, description="What the job needs of the network.")
    ray_template: str = Field(default="ray.sub.j2", description="Accepted for NeMo-Run's sake.")
    poll_estimated_start_time: bool = Field(
        default=True, description="Show when Slurm expects a waiting job to start; it costs no query."
    )
    infra_retries: int = Field(
        default=2,
        ge=0,
        description="New attempts after a lost node, a preemption or a lost job; with requeue=slurm none, Slurm sees to it.",
    )
    requeue: Literal["prefect", "slurm"] = Field(
        default="prefect",
        description="Who runs a job again that lost its node or was preempted: prefect submits a new attempt, slurm "
        "requeues the same job.",
    )
    submit_as: Literal["jobs", "array"] = Field(
        default="jobs",
        description="Whether each job is a submission, or those that become ready together are one array: for sweeps. Each "
        "has its own state, logs and retries either way.",
    )
    python: str | None = Field(
        default=None,
        description="The interpreter for Python calls; by default the launching one, in containers and over SSH python3.",
    )

    executor_name: ClassVar[str] = "slurm"

    @field_validator("*")
    @classmethod
    def _check_text(cls, value: Any, info: Any) -> Any:
        if info.field_name in ("setup_lines", "env_vars", "packager", "launcher", "tunnel", "job_details"):
            return value
        for text in _texts(value):
            if bad := _CONTROL.search(text):
                raise ConfigError(
                    f"{info.field_name}={text!r} holds the control character {bad.group()!r}.", hint="Remove it."
                )
        return value

    @field_validator("account", "partition", "qos", "constraint", "exclude", "gres", "mem", "mem_per_gpu", "mem_per_cpu")
    @classmethod
    def _check_value(cls, value: str | None, info: Any) -> str | None:
        if value is not None and (not value.strip() or re.search(r"[\s'\"`;]", value)):
            raise ConfigError(
                f"{info.field_name}={value!r} cannot be right.", hint="Slurm's own names hold no blank and no quote."
            )
        return value

    @field_validator("time")
    @classmethod
    def _check_time(cls, value: str) -> str:
        if not _TIME.fullmatch(value):
            raise ConfigError(
                f"time={value!r} is no time limit of Slurm's.", hint="Write minutes, HH:MM:SS or D-HH:MM:SS: 04:00:00."
            )
        return value

    @field_validator("array")
    @classmethod
    def _check_array(cls, value: str | None) -> str | None:
        if value is not None and not _ARRAY.fullmatch(value):
            raise ConfigError(f"array={value!r} names no indices.", hint="Write 0-15, 1,3,5 or 0-15%4.")
        return value

    @field_validator("signal")
    @classmethod
    def _check_signal(cls, value: str | None) -> str | None:
        if value is not None and not _SIGNAL.fullmatch(value):
            raise ConfigError(f"signal={value!r} is none of Slurm's.", hint="Write USR2@120, or B:USR2@120.")
        return value

    @field_validator("additional_parameters")
    @classmethod
    def _check_parameters(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        for name in value or {}:
            if not _OPTION.fullmatch(name):
                raise ConfigError(f"{name!r} is no option of sbatch.", hint="Give its long name without the dashes.")
            if name.replace("_", "-") in _OURS:
                raise ConfigError(
                    f"additional_parameters may not set {name!r}: this executor does, or has a field for it.",
                    hint="Remove it.",
                )
        return value

    @field_validator("dependencies")
    @classmethod
    def _check_dependencies(cls, value: list[str]) -> list[str]:
        for job in value:
            if not re.fullmatch(r"\d+([_+]\d+)?", job):
                raise ConfigError(
                    f"{job!r} is no id of a Slurm job.", hint="Jobs of the experiment go to add(dependencies=[...])."
                )
        return value

    @field_validator("het_group_indices")
    @classmethod
    def _check_indices(cls, value: list[int] | None) -> list[int] | None:
        if value and (value[0] != 0 or any(b - a not in (0, 1) for a, b in pairwise(value))):
            raise ConfigError(f"het_group_indices={value} must count up from 0.", hint="For instance [0, 0, 1].")
        return value

    @property
    def signal_name(self) -> str:
        """The signal before the time limit, without SIG, or ""."""
        found = _SIGNAL.fullmatch(self.signal or "")
        return found[2].removeprefix("SIG") if found else ""


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [t for pair in value.items() for part in pair for t in _texts(part)]
    if isinstance(value, (list, tuple)):
        return [t for part in value for t in _texts(part)]
    return []
