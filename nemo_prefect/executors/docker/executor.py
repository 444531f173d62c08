"""Jobs as containers of a Docker engine."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Sequence
from contextlib import closing
from typing import Any, ClassVar, Literal

from pydantic import Field, HttpUrl, field_validator, model_validator

from nemo_prefect.errors import ConfigError, ExecutorError, NotFoundError, SubmissionError
from nemo_prefect.executors.base import Executor, JobRequest, RenderedJob
from nemo_prefect.executors.docker import checks
from nemo_prefect.executors.docker.blocks import HostField, RegistryField, load
from nemo_prefect.executors.docker.client import (
    DEFAULT_SOCKET,
    address,
    connect,
    ensure_image,
    in_daemon_thread,
    talking,
)
from nemo_prefect.executors.docker.jobs import Jobs, Layout
from nemo_prefect.executors.docker.plan import (
    CODE_DIR,
    KEY_LABEL,
    LABEL,
    RUN_DIR,
    Container,
    RenderedContainers,
    container_name,
    host_name,
)
from nemo_prefect.launchers import ExecutorMacros
from nemo_prefect.refs import JobRef
from nemo_prefect.spec import TaskSpec
from nemo_prefect.states import JobState, JobStatus

#: The name that NeMo-Run gives its network; here it stands for a private one for each group.
PRIVATE = "nemo_run"
#: Addresses that mean another engine on every machine.
_LOCAL = re.compile(r"(unix|npipe|tcp|https?|ssh)://(/|\w+@localhost|localhost|127\.|\[::1\])|/")
_MACROS = ExecutorMacros(
    head_node_ip_var="head_node_ip",
    nproc_per_node_var="nproc_per_node",
    num_nodes_var="num_nodes",
    node_rank_var="node_rank",
    het_group_host_var="het_group_host",
)


class DockerExecutor(Executor):
    """Runs jobs as containers of a Docker engine, of this machine or of another one.

    On an engine of this machine the experiment's directory is mounted into the container under the path that it has here;
    the job's own directory also is ``/nemo_run``, and with a packager the code is in ``/nemo_run/code``, where the job then
    runs. Without one it runs in the image's own working directory. To an engine elsewhere the job's files are copied, and
    what the job leaves in its directory is copied back.

    The image needs a Python for Python calls and a ``bash`` for scripts, nothing of this package.

    Example:
        Load a saved executor and give it to an experiment:

        ```python
        from nemo_prefect import DockerExecutor

        executor = DockerExecutor.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Docker Executor"
    _block_type_slug = "docker-executor"
    _logo_url = HttpUrl(
        "https://cdn.sanity.io/images/3ugk85nk/production/14a315b79990200db7341e42553e23650b34bb96-250x250.png"
    )

    executor_name: ClassVar[str] = "docker"
    supports_groups: ClassVar[bool] = True
    poll_interval: ClassVar[tuple[float, float]] = (0.3, 10.0)
    lost_after: ClassVar[float] = 10.0

    container_image: str = Field(min_length=1, description="The image, with its tag or digest.")
    ntasks_per_node: int = Field(default=1, ge=1, description="Processes that a launcher such as torchrun starts.")
    num_gpus: int | None = Field(default=None, ge=-1, description="How many GPUs the container gets; -1 is all.")
    memory: str | None = Field(default=None, description="Most memory that it may use, such as 16g; no swap on top.")
    cpus: float | None = Field(default=None, gt=0, description="How many CPUs it may use at once, such as 1.5.")
    shm_size: str | None = Field(default=None, description="Size of its shared memory, such as 8g.")
    ulimits: list[str] = Field(default_factory=list, description="Resource limits, each name:soft or name:soft:hard.")
    ipc_mode: str | None = Field(default=None, description="Whose shared memory it sees: host, private, shareable, none.")
    user: str | None = Field(default=None, description="Whom it runs as, such as 1000:1000; by default the image's user.")
    runtime: str | None = Field(default=None, description="The engine's runtime, such as nvidia.")
    privileged: bool = Field(default=False, description="Give the container all of the machine's devices and rights.")
    network: str = Field(
        default=PRIVATE,
        min_length=1,
        description="The network: nemo_run is a private one for each group (a single job is on the engine's default "
        "one), else host, none, or the name of an existing one.",
    )
    volumes: list[str] = Field(
        default_factory=list,
        description="More volumes, each source:target or source:target:ro; /$nemo_run in a source is the job's directory.",
    )
    healthcheck: dict[str, Any] = Field(default_factory=dict, description="A health check, as docker-py takes it.")
    platform: str | None = Field(default=None, description="The image's platform, such as linux/arm64.")
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(
        default="IfNotPresent", description="When the image is pulled."
    )
    stop_timeout: int = Field(default=5, ge=0, description="Seconds between TERM and KILL when a job is cancelled.")
    docker_host: HostField = Field(
        default=None, description="The engine: a DockerHost block or its name. By default the one of DOCKER_HOST."
    )
    registry_credentials: RegistryField = Field(
        default=None, description="For pulling: a DockerRegistryCredentials block or its name."
    )
    share_files: bool | None = Field(
        default=None,
        description="Whether the engine sees this machine's files and can mount them; by default if it is on a Unix socket.",
    )
    additional_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="More arguments of docker-py's containers.create, such as cap_add or devices."
    )

    # Checks ----------------------------------------------------------------------------------------------------------

    @field_validator("memory", "shm_size")
    @classmethod
    def _check_size(cls, value: str | None) -> str | None:
        if value is not None:
            checks.size(value)
        return value

    @field_validator("ulimits")
    @classmethod
    def _check_ulimits(cls, value: list[str]) -> list[str]:
        for limit in value:
            checks.ulimit(limit)
        return value

    @field_validator("volumes")
    @classmethod
    def _check_volumes(cls, value: list[str]) -> list[str]:
        for volume in value:
            checks.volume(volume)
        return value

    @model_validator(mode="after")
    def _check_additional(self) -> DockerExecutor:
        checks.additional(self.additional_kwargs, {n: getattr(self, n) for n in type(self).model_fields})
        return self

    def check_task(self, task: TaskSpec) -> None:
        if self.additional_kwargs:
            checks.known(self.additional_kwargs)

    # What it is ------------------------------------------------------------------------------------------------------

    def nnodes(self) -> int:
        return 1

    def nproc_per_node(self) -> int:
        return self.ntasks_per_node

    def macro_values(self) -> ExecutorMacros:
        return _MACROS

    def info(self) -> str:
        return f"Docker: {self.container_image}"

    @property
    def cluster(self) -> str:
        where, here = self._address(), socket.gethostname()
        if where == DEFAULT_SOCKET:
            return here
        # A socket, or a port of this machine, is another one elsewhere.
        return f"{here}:{where}" if _LOCAL.match(where) else where

    def _address(self) -> str:
        return self.docker_host if isinstance(self.docker_host, str) else address(self.docker_host)

    def shares_files(self) -> bool:
        """Whether the engine can mount what lies here."""
        if self.share_files is None:
            return self._address().startswith(("unix:", "/"))
        return self.share_files

    # What runs -------------------------------------------------------------------------------------------------------

    def render(self, request: JobRequest) -> RenderedJob:
        layout = self._layout(request)
        if not layout.grouped and layout.shared:
            return layout.containers[0].rendered()
        members = tuple(c.rendered() if layout.shared else c.rendered(("create",)) for c in layout.containers)
        return RenderedContainers(
            argv=members[0].argv,
            env=members[0].env,
            network=layout.network,
            copied="" if layout.shared else str(request.directory.parent),
            members=members,
            names=tuple(c.name for c in layout.containers),
        )

    def _layout(self, request: JobRequest) -> Layout:
        """What containers the job is."""
        grouped = len(request.tasks) > 1
        executors = list(request.executors) if grouped else [self]
        name = container_name(request.job_id, request.key)
        for other in executors:
            if not isinstance(other, DockerExecutor) or other._address() != self._address():
                raise ConfigError(
                    f"The group {request.job_id!r} is on more than one engine.",
                    hint="Give all its members a DockerExecutor with the same docker_host.",
                )
        private = grouped and all(e.network == PRIVATE for e in executors if isinstance(e, DockerExecutor))
        containers = tuple(
            e._container(request, index, f"{name}-{index}" if grouped else name, name if private else "")
            for index, e in enumerate(executors)
            if isinstance(e, DockerExecutor)
        )
        return Layout(request, containers, name if private else "", grouped, self.shares_files())

    def _container(self, request: JobRequest, index: int, name: str, private: str) -> Container:
        """One container.

        Args:
            request: the job.
            index: which of its tasks.
            name: the container's name.
            private: the group's own network, or "".
        """
        grouped = len(request.tasks) > 1
        directory = request.directory / str(index) if grouped else request.directory
        task, launcher = request.tasks[index], self.model_copy().get_launcher()
        command = launcher.wrap(
            request.command(index, "python3"),
            nnodes=self.nnodes(),
            nproc_per_node=self.nproc_per_node(),
            directory=str(directory),
            key=request.key,
        )
        hosts = {f"het_group_host_{i}": host_name(request.job_id, i) for i in range(len(request.tasks))} if grouped else {}
        known = {
            "head_node_ip": "localhost",
            "num_nodes": str(self.nnodes()),
            "nproc_per_node": str(self.nproc_per_node()),
            "node_rank": "0",
            **hosts,
            **launcher.environment(),
        }
        about = request.environment()
        if grouped:
            about["NEMO_PREFECT_MEMBER"] = str(index)
        env = {"PYTHONUNBUFFERED": "1", **known, **self.env_vars, **task.script.get("env", {}), **about}
        filled = _MACROS.apply(RenderedJob(argv=tuple(command), env=env), {"het_group_host": "localhost", **known})
        code = bool(request.archives[index]) if request.archives else False
        options = self._options(request, index, directory, code)
        if private:
            aliases = [host_name(request.job_id, index), f"member-{index}"]
            options |= {"network": private, "networking_config": {private: {"Aliases": aliases}}}
        elif self.network != PRIVATE:
            options |= {"network": self.network}
        folders = tuple(launcher.folders(str(directory)))
        return Container(name, self.container_image, filled.argv, filled.env, options, folders)

    def _options(self, request: JobRequest, index: int, directory: os.PathLike[str], code: bool) -> dict[str, Any]:
        grouped = len(request.tasks) > 1
        job_dir = str(request.directory.parent)
        mounts = []
        if self.shares_files():
            mounts = [(str(request.experiment_dir),) * 2, (job_dir, RUN_DIR)]
            mounts += [(os.path.join(directory, "code"), CODE_DIR)] if code else []
        given = dict(self.additional_kwargs)
        labels = {
            **given.pop("labels", {}),
            KEY_LABEL: request.key,
            f"{LABEL}/experiment-id": request.experiment_id,
            f"{LABEL}/job-id": request.job_id,
            f"{LABEL}/attempt": str(request.attempt),
            **({f"{LABEL}/member": str(index)} if grouped else {}),
        }
        options: dict[str, Any] = {
            "log_config": {"type": "json-file"},  # the one whose logs can be read whole, whatever the engine's default
            "init": True,  # passes signals on to the task, and collects what it leaves behind
            "labels": labels,
            "hostname": host_name(request.job_id, index) if grouped and self.network != "host" else None,
            "mounts": [{"Type": "bind", "Source": s, "Target": t, "ReadOnly": False} for s, t in mounts]
            + given.pop("mounts", []),
            "volumes": [self._volume(v, job_dir) for v in self.volumes],
            "working_dir": CODE_DIR if code else None,
            "user": self.user,
            "platform": self.platform,
            "runtime": self.runtime,
            "ipc_mode": self.ipc_mode,
            "shm_size": self.shm_size,
            "mem_limit": self.memory,
            "memswap_limit": self.memory,
            "nano_cpus": int(self.cpus * 1e9) if self.cpus else None,
            "privileged": self.privileged,
            "ulimits": [checks.ulimit(u) for u in self.ulimits],
            "healthcheck": self.healthcheck,
            "device_requests": [{"count": self.num_gpus, "capabilities": [["gpu"]]}] if self.num_gpus else [],
        }
        return {k: v for k, v in {**options, **given}.items() if v not in (None, [], {}, False)}

    def _volume(self, volume: str, job_dir: str) -> str:
        return volume.replace(checks.JOB_DIR, job_dir, 1) if volume.startswith(checks.JOB_DIR) else volume

    # The contract ----------------------------------------------------------------------------------------------------

    async def launch(self, request: JobRequest) -> JobRef:
        layout = self._layout(request)
        try:
            host = await load(self.docker_host)
            client = await asyncio.to_thread(connect, host)
        except (ConfigError, NotFoundError) as error:
            raise SubmissionError(error.message, hint=error.hint) from error
        with closing(client):
            for executor in request.executors or (self,):
                if isinstance(executor, DockerExecutor):
                    await self._log_in(client, executor.registry_credentials)
                    policy = executor.image_pull_policy
                    await in_daemon_thread(ensure_image, client, executor.container_image, policy, executor.platform)
            return await asyncio.to_thread(Jobs(client).launch, layout, self._ref(layout))

    async def _log_in(self, client: Any, field: Any) -> None:
        try:
            if (credentials := await load(field)) is not None:
                with talking(f"{credentials.registry_url} refuses the registry_credentials"):
                    await credentials.login(client)
        except (ExecutorError, ConfigError, NotFoundError) as error:  # nothing has been started yet
            raise SubmissionError(error.message, hint=error.hint) from error

    def _ref(self, layout: Layout) -> JobRef:
        return JobRef(
            executor=self.executor_name,
            cluster=self.cluster,
            native_id=container_name(layout.request.job_id, layout.request.key),
            key=layout.request.key,
            directory=str(layout.request.directory),
            details={
                "containers": [c.name for c in layout.containers],
                "network": layout.network,
                "grouped": layout.grouped,
                "shared": layout.shared,
                "attempt": layout.request.attempt,
                "stop_timeout": self.stop_timeout,
            },
        )

    async def find(self, request: JobRequest) -> JobRef | None:
        ref = self._ref(self._layout(request))
        return ref if await self._ask("was_launched", ref) else None

    async def poll(self, refs: Sequence[JobRef]) -> dict[JobRef, JobState]:
        here = [ref for ref in refs if ref.cluster == self.cluster]
        elsewhere = {
            ref: JobState(JobStatus.UNKNOWN, message=f"it runs on {ref.cluster}, which cannot be asked from here")
            for ref in refs
            if ref.cluster != self.cluster
        }
        states: dict[JobRef, JobState] = await self._ask("poll", here) if here else {}
        return {**states, **elsewhere}

    async def cancel(self, refs: Sequence[JobRef]) -> None:
        await self._ask("cancel", [ref for ref in refs if ref.cluster == self.cluster])

    async def fetch(self, ref: JobRef) -> None:
        if ref.cluster == self.cluster:
            await self._ask("fetch", ref)

    async def _ask(self, what: str, about: Any) -> Any:
        """Ask the engine, over a connection of its own."""
        host = await load(self.docker_host)

        def ask() -> Any:
            with closing(connect(host)) as client:
                return getattr(Jobs(client), what)(about)

        return await asyncio.to_thread(ask)
