"""`KubernetesExecutor`: jobs as ``batch/v1`` Jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SerializeAsAny, field_validator

from nemo_prefect.errors import ConfigError, ExecutorError, SubmissionError, UnreachableError
from nemo_prefect.executors.base import Executor, JobRequest
from nemo_prefect.executors.kubernetes import jobs, manifests, states
from nemo_prefect.executors.kubernetes.api import Api, ApiError, Connection
from nemo_prefect.executors.kubernetes.quantity import parse, why_impossible
from nemo_prefect.executors.kubernetes.record import Record, only_one
from nemo_prefect.exit_record import read_exit
from nemo_prefect.launchers import ExecutorMacros
from nemo_prefect.refs import JobRef
from nemo_prefect.spec import TaskSpec
from nemo_prefect.states import Cause, JobState, JobStatus


class KubernetesExecutor(Executor):
    """Runs jobs on Kubernetes, a ``batch/v1`` Job for each node.

    The image needs Python 3.8 or later and whatever the task uses; this package need not be in it. The task's own files and
    the packed code reach the pods in a ConfigMap.

    Example:
        Load a saved executor and give it to an experiment:

        ```python
        from nemo_prefect import KubernetesExecutor

        executor = KubernetesExecutor.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Kubernetes Executor"
    _block_type_slug = "kubernetes-executor"
    _logo_url = HttpUrl(
        "https://cdn.sanity.io/images/3ugk85nk/production/2d0b896006ad463b49c28aaac14f31e00e32cfab-250x250.png"
    )

    executor_name: ClassVar[str] = "kubernetes"
    poll_interval: ClassVar[tuple[float, float]] = (1.0, 15.0)
    log_interval: ClassVar[tuple[float, float]] = (1.0, 5.0)

    image: str = Field(default="", description="The container image. It needs Python 3.8 or later.")
    namespace: str = Field(default="default", description="The namespace of the jobs.")
    credentials: SerializeAsAny[Block] | str | None = Field(
        default=None, description="A Kubernetes Credentials block, or the name of a saved one."
    )
    kubeconfig: str = Field(default="", description="A kubeconfig file, instead of credentials or the usual one.")
    context: str = Field(default="", description="The context of the kubeconfig; empty for the current one.")
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(
        default="IfNotPresent", description="When the image is pulled."
    )
    image_pull_secrets: list[str] = Field(default_factory=list, description="Names of secrets for the registry.")
    image_pull_timeout: float = Field(
        default=60.0, ge=0, description="Seconds for which pulling the image may go on failing until the job fails."
    )
    num_nodes: int = Field(default=1, ge=1, description="Pods of the job. They start, fail and end together.")
    nprocs_per_node: int | None = Field(
        default=None, ge=1, description="Processes that a launcher starts in each pod; by default one for each GPU, or one."
    )
    gpus_per_node: int | None = Field(default=None, ge=0, description="GPUs of each pod (nvidia.com/gpu).")
    cpu_requests: str | None = Field(default=None, description="Cores reserved for each pod, such as 4 or 500m.")
    memory_requests: str | None = Field(default=None, description="Memory reserved for each pod, such as 32Gi.")
    cpu_limits: str | None = Field(default=None, description="Cores that each pod may use at most.")
    memory_limits: str | None = Field(default=None, description="Memory that each pod may use at most.")
    extra_resource_requests: dict[str, str] = Field(default_factory=dict, description="More resource requests.")
    extra_resource_limits: dict[str, str] = Field(default_factory=dict, description="More resource limits.")
    shm_size: str | None = Field(default=None, description="Size of /dev/shm, such as 8Gi; 64Mi without it.")
    env_list: list[dict[str, Any]] = Field(
        default_factory=list, description="Environment variables as Kubernetes writes them: from secrets, fields, maps."
    )
    volumes: list[dict[str, Any]] = Field(default_factory=list, description="Volumes of the pod.")
    volume_mounts: list[dict[str, Any]] = Field(default_factory=list, description="Where the volumes are mounted.")
    workdir_pvc: str | None = Field(
        default=None, description="A claim that holds the job's files (/nemo_run) beyond the pod's end."
    )
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels that a node must have.")
    tolerations: list[dict[str, Any]] = Field(default_factory=list, description="Taints that the pods tolerate.")
    affinity: dict[str, Any] = Field(default_factory=dict, description="The pods' affinity.")
    labels: dict[str, str] = Field(default_factory=dict, description="More labels of the Jobs and their pods.")
    annotations: dict[str, str] = Field(default_factory=dict, description="More annotations of the Jobs and their pods.")
    pod_labels: dict[str, str] = Field(default_factory=dict, description="More labels of the pods only.")
    pod_annotations: dict[str, str] = Field(default_factory=dict, description="More annotations of the pods only.")
    service_account: str | None = Field(default=None, description="The pods' service account.")
    priority_class: str | None = Field(default=None, description="The pods' priority class.")
    active_deadline: int | None = Field(
        default=None, ge=1, description="Seconds after which the job is ended as timed out, waiting included."
    )
    ttl_seconds_after_finished: int = Field(
        default=604800, ge=0, description="Seconds after which the cluster removes an ended job that nobody fetched."
    )
    grace_period: int = Field(default=5, ge=0, description="Seconds between TERM and KILL when the job is cancelled.")
    master_port: int = Field(default=29500, ge=1, le=65535, description="MASTER_PORT in every pod.")
    python: str = Field(default="python3", description="The Python interpreter in the image.")
    check_capacity: bool = Field(
        default=True, description="Refuse what no node could hold. Turn it off where an autoscaler adds larger nodes."
    )
    keep: bool = Field(default=False, description="Leave ended jobs in the cluster until their time to live has passed.")
    spec_kwargs: dict[str, Any] = Field(default_factory=dict, description="More fields of the Job's spec.")
    container_kwargs: dict[str, Any] = Field(default_factory=dict, description="Changes to the container, merged into it.")
    pod_spec_overrides: dict[str, Any] = Field(
        default_factory=dict, description="Changes to the pod's spec: a strategic merge, as kubectl patch does it."
    )

    @field_validator("credentials", mode="before")
    @classmethod
    def _check_credentials(cls, value: Any) -> Any:
        if isinstance(value, dict):
            from prefect_kubernetes.credentials import KubernetesCredentials

            return KubernetesCredentials.model_validate({k: v for k, v in value.items() if k == "cluster_config"})
        return value

    @field_validator("cpu_requests", "cpu_limits", "memory_requests", "memory_limits", "shm_size")
    @classmethod
    def _check_quantity(cls, value: str | None) -> str | None:
        if value is not None:
            parse(value)
        return value

    def nnodes(self) -> int:
        return self.num_nodes

    def nproc_per_node(self) -> int:
        return self.nprocs_per_node or self.gpus_per_node or 1

    def macro_values(self) -> ExecutorMacros:
        return manifests.MACROS

    def info(self) -> str:
        return f"Kubernetes ({self.namespace})"

    def check_task(self, task: TaskSpec) -> None:
        if not self.image:
            raise ConfigError("KubernetesExecutor has no image.", hint="Set image= to one that holds Python.")

    @property
    def cluster(self) -> str:
        return self._connection.cluster

    @property
    def _connection(self) -> Connection:
        return Connection(self.credentials, self.kubeconfig, self.context)

    def render(self, request: JobRequest) -> manifests.RenderedManifests:
        return manifests.rendered(self, request)

    def _ref(self, request: JobRequest) -> JobRef:
        name = manifests.job_name(request, 0, self.num_nodes)
        details: dict[str, Any] = {
            "namespace": self.namespace,
            "name": name,
            "nodes": self.num_nodes,
            "grace": self.grace_period,
        }
        if archive := manifests.copied_archive(request):
            inside = request.relocated(manifests.ROOT)
            details |= {"archive": [archive, next(p for p in inside.archives if p)], "python": self.python}
        native = f"{self.namespace}/{name}"
        return JobRef(self.executor_name, self.cluster, native, request.key, str(request.directory), details)

    # Submitting ------------------------------------------------------------------------------------------------------

    async def launch(self, request: JobRequest) -> JobRef:
        if Record.of(str(request.directory)).verdict is not None:
            return self._ref(request)  # it has run already, and was taken away since
        wanted = [manifests.job(self, request, rank=rank) for rank in range(self.num_nodes)]
        held = manifests.config_map(self, request)
        await asyncio.to_thread(manifests.fill, held, request)
        created: list[dict[str, Any]] = []
        try:
            async with self._connection.open() as api:
                await self._check_nodes(api, wanted[0])
                await self._create(api, wanted, held, created)
        except ApiError as error:
            if error.status == 0 and not created:
                raise UnreachableError(error.message, hint=error.hint, transient=True) from error
            if created and not error.transient:
                await self._take_back(self._ref(request), created)
            raise SubmissionError(error.message, hint=error.hint, transient=error.transient) from error
        return self._ref(request)

    async def _create(
        self, api: Api, wanted: Sequence[dict[str, Any]], held: dict[str, Any], created: list[dict[str, Any]]
    ) -> None:
        """Create the Jobs, then the ConfigMap that their pods wait for: it is theirs, so that it goes when they go."""
        owners = []
        for manifest in wanted:
            job = await self._create_one(api, f"/apis/batch/v1/namespaces/{self.namespace}/jobs", manifest, created)
            owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"]}
            owners.append({**owner, "uid": job["metadata"]["uid"]})
        held["metadata"]["ownerReferences"] = owners
        await self._create_one(api, f"/api/v1/namespaces/{self.namespace}/configmaps", held, created)

    async def _create_one(
        self, api: Api, path: str, manifest: dict[str, Any], created: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Create an object, or take the one that an earlier submission of the same key created."""
        try:
            made = await api.request("POST", path, body=manifest)
        except ApiError as error:
            if error.status != 409:
                if error.status == 0 and error.reason != "Refused":
                    created.append({})  # the answer got lost: it may have been created
                raise
            made = await api.request("GET", f"{path}/{manifest['metadata']['name']}")
            if made["metadata"].get("labels", {}).get(manifests.KEY) != manifest["metadata"]["labels"][manifests.KEY]:
                raise SubmissionError(
                    f"There is a {manifest['kind']} {manifest['metadata']['name']} that is not ours.",
                    hint="Name the job otherwise.",
                ) from error
        created.append(made)
        return made

    async def _take_back(self, ref: JobRef, created: Sequence[dict[str, Any]]) -> None:
        async with self._connection.open() as api:
            await jobs.delete(api, ref, [made for made in created if made.get("kind") == "Job"])

    async def _check_nodes(self, api: Api, job: dict[str, Any]) -> None:
        if not self.check_capacity:
            return
        try:
            nodes = await api.items("/api/v1/nodes")
        except ApiError as error:
            if error.status == 403:  # not everybody may list nodes; the scheduler will tell
                return
            raise
        if why := why_impossible(job["spec"]["template"]["spec"], nodes):
            raise SubmissionError(
                f"No node of the cluster can hold the job: {why}.",
                hint="Ask for less; or set check_capacity=False, if an autoscaler would add such a node.",
            )

    async def find(self, request: JobRequest) -> JobRef | None:
        ref = self._ref(request)
        if Record.of(ref.directory).verdict is not None:
            return ref
        async with self._connection.open() as api:
            seen = (await jobs.look(api, self.namespace, [request.key]))[request.key]
            if not seen.jobs and not seen.pods:
                return None
            if not seen.has_begun():
                # A submission that was interrupted is completed by another one: every object has a name of its own.
                if any(rank not in seen.jobs for rank in range(self.num_nodes)):
                    return None
                name = manifests.config_map_name(self, request)
                try:
                    await api.request("GET", f"/api/v1/namespaces/{self.namespace}/configmaps/{name}")
                except ApiError as error:
                    if error.status == 404:
                        return None
                    raise
        return ref

    # Watching --------------------------------------------------------------------------------------------------------

    async def poll(self, refs: Sequence[JobRef]) -> dict[JobRef, JobState]:
        found = {ref: state for ref in refs if (state := _over(ref)) is not None}
        left: dict[str, list[JobRef]] = {}
        for ref in refs:
            if ref not in found:
                left.setdefault(ref.details["namespace"], []).append(ref)
        if left:
            async with self._connection.open() as api:
                for namespace, mine in left.items():
                    seen = await jobs.look(api, namespace, [ref.key for ref in mine])
                    for ref in mine:
                        found[ref] = await jobs.judge(api, ref, seen[ref.key], self.image_pull_timeout)
        return found

    async def fetch(self, ref: JobRef) -> None:
        if Record.of(ref.directory).over:
            return
        async with only_one(ref.directory), self._connection.open() as api:
            seen = (await jobs.look(api, ref.details["namespace"], [ref.key]))[ref.key]
            await jobs.fetch_logs(api, ref, seen)
            record = Record.of(ref.directory)
            if record.over or record.state is None or seen.active():
                return
            # All pods had ended before their logs were read: nothing more will come.
            jobs.write_exits(ref, seen, record.state)
            record.over = True
            record.save()
            if not self.keep:
                await jobs.delete(api, ref, list(seen.jobs.values()))

    async def cancel(self, refs: Sequence[JobRef]) -> None:
        await asyncio.gather(*(self._cancel(ref) for ref in refs))

    async def _cancel(self, ref: JobRef) -> None:
        if _over(ref) is not None:
            return
        namespace = ref.details["namespace"]
        deadline = time.monotonic() + ref.details["grace"] + jobs.PATIENCE
        async with self._connection.open() as api:
            seen = (await jobs.look(api, namespace, [ref.key]))[ref.key]
            state = await jobs.judge(api, ref, seen, self.image_pull_timeout)
            if state.status.is_terminal:
                return
            record = Record.of(ref.directory)
            if record.verdict is None:
                cancelled = JobState(JobStatus.CANCELLED, Cause.CANCELLED)
                record.verdict, record.ending = cancelled.to_dict(), time.time()
                record.save()
            async with only_one(ref.directory):
                while seen.jobs or not all(states.is_over(pod) for pod in seen.all_pods):
                    await jobs.delete(api, ref, list(seen.jobs.values()))
                    await jobs.fetch_what_can_be(api, ref, seen)
                    if time.monotonic() > deadline:
                        names = ", ".join(pod["metadata"]["name"] for pod in seen.all_pods)
                        raise ExecutorError(
                            f"These pods do not end: {names}.", hint="Is their node still there?", transient=True
                        )
                    await asyncio.sleep(0.3)
                    seen = (await jobs.look(api, namespace, [ref.key]))[ref.key]
                if (ended := Record.of(ref.directory).state) is not None:
                    jobs.write_exits(ref, seen, ended)
                record.over = True
                record.save()


def _over(ref: JobRef) -> JobState | None:
    """How the job ended, where that is known for good and nothing of it runs any more."""
    record = Record.of(ref.directory)
    if record.over:
        return record.state
    return read_exit(ref.directory)
