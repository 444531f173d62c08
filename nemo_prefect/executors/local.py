"""Jobs as processes on this machine.

Each job is a process in a session of its own, started through `worker/supervise.py`: it outlives whoever launched it,
writes an exit record when it ends, and takes everything that it started with it when it is cancelled.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, HttpUrl

from nemo_prefect.errors import ConfigError, SubmissionError
from nemo_prefect.executors.base import WORKER_DIR, Executor, JobRequest, RenderedJob
from nemo_prefect.exit_record import read_exit, read_json
from nemo_prefect.launchers import ExecutorMacros, Launcher
from nemo_prefect.packaging import Packager
from nemo_prefect.refs import JobRef
from nemo_prefect.script import Script
from nemo_prefect.spec import TaskSpec
from nemo_prefect.states import Cause, JobState, JobStatus

if TYPE_CHECKING:
    import psutil

#: Seconds between TERM and KILL when a job is cancelled.
GRACE = 5.0
#: Seconds that a supervisor may take until it has written down its process id.
STARTUP = 10.0
#: Variables of every local job, so that what a task says of nodes means the same here as on a cluster.
_MACROS = ExecutorMacros(
    head_node_ip_var="head_node_ip",
    nproc_per_node_var="nproc_per_node",
    num_nodes_var="num_nodes",
    node_rank_var="node_rank",
    het_group_host_var="het_group_host",
)


class LocalExecutor(Executor):
    """Runs jobs as processes on this machine.

    The working directory is the one in which the experiment was launched, or, with a packager, a copy of the code as it was
    then. Python calls run under the same interpreter.

    Example:
        Load a saved executor and give it to an experiment:

        ```python
        from nemo_prefect import LocalExecutor

        executor = LocalExecutor.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Local Executor"
    _block_type_slug = "local-executor"
    _logo_url = HttpUrl(
        "https://cdn.sanity.io/images/3ugk85nk/production/356e6766a91baf20e1d08bbe16e8b5aaef4d8643-48x48.png"
    )

    executor_name: ClassVar[str] = "local"
    poll_interval: ClassVar[tuple[float, float]] = (0.02, 0.5)
    lost_after: ClassVar[float] = 2.0
    shares_directory: ClassVar[bool] = True
    log_interval: ClassVar[tuple[float, float]] = (0.02, 0.5)

    ntasks_per_node: int = Field(default=1, ge=1, description="Processes that a launcher such as torchrun starts.")
    nodes: int = Field(default=1, ge=1, description="Always 1: the local executor is one machine.")

    def nnodes(self) -> int:
        return self.nodes

    def nproc_per_node(self) -> int:
        return self.ntasks_per_node

    def macro_values(self) -> ExecutorMacros:
        return _MACROS

    @property
    def cluster(self) -> str:
        return socket.gethostname()

    def info(self) -> str:
        return "Local"

    def check_task(self, task: TaskSpec) -> None:
        if self.nodes > 1:
            raise ConfigError(
                f"LocalExecutor(nodes={self.nodes}) asks for more nodes than this machine is.",
                hint="For several processes on it, set ntasks_per_node and a launcher such as torchrun.",
            )
        if task.kind == "script":
            script = Script(**task.script)
            here = type(self.packager) is Packager  # else the script is looked for in what is packed
            if here and script.path and not (script.inline or script.m or Path(script.path).expanduser().is_file()):
                raise ConfigError(
                    f"The script {script.path!r} does not exist.",
                    hint=f"Give its path from {os.getcwd()}, where the job will run, or an absolute one.",
                )

    def render(self, request: JobRequest) -> RenderedJob:
        task = request.tasks[0]
        command = request.command(0, sys.executable)
        launcher = self.get_launcher_for_render()
        argv = launcher.wrap(
            command,
            nnodes=self.nnodes(),
            nproc_per_node=self.nproc_per_node(),
            directory=str(request.directory),
            key=request.key,
        )
        known = {**self._nodes(), **launcher.environment()}
        env = {**known, **self.env_vars, **task.script.get("env", {}), **request.environment()}
        cwd = str(request.directory / "code") if any(request.archives) else request.cwd or os.getcwd()
        # No shell will look the variables up, so what they hold is filled in here.
        hosts = {_MACROS.het_group_host_var: "localhost"}
        return _MACROS.apply(RenderedJob(argv=tuple(argv), env=env, cwd=cwd), {**known, **hosts})

    def _nodes(self) -> dict[str, str]:
        return {
            _MACROS.head_node_ip_var: "localhost",
            _MACROS.num_nodes_var: str(self.nnodes()),
            _MACROS.nproc_per_node_var: str(self.nproc_per_node()),
            _MACROS.node_rank_var: "0",
        }

    def get_launcher_for_render(self) -> Launcher:
        """The launcher, without keeping it: rendering changes nothing."""
        return self.model_copy().get_launcher()

    async def launch(self, request: JobRequest) -> JobRef:
        rendered = self.render(request)
        job_file = request.directory / "job.json"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT__")}
        job = {
            "key": request.key,
            "attempt": request.attempt,
            "argv": rendered.argv,
            # `python` means the interpreter that launched the experiment, in an environment that is not activated too.
            "env": {**inherited, "PATH": _path(), "PYTHONUNBUFFERED": "1", **rendered.env},
            "cwd": rendered.cwd,
            "directory": str(request.directory),
            "grace": GRACE,
            "umask": _umask(),
        }
        request.directory.mkdir(parents=True, exist_ok=True)
        for folder in self.get_launcher_for_render().folders(str(request.directory)):
            os.makedirs(folder, exist_ok=True)
        if any(request.archives):
            await asyncio.to_thread(_unpack, request.archives[0], Path(rendered.cwd))
        with open(os.open(job_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            json.dump(job, out)
        supervisor = request.experiment_dir / WORKER_DIR / "supervise.py"
        try:
            with (request.directory / "supervisor.log").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(supervisor), str(job_file)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise SubmissionError(f"The job could not be started: {error}.", transient=True) from error
        _children[process.pid] = process
        deadline = time.monotonic() + STARTUP
        pause = 0.005
        while (ref := await self.find(request)) is None:
            if process.poll() is not None and not (request.directory / "process.json").exists():
                said = (request.directory / "supervisor.log").read_text(errors="replace").strip()
                raise SubmissionError(f"The job's supervisor ended at once: {said or process.returncode}.")
            if time.monotonic() > deadline:
                raise SubmissionError("The job's supervisor did not start in time.", transient=True)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        return ref

    async def find(self, request: JobRequest) -> JobRef | None:
        record = read_json(request.directory / "process.json")
        if record is None:
            return None
        return JobRef(
            executor=self.executor_name,
            cluster=record["host"],
            native_id=str(record["pid"]),
            key=record["key"],
            directory=str(request.directory),
            details={"pid": record["pid"], "started": record["start"]},
        )

    async def poll(self, refs: Sequence[JobRef]) -> dict[JobRef, JobState]:
        for pid, child in list(_children.items()):
            if child.poll() is not None:
                del _children[pid]
        return {ref: _state(ref) for ref in refs}

    async def cancel(self, refs: Sequence[JobRef]) -> None:
        for ref in refs:
            if _is_ours(ref) and read_exit(ref.directory) is None:
                _signal(ref.details["pid"], signal.SIGTERM)
        deadline = time.monotonic() + GRACE + 2.5
        while time.monotonic() < deadline and any(_state(r).status is JobStatus.RUNNING for r in refs):
            await asyncio.sleep(0.05)
            await self.poll(refs)
        for ref in refs:
            for process in _survivors(ref):
                _signal(process.pid, signal.SIGKILL)


#: Supervisors that this process started, kept to collect them when they end.
_children: dict[int, subprocess.Popen[bytes]] = {}


def _unpack(archive: str, directory: Path) -> None:
    """The user's own code, as it was packed: links that lead elsewhere are kept."""
    import tarfile

    shutil.rmtree(directory, ignore_errors=True)  # of a launch that was interrupted
    with tarfile.open(archive) as packed:
        packed.extraction_filter = tarfile.fully_trusted_filter
        packed.extractall(directory)


def _path() -> str:
    return os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def _state(ref: JobRef) -> JobState:
    if (state := read_exit(ref.directory)) is not None:
        return state
    if ref.cluster != socket.gethostname():
        return JobState(JobStatus.UNKNOWN, message=f"it runs on {ref.cluster}, which cannot be asked from here")
    if _is_ours(ref) or _survivors(ref):
        return JobState(JobStatus.RUNNING)
    if (state := read_exit(ref.directory)) is not None:  # it ended between the two looks
        return state
    return JobState(JobStatus.UNKNOWN, Cause.LOST, message="its process is gone and left no exit record")


def _is_ours(ref: JobRef) -> bool:
    """Whether the supervisor still runs. A process id is used again one day; its start time is not."""
    if ref.cluster != socket.gethostname():
        return False
    if child := _children.get(ref.details["pid"]):
        return child.poll() is None
    import psutil

    try:
        process = psutil.Process(ref.details["pid"])
        # The supervisor noted the time a moment after the kernel did.
        younger = process.create_time() - ref.details["started"]
        return -STARTUP < younger < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _survivors(ref: JobRef) -> list[psutil.Process]:
    """Processes of a job whose supervisor was killed: they carry its key in their environment."""
    import psutil

    found = []
    for process in psutil.process_iter(["uids"]):
        try:
            if process.info["uids"].real == os.getuid() and process.environ().get("NEMO_PREFECT_KEY") == ref.key:
                found.append(process)
        except psutil.Error:
            continue
    return found


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
