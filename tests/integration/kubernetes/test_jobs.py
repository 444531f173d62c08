"""Jobs on the real cluster, without the engine: what becomes of them, and what is left."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.errors import ExecutorError, SubmissionError, UnreachableError
from nemo_prefect.executors.base import JobRequest
from nemo_prefect.executors.kubernetes.api import Api, ApiError
from nemo_prefect.refs import JobRef
from nemo_prefect.states import Cause, JobState, JobStatus
from nemo_prefect.testing.conformance import ConformanceSuite

pytestmark = pytest.mark.kubernetes


class Suite(ConformanceSuite):
    timeout = 120.0


suite = Suite()


async def finish(executor: run.KubernetesExecutor, request: JobRequest) -> tuple[JobRef, JobState]:
    ref = await executor.launch(request)
    state = await suite.wait(executor, ref)
    await executor.fetch(ref)
    return ref, state


def ours(kubectl: Any, ref: JobRef) -> str:
    return kubectl("get", "jobs,pods,configmaps", "-l", f"nemo-prefect.io/key={ref.key}", "-o", "name")


def gone(kubectl: Any, ref: JobRef) -> bool:
    """Whether nothing of the job is left, once the cluster's collector had some time."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not ours(kubectl, ref):
            return True
        time.sleep(0.5)
    return False


def test_every_byte_of_the_output_arrives_once_and_nothing_is_left(executor: Any, tmp_path: Path, kubectl: Any) -> None:
    source = "import time\nfor i in range(60):\n print(i, chr(97 + i % 26) * (i * 1500), flush=True); time.sleep(0.05)\n"
    source += "print('the end', end='', flush=True)"

    async def story() -> None:
        ref = await executor.launch(suite.request_for(executor, run.Script(inline=source, entrypoint="python3"), tmp_path))
        state = JobState(JobStatus.PENDING)
        while not state.status.is_terminal:  # read piece by piece while it is written, as the engine does
            await executor.fetch(ref)
            state = (await executor.poll([ref]))[ref]
        await executor.fetch(ref)
        assert state.status is JobStatus.SUCCEEDED
        wanted = "".join(f"{i} {chr(97 + i % 26) * (i * 1500)}\n" for i in range(60)) + "the end"
        assert (Path(ref.directory) / "stdout.log").read_text().rstrip("\n") == wanted
        assert gone(kubectl, ref), ours(kubectl, ref)
        again = (Path(ref.directory) / "stdout.log").read_bytes()
        await executor.fetch(ref)
        assert (Path(ref.directory) / "stdout.log").read_bytes() == again
        assert (await executor.poll([ref]))[ref] == state  # known without asking

    suite.run(story())


def test_an_interrupted_fetch_goes_on_where_it_stopped(executor: Any, tmp_path: Path) -> None:
    async def story() -> None:
        request = suite.request_for(executor, run.Script(inline="seq 1 2000; sleep 2; seq 2001 4000"), tmp_path)
        ref = await executor.launch(request)
        log, mark = Path(ref.directory, "stdout.log"), Path(ref.directory, "log-cursor.json")
        while not log.exists() or not log.stat().st_size:
            await asyncio.sleep(0.1)
            await executor.fetch(ref)
        mark.unlink()  # as after a crash between writing the log and noting how far it is
        await suite.wait(executor, ref)
        await executor.fetch(ref)
        assert log.read_text().split() == [str(i) for i in range(1, 4001)]

    suite.run(story())


def test_code_too_large_for_a_config_map_is_copied_in(executor: Any, tmp_path: Path, kubectl: Any) -> None:
    random.seed(0)
    (tmp_path / "big.bin").write_bytes(random.randbytes(3_000_000))
    (tmp_path / "check.py").write_text("import hashlib; print(hashlib.sha256(open('big.bin', 'rb').read()).hexdigest())")
    executor.packager = run.PatternPackager(include_pattern=["big.bin", "check.py"], relative_path=[str(tmp_path)] * 2)
    executor.num_nodes = 2

    async def story() -> None:
        request = suite.request_for(executor, run.Script("check.py", entrypoint="python3"), tmp_path)
        assert "# the code: packed; copied over exec into an init container" in str(executor.render(request))
        ref, state = await finish(executor, request)
        assert state.status is JobStatus.SUCCEEDED, state
        wanted = hashlib.sha256((tmp_path / "big.bin").read_bytes()).hexdigest()
        assert [Path(ref.directory, r, "stdout.log").read_text().strip() for r in "01"] == [wanted, wanted]
        assert gone(kubectl, ref), ours(kubectl, ref)

    suite.run(story())


@pytest.mark.parametrize("created", [1, 2])
def test_an_interrupted_submission_is_completed_by_the_next(
    executor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, created: int
) -> None:
    executor.num_nodes = 2
    ask, posts = Api.request, []

    async def cut_off(self: Api, method: str, path: str, **about: Any) -> Any:
        posts.append(path) if method == "POST" else None
        if method == "POST" and len(posts) == created + 1:
            raise ApiError("The line broke.", status=0, transient=True)
        return await ask(self, method, path, **about)

    async def story() -> None:
        request = suite.request_for(executor, run.Script(inline="echo $NODE_RANK"), tmp_path)
        monkeypatch.setattr(Api, "request", cut_off)
        with pytest.raises(SubmissionError, match="The line broke") as caught:
            await executor.launch(request)
        assert caught.value.transient  # it may have been created: whoever submits looks it up
        assert await executor.find(request) is None  # a part of it is there, but not the whole
        ref = await executor.launch(request)
        assert await executor.find(request) == ref
        assert (await suite.wait(executor, ref)).status is JobStatus.SUCCEEDED

    suite.run(story())


def test_a_credentials_block_is_used(executor: Any, tmp_path: Path) -> None:
    from prefect_kubernetes.credentials import KubernetesClusterConfig, KubernetesCredentials

    config = KubernetesClusterConfig.from_file(Path(os.environ["KUBECONFIG"]))
    blocked = executor.model_copy(update={"credentials": KubernetesCredentials(cluster_config=config)})
    assert blocked.cluster == executor.cluster

    async def story() -> None:
        request = suite.request_for(blocked, run.Script(inline="echo by block"), tmp_path)
        ref, state = await finish(blocked, request)
        assert state.status is JobStatus.SUCCEEDED
        assert Path(ref.directory, "stdout.log").read_text() == "by block\n"

    suite.run(story())


def test_out_of_memory(executor: Any, tmp_path: Path) -> None:
    executor.memory_limits = "64Mi"
    source = "import time; held = [bytearray(1 << 24) for _ in range(64)]; time.sleep(60)"

    async def story() -> None:
        request = suite.request_for(executor, run.Script(inline=source, entrypoint="python3"), tmp_path)
        ref, state = await finish(executor, request)
        assert (state.status, state.cause) == (JobStatus.FAILED, Cause.OUT_OF_MEMORY), state
        assert (await executor.poll([ref]))[ref] == state

    suite.run(story())


def test_a_deadline_is_a_timeout(executor: Any, tmp_path: Path) -> None:
    executor.active_deadline = 6

    async def story() -> None:
        request = suite.request_for(executor, run.Script(inline="echo begun; sleep 100"), tmp_path)
        ref = await executor.launch(request)
        await suite.wait(executor, ref, JobStatus.RUNNING)
        while "begun" not in [line.text async for line in executor.logs(ref)]:
            await asyncio.sleep(0.1)
        state = await suite.wait(executor, ref)
        assert (state.status, state.cause) == (JobStatus.FAILED, Cause.TIMEOUT), state

    suite.run(story())


@pytest.mark.parametrize("policy", ["IfNotPresent", "Never"])
def test_an_image_that_does_not_exist(executor: Any, tmp_path: Path, kubectl: Any, policy: str) -> None:
    executor.image, executor.image_pull_policy, executor.image_pull_timeout = "local/no-such-image:1", policy, 5

    async def story() -> None:
        ref, state = await finish(executor, suite.request_for(executor, run.Script(inline="true"), tmp_path))
        assert (state.status, state.cause) == (JobStatus.FAILED, Cause.LAUNCH_FAILED), state
        assert "local/no-such-image:1" in state.message
        assert "Image" in state.message
        # Some kubelets take a minute to let go of a pod that never started; it holds nothing meanwhile.
        left = kubectl("get", "pods", "-l", f"nemo-prefect.io/key={ref.key}", "-o", "jsonpath={..deletionTimestamp}")
        assert left or gone(kubectl, ref), ours(kubectl, ref)

    suite.run(story())


def test_an_image_without_python(executor: Any, tmp_path: Path) -> None:
    executor.python = "no-such-python"

    async def story() -> None:
        _, state = await finish(executor, suite.request_for(executor, run.Script(inline="true"), tmp_path))
        assert (state.status, state.cause) == (JobStatus.FAILED, Cause.LAUNCH_FAILED), state
        assert "no-such-python" in state.message

    suite.run(story())


def test_what_no_node_can_hold_is_refused_and_what_has_to_wait_says_why(executor: Any, tmp_path: Path, kubectl: Any) -> None:
    executor.gpus_per_node, executor.cpu_requests = 8, "5000"

    async def story() -> None:
        request = suite.request_for(executor, run.Script(inline="true"), tmp_path)
        with pytest.raises(SubmissionError, match=r"gpu 8 asked, at most 0 on a node; cpu 5000 asked") as caught:
            await executor.launch(request)
        assert not caught.value.transient
        assert await executor.find(request) is None
        executor.check_capacity = False
        ref = await executor.launch(request)
        state = await suite.wait(executor, ref, JobStatus.PENDING)
        while not state.message:
            await asyncio.sleep(0.2)
            state = (await executor.poll([ref]))[ref]
        assert "Unschedulable: 0/1 nodes are available" in state.message
        await executor.cancel([ref])
        assert (await executor.poll([ref]))[ref].status is JobStatus.CANCELLED
        assert gone(kubectl, ref), ours(kubectl, ref)

    suite.run(story())


def test_a_pod_that_waits_for_a_quota_or_a_volume_says_so(executor: Any, tmp_path: Path, kubectl: Any) -> None:
    kubectl("create", "namespace", "test-quota")
    try:
        kubectl("-n", "test-quota", "create", "quota", "none", "--hard=pods=0")
        executor.namespace = "test-quota"
        mounted = executor.clone()
        mounted.namespace = "default"
        mounted.volumes.append({"name": "absent", "hostPath": {"path": "/no/such/path", "type": "Directory"}})
        mounted.volume_mounts.append({"name": "absent", "mountPath": "/absent"})

        async def story() -> None:
            for one, wanted in ((executor, "exceeded quota"), (mounted, "hostPath type check failed")):
                ref = await one.launch(suite.request_for(one, run.Script(inline="true"), tmp_path))
                state, deadline = await suite.wait(one, ref, JobStatus.PENDING), time.monotonic() + 60
                while wanted not in state.message:
                    assert time.monotonic() < deadline, state
                    await asyncio.sleep(0.5)
                    state = (await one.poll([ref]))[ref]
                assert state.status is JobStatus.PENDING
                await one.cancel([ref])
                assert (await one.poll([ref]))[ref].status is JobStatus.CANCELLED

        suite.run(story())
    finally:
        kubectl("delete", "namespace", "test-quota", "--wait=false")


def test_a_namespace_that_does_not_exist(executor: Any, tmp_path: Path) -> None:
    executor.namespace = "no-such-namespace"
    request = suite.request_for(executor, run.Script(inline="true"), tmp_path)
    with pytest.raises(SubmissionError, match='namespaces "no-such-namespace" not found') as caught:
        asyncio.run(executor.launch(request))
    assert not caught.value.transient


def test_a_manifest_that_the_api_refuses(executor: Any, tmp_path: Path) -> None:
    executor.volume_mounts.append({"name": "undeclared", "mountPath": "/data"})
    request = suite.request_for(executor, run.Script(inline="true"), tmp_path)
    with pytest.raises(SubmissionError, match="undeclared") as caught:
        asyncio.run(executor.launch(request))
    assert not caught.value.transient
    assert asyncio.run(executor.find(request)) is None


def test_no_cluster(executor: Any, tmp_path: Path) -> None:
    request = suite.request_for(executor, run.Script(inline="true"), tmp_path)
    config = tmp_path / "kubeconfig"
    config.write_text(
        "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],"
        " clusters: [{name: c, cluster: {server: 'https://127.0.0.1:9'}}], users: [{name: u, user: {token: t}}]}"
    )
    executor.kubeconfig = str(config)
    assert executor.cluster == "127.0.0.1:9"
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9 does not answer"):
        asyncio.run(executor.launch(request))
    with pytest.raises(ExecutorError, match=r"127\.0\.0\.1:9 does not answer") as caught:
        asyncio.run(executor.find(request))
    assert caught.value.transient
    executor.kubeconfig = str(tmp_path / "absent")
    with pytest.raises(ExecutorError, match="no Kubernetes cluster to ask"):
        asyncio.run(executor.launch(request))


def test_a_pod_that_somebody_deletes_is_not_run_again(executor: Any, tmp_path: Path, kubectl: Any) -> None:
    marks = tmp_path / "marks"

    async def story() -> None:
        request = suite.request_for(executor, run.Script(inline=f"echo run >> {marks}; sleep 100"), tmp_path)
        ref = await executor.launch(request)
        await suite.wait(executor, ref, JobStatus.RUNNING)
        while not marks.exists():
            await asyncio.sleep(0.1)
        kubectl("delete", "pod", "-l", f"nemo-prefect.io/key={ref.key}", "--wait=false")
        state = await suite.wait(executor, ref)
        assert (state.status, state.cause) == (JobStatus.FAILED, Cause.PREEMPTED), state
        await executor.fetch(ref)
        assert gone(kubectl, ref), ours(kubectl, ref)

    suite.run(story())


def test_pods_start_together_and_one_that_fails_ends_the_others(executor: Any, tmp_path: Path, kubectl: Any) -> None:
    executor.num_nodes = 2
    told = "echo $NODE_RANK of $NUM_NODES at $MASTER_ADDR:$MASTER_PORT; hostname -i; [ $NODE_RANK = 0 ] && sleep 100; exit 5"

    async def story() -> None:
        request = suite.request_for(executor, run.Script(inline=told), tmp_path)
        ref, state = await finish(executor, request)
        assert (state.status, state.exit_code, state.message) == (JobStatus.FAILED, 5, "rank 1"), state
        outputs = [Path(ref.directory, rank, "stdout.log").read_text().split() for rank in ("0", "1")]
        master = outputs[0][-1]
        assert outputs[0][:4] == ["0", "of", "2", "at"]
        assert {o[4] for o in outputs} == {f"{master}:29500"}
        assert outputs[1][-1] != master
        assert '"exit_code": 5' in Path(ref.directory, "1/exit.json").read_text()
        assert gone(kubectl, ref), ours(kubectl, ref)

    suite.run(story())


def test_torchrun_over_two_pods(torch_executor: Any, tmp_path: Path) -> None:
    torch_executor.num_nodes, torch_executor.launcher = 2, "torchrun"
    source = (
        "import torch, torch.distributed as d\nd.init_process_group('gloo')\nt = torch.tensor([d.get_rank() + 1.0])\n"
        "d.all_reduce(t)\nprint('rank', d.get_rank(), 'of', d.get_world_size(), 'sum', t.item(), flush=True)\n"
        "d.destroy_process_group()"
    )

    async def story() -> None:
        request = suite.request_for(torch_executor, run.Script(inline=source, entrypoint="python3"), tmp_path)
        ref, state = await finish(torch_executor, request)
        logs = [Path(ref.directory, rank, "stdout.log").read_text() for rank in ("0", "1")]
        assert state.status is JobStatus.SUCCEEDED, (state, logs)
        assert sorted(line for log in logs for line in log.splitlines() if "sum" in line) == [
            "[default0]:rank 0 of 2 sum 3.0",
            "[default0]:rank 1 of 2 sum 3.0",
        ]

    suite.run(story())
