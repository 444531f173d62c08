"""The scripts of a Slurm job, as text: what sbatch hands to the batch host, and what each task runs.

Nothing here touches a file or a cluster. Users' values are in the task's script, which only the user can read: Slurm keeps
copies of batch scripts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nemo_prefect.executors.base import JobRequest, RenderedJob
from nemo_prefect.executors.slurm import options
from nemo_prefect.executors.slurm.states import indices
from nemo_prefect.executors.slurm.templates import MEMBERS, PROLOGUE
from nemo_prefect.launchers import ExecutorMacros, Launcher
from nemo_prefect.shell import check_env, expanding, join, slug

if TYPE_CHECKING:
    from nemo_prefect.executors.slurm.fields import SlurmFields

MACROS = ExecutorMacros(
    head_node_ip_var="head_node_ip",
    nproc_per_node_var="nproc_per_node",
    num_nodes_var="num_nodes",
    node_rank_var="SLURM_NODEID",
    het_group_host_var="het_group_host",
)
_VARIABLES = r"head_node_ip|nproc_per_node|num_nodes|SLURM_NODEID|het_group_host_\d+|FAULT_TOL_CFG_PATH"
#: Seconds that a cancelled job's processes have to end by themselves.
GRACE = 4
#: Seconds that the batch host may take to see what a task on another node wrote.
PATIENCE = 10
#: The exit code of a submission that finds that another one runs its attempt.
DUPLICATE = 111
BATCH, TASK, ENVIRONMENT = "job.sh", "task.sh", "env.sh"


@dataclass(frozen=True)
class RenderedSlurmJob(RenderedJob):
    """What is submitted: sbatch's argument vector, and the scripts by their names in the attempt's directory."""

    files: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return join(self.argv) + "\n" + "".join(f"\n# ---- {name}\n{text}" for name, text in self.files.items())


def render(executor: SlurmFields, request: JobRequest) -> RenderedSlurmJob:
    """A job as it is submitted. `request` reads as on the cluster."""
    members = [_Member(executor, request, n) for n in range(len(request.tasks))]
    files = {BATCH: _batch(executor, request, members), ENVIRONMENT: _environment(members[0].shared())}
    files.update({member.file(TASK): member.task() for member in members})
    return RenderedSlurmJob(argv=tuple(_sbatch(executor, request, members)), files=files)


def job_name(executor: SlurmFields, request: JobRequest) -> str:
    """The job's name on the cluster. It ends in the submission's key, by which the job is found again."""
    title = request.experiment_id.rpartition("_")[0] or request.experiment_id
    prefix = f"{executor.job_name_prefix or ''}{executor.job_details.job_name or ''}"
    parts = [*([prefix] if prefix else []), title, request.job_id, request.key]
    return ".".join(slug(part.strip("."), 60) for part in parts)


def folders(executor: SlurmFields, request: JobRequest) -> list[str]:
    """The directories below the attempt's that have to be there before the job starts."""
    if executor.array:
        return [str(index) for index in indices(executor.array)]
    return [str(n) for n in range(len(request.tasks))] if len(request.tasks) > 1 else []


def parts(executor: SlurmFields, request: JobRequest) -> list[str]:
    """The directories below the attempt's in which logs of their own appear."""
    if executor.array or len(request.tasks) > 1:
        return folders(executor, request)
    member = _Member(executor, request, 0)
    count = member.tasks * executor.nodes
    return [str(n) for n in range(count)] if count > 1 else []


def one_task_per_node(executor: SlurmFields) -> bool:
    """Whether the launcher starts the processes of a node by itself."""
    return executor.model_copy().get_launcher().one_per_node


class _Member:
    """One of the job's tasks: all of them in most jobs, one of several in a group."""

    def __init__(self, main: SlurmFields, request: JobRequest, number: int) -> None:
        own = request.executors[number] if request.executors else main
        self.executor: SlurmFields = own  # type: ignore[assignment]
        self.main, self.request, self.number = main, request, number
        self.alone = len(request.tasks) == 1
        self.launcher: Launcher = self.executor.model_copy().get_launcher()
        self.directory = str(request.directory) if self.alone else str(request.directory / str(number))
        self.tasks = 1 if self.launcher.one_per_node else self.executor.ntasks_per_node
        given = main.het_group_indices
        self.component = (given[number] if given else number) if main.heterogeneous else None

    @property
    def contained(self) -> bool:
        return bool(self.executor.container_image and self.executor.container_runtime)

    @property
    def archive(self) -> str:
        return self.request.archives[self.number] if self.request.archives else ""

    @property
    def cwd(self) -> str:
        if self.archive or self.contained or not self.executor.tunnel.is_local:
            return f"{self.directory}/code"
        return self.request.cwd or os.getcwd()

    @property
    def python(self) -> str:
        here = self.executor.tunnel.is_local and not self.contained
        return self.executor.python or (sys.executable if here else "python3")

    def file(self, name: str) -> str:
        return name if self.alone else f"{self.number}/{name}"

    def shared(self) -> dict[str, str]:
        """The environment of the batch script too, where setup lines and containers may need it."""
        about = {k: v for k, v in self.request.environment().items() if k != "NEMO_PREFECT_KEY"}  # it marks tasks
        return {**self.launcher.environment(), **self.executor.env_vars, **about}

    def task(self) -> str:
        """The script that every task of this member runs."""
        task = self.request.tasks[self.number]
        argv = self.launcher.wrap(
            self.request.command(self.number, self.python),
            nnodes=self.executor.nodes,
            nproc_per_node=self.executor.nproc_per_node(),
            directory=self.directory,
            key=self.request.key if self.alone else f"{self.request.key}-{self.number}",
        )
        env = {
            "PYTHONUNBUFFERED": "1",
            **self.launcher.environment(),
            **self.executor.env_vars,
            **task.script.get("env", {}),
            **self.request.environment(),
        }
        lines = ["#!/bin/sh\n# Every task runs this.\n", _environment(env)]
        if self.python == sys.executable:  # `python` means the interpreter that launched the experiment
            lines.append(f'export PATH={join([os.path.dirname(self.python)])}:"$PATH"\n')
        place = join([self.directory]) + ('/"$SLURM_ARRAY_TASK_ID"' if self.main.array else "")
        signals = " ".join(dict.fromkeys(["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", self.executor.signal_name])).strip()
        lines += [
            f"cd {join([self.cwd])} || exit 1\n",
            f"trap : {signals}  # they are for the task; this shell waits for it\n",
            " ".join(_word(word) for word in argv),
            f'\ncode=$?\necho "$code ${{SLURM_NTASKS:-1}}" > {place}/.ended."${{SLURM_PROCID:-0}}"\nexit $code\n',
        ]
        return "".join(lines)

    def srun(self, *, own_output: str = "") -> str:
        """The command line that runs the tasks.

        Args:
            own_output: the directory below which every task's output goes to its own files.
        """
        group = not self.alone
        words = options.srun(
            self.executor,
            tasks=self.tasks if group else None,
            het_group=self.component,
            overlap=group and self.component is None,
        )
        root = str(self.request.experiment_dir)
        own = [m.replace("/$nemo_run", self.directory) for m in self.executor.container_mounts]
        pyxis, prefix = options.container(self.executor, [f"{root}:{root}", f"{self.directory}:/nemo_run", *own], self.cwd)
        if own_output:
            pattern = own_output.replace("%", "%%")
            words += [f"--output={pattern}/%t/stdout.log", f"--error={pattern}/%t/stderr.log"]
            words.append(f"--open-mode={self.executor.open_mode}")
        elif self.tasks * self.executor.nodes > 1:
            words.append("--label")
        words += [*pyxis, *(self.executor.srun_args or []), *prefix, "sh", f"{self.directory}/{TASK}"]
        return join(words)


def _word(text: str) -> str:
    """A word of a task's command, with its macros looked up by the shell that runs it."""
    expanded = MACROS.substitute(text)
    return expanding(expanded, _VARIABLES) if expanded != text else join([text])


def _environment(env: Mapping[str, str]) -> str:
    check_env(env)
    return "".join(f"export {name}={_word(value)}\n" for name, value in env.items())


def _sbatch(executor: SlurmFields, request: JobRequest, members: list[_Member]) -> list[str]:
    directory = str(request.directory).replace("%", "%%")
    output = f"{directory}/%a" if executor.array else directory
    words = ["sbatch", "--parsable", f"--job-name={job_name(executor, request)}", *options.common(executor)]
    words += [f"--output={output}/stdout.log", f"--error={output}/stderr.log"]
    components: dict[int, _Member] = {}
    for member in members:
        components.setdefault(member.component or 0, member)
    for number, member in sorted(components.items()):
        words += [*([":"] if number else [])]
        words += options.resources(member.executor, one_task_per_node=member.launcher.one_per_node)
    return [*words, str(request.directory / BATCH)]


def _batch(executor: SlurmFields, request: JobRequest, members: list[_Member]) -> str:
    first = members[0]
    directory = join([str(request.directory)]) + ('/"$SLURM_ARRAY_TASK_ID"' if executor.array else "")
    names = [n for n in dict.fromkeys([executor.signal_name, "USR2"]) if n not in ("", "TERM", "KILL", "STOP")]
    text = PROLOGUE.format(
        title=f"{slug(request.experiment_id)}, job {slug(request.job_id)}, attempt {request.attempt}",
        directory=directory,
        duplicate=DUPLICATE,
        attempt=request.attempt,
        key=request.key,
        grace=GRACE,
        patience=PATIENCE,
        root=join([str(request.directory)]),
        traps="; ".join(f"trap 'pass_on {name}' {name}" for name in names),
    )
    text += f"\n. {join([str(request.directory / ENVIRONMENT)])}\n" + _nodes(executor, members)
    for member in members:
        text += _code(member)
    text += f"cd {join([first.cwd])} || fail 'its working directory is not there'\n"
    if executor.setup_lines:
        text += "\n" + executor.setup_lines.rstrip("\n") + "\n"
    if executor.memory_measure:
        text += _memory(executor, request)
    return text + (_alone(executor, request, first) if first.alone else _together(executor, members))


def _alone(executor: SlurmFields, request: JobRequest, member: _Member) -> str:
    count = member.tasks * executor.nodes
    apart = count > 1 and not executor.array
    text = "\n"
    if apart:
        text += f'for n in $(seq 0 {count - 1}); do mkdir -p "$dir/$n"; done\n'
    for folder in member.launcher.folders(member.directory):
        text += f"mkdir -p {join([folder])}\n"
    return (
        text + f'{member.srun(own_output=member.directory if apart else "")} &\nchildren=$!\nawait "$children"; code=$?\n'
        '[ "$code$terminated" != 0 ] || proven "$dir" || finish 1 "$unproven"\n'
        'finish "$code"\n'
    )


def _together(executor: SlurmFields, members: list[_Member]) -> str:
    text = MEMBERS.replace("{monitor}", "1" if executor.monitor_group_job else "")
    for member in members:
        made = "".join(f"mkdir -p {join([folder])}; " for folder in member.launcher.folders(member.directory))
        text += f"run_{member.number}() {{ {made}exec {member.srun()}; }}\n"
    last = len(members) - 1
    return text + (
        f"\nfor n in $(seq 0 {last}); do\n"
        '  [ -z "$failed$terminated" ] || { record "$dir/$n" 143 "" true; continue; }\n'
        '  ( launch "$n" ) &\n'
        '  pids[$n]=$! children="$children $!" left="$left $n"\n'
        f"  [ $n = {last} ] || for _ in $(seq {executor.wait_time_for_group_job}); do"
        ' [ -n "$failed$terminated" ] || pause 1; done\n'
        "done\n"
        'while [ -n "$left" ]; do\n'
        "  pause 0.5\n"
        '  [ -z "$last" ] || [ "$SECONDS" -lt "$last" ] || break  # what is left ends with the job\n'
        "done\n"
        'for n in $left; do record "$dir/$n" 137 "" true; done\n'
        'finish "${failed:-0}" "${message:-}"\n'
    )


def _nodes(executor: SlurmFields, members: list[_Member]) -> str:
    """What tasks find of the job's nodes."""
    text = f'export num_nodes="${{SLURM_JOB_NUM_NODES:-1}}" nproc_per_node={executor.nproc_per_node()}\n'
    alone = members[0].alone
    if alone and executor.nodes == 1 and not executor.array:
        return text + "export head_node_ip=$(hostname -I 2>/dev/null | cut -d' ' -f1)\n: \"${head_node_ip:=127.0.0.1}\"\n"
    text += (
        'first_of() { scontrol show hostnames "$1" | head -n 1; }\n'
        "address_of() { scontrol show node -o \"$1\" | sed -n 's/.* NodeAddr=\\([^ ]*\\) .*/\\1/p'; }\n"
        'head_node=$(first_of "${SLURM_JOB_NODELIST_HET_GROUP_0:-$SLURM_JOB_NODELIST}")\n'
        'head_node_ip=$(address_of "$head_node"); export head_node_ip="${head_node_ip:-$head_node}"\n'
    )
    for number in sorted({m.component if m.component is not None else m.number for m in members} if not alone else set()):
        own = (
            f'$(address_of "$(first_of "$SLURM_JOB_NODELIST_HET_GROUP_{number}")")'
            if executor.heterogeneous
            else "$head_node_ip"
        )
        text += f'export het_group_host_{number}="{own}"\n'
    return text


def _code(member: _Member) -> str:
    """Where the task runs: its code unpacked, once."""
    place = f"{member.directory}/code"
    if member.cwd != place:
        return ""
    if not member.archive:
        return f"mkdir -p {join([place])}\n"
    target, fresh = join([place]), join([f"{place}.new"])
    return (
        f"if [ ! -d {target} ]; then\n"
        f"  rm -rf {fresh}; mkdir -p {fresh} && tar -xzf {join([member.archive])} -C {fresh} && mv {fresh} {target} ||\n"
        "    fail 'its code could not be unpacked'\n"
        "fi\n"
    )


def _memory(executor: SlurmFields, request: JobRequest) -> str:
    query = ["nvidia-smi", "--query-gpu=timestamp,index,memory.total,memory.free,memory.used", "--format=csv", "-l", "60"]
    words = ["srun", "--overlap", f"--nodes={executor.nodes}", "--ntasks-per-node=1", "--label", *query]
    return f"{join(words)} >> {join([str(request.directory / 'gpu-memory.csv')])} 2>&1 &\n"
