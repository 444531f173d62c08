"""From fields to the words of ``sbatch`` and ``srun``. Options are arguments, never ``#SBATCH`` lines: a newline in a value
would end such a line, and the rest would run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nemo_prefect.executors.slurm.fields import SlurmFields

#: Options that describe the whole submission; the others may differ between components of a heterogeneous job.
_COMMON = ("comment", "array")
_EACH = (
    "account", "time", "partition", "nodes", "ntasks_per_node", "cpus_per_task", "cpus_per_gpu", "gpus_per_node",
    "gpus_per_task", "qos", "mem", "mem_per_gpu", "mem_per_cpu", "constraint", "exclude", "gres", "exclusive", "segment",
    "network",
)  # fmt: skip


def common(executor: SlurmFields) -> list[str]:
    """What goes before the first component's resources."""
    words = _words(executor, _COMMON)
    words += ["--requeue" if executor.requeue == "slurm" else "--no-requeue", "--kill-on-invalid-dep=yes"]
    words.append(f"--open-mode={executor.open_mode}")
    if executor.signal:
        words.append(f"--signal={executor.signal}")
    if executor.dependencies:
        words.append(f"--dependency={executor.dependency_type}:{':'.join(executor.dependencies)}")
    return words


def resources(executor: SlurmFields, *, one_task_per_node: bool) -> list[str]:
    """What one component asks for."""
    values = {"ntasks_per_node": 1} if one_task_per_node else {}
    words = _words(executor, _EACH, **values)
    for name, value in (executor.additional_parameters or {}).items():
        words += _word(name, value)
    return words


def _words(executor: SlurmFields, names: tuple[str, ...], **other: Any) -> list[str]:
    return [word for name in names for word in _word(name, other.get(name, getattr(executor, name)))]


def _word(name: str, value: Any) -> list[str]:
    if value is None or value is False:
        return []
    dashes = "-" if len(name) == 1 else "--"
    option = dashes + name.replace("_", "-")
    if value is True:
        return [option]
    return [option, str(value)] if dashes == "-" else [f"{option}={value}"]


def srun(
    executor: SlurmFields, *, tasks: int | None = None, het_group: int | None = None, overlap: bool = False
) -> list[str]:
    """``srun`` and its options, without those for containers.

    Args:
        executor: whose fields count.
        tasks: tasks on each node, where it is not what the job was submitted with.
        het_group: the component of a heterogeneous job to run in.
        overlap: share the job's CPUs with the other steps.
    """
    words = ["srun", "--kill-on-bad-exit=1", "--wait=60"]
    if executor.cpus_per_task is not None:  # since Slurm 22.05 steps do not take this over by themselves
        words.append(f"--cpus-per-task={executor.cpus_per_task}")
    if tasks is not None:
        words += [f"--nodes={executor.nodes}", f"--ntasks={executor.nodes * tasks}", f"--ntasks-per-node={tasks}"]
    if het_group is not None:
        words.append(f"--het-group={het_group}")
    if overlap:
        words.append("--overlap")
    return words


def container(executor: SlurmFields, mounts: list[str], workdir: str) -> tuple[list[str], list[str]]:
    """What runs a task in its container: options of srun, and words before the task's command.

    Args:
        executor: whose fields count.
        mounts: ``SOURCE:TARGET`` for what every job needs.
        workdir: the working directory in the container.
    """
    if not executor.container_image or executor.container_runtime is None:
        return [], []
    if executor.container_runtime == "apptainer":
        binds = [word for mount in mounts for word in ("--bind", mount)]
        return [], ["apptainer", "exec", *binds, "--pwd", workdir, executor.container_image]
    words = [
        f"--container-image={executor.container_image}",
        f"--container-mounts={','.join(mounts)}",
        f"--container-workdir={workdir}",
    ]
    if executor.container_env:
        words.append(f"--container-env={','.join(executor.container_env)}")
    return words, []
