"""What the Kubernetes executor works out by itself; the rest is tried on a real cluster."""

from __future__ import annotations

import ast
import base64
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import nemo_prefect as run
from nemo_prefect.errors import ConfigError, SubmissionError
from nemo_prefect.executors.base import JobRequest
from nemo_prefect.executors.kubernetes import api, manifests, merge, pod_logs, quantity, states
from nemo_prefect.executors.registry import executor_from_spec, executor_to_spec
from nemo_prefect.jobs import task_to_spec
from nemo_prefect.states import Cause, JobState, JobStatus

ROOT = Path(__file__).parents[3]


def request_of(tmp_path: Path, job_id: str = "job", script: run.Script | None = None, **fields: Any) -> JobRequest:
    task = task_to_spec(script or run.Script("train.sh"))
    directory = tmp_path / "job/attempt-1"
    return JobRequest("0123456789ab", "exp_1", job_id, 1, (task,), tmp_path, directory, scripts=("",), payloads=("",),
                      archives=("",), **fields)  # fmt: skip


# Manifests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["job", "UPPER_case.and more", "-x-", "9lives", "ünïcödé", "x" * 200, "pair/0", "..."])
def test_any_name_is_made_valid_and_carries_the_key(name: str, tmp_path: Path) -> None:
    executor = run.KubernetesExecutor(image="i", num_nodes=1000)
    job = manifests.job(executor, request_of(tmp_path, name), rank=999)
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,55}[a-z0-9])?", job["metadata"]["name"])  # a pod's name adds six
    assert "0123456789ab" in job["metadata"]["name"]
    for value in job["metadata"]["labels"].values():
        assert re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", value)
    assert job["metadata"]["annotations"]["nemo-prefect.io/job-id"] == name


def test_names_that_become_alike_stay_apart_by_their_keys(tmp_path: Path) -> None:
    assert manifests.label("a b") != manifests.label("a-b")


def test_the_cluster_must_not_restart_jobs(tmp_path: Path) -> None:
    for fields in ({"spec_kwargs": {"backoffLimit": 3}}, {"pod_spec_overrides": {"restartPolicy": "OnFailure"}}):
        with pytest.raises(ConfigError, match="must not restart"):
            manifests.job(run.KubernetesExecutor(image="i", **fields), request_of(tmp_path))


def test_values_are_safe_from_expansion(tmp_path: Path) -> None:
    executor = run.KubernetesExecutor(image="i", env_vars={"A": "$(B) $$ $C", "D": "$HOME"})
    env = {e["name"]: e.get("value") for e in _container(manifests.job(executor, request_of(tmp_path)))["env"]}
    assert env["A"] == "$$(B) $$$$ $$C"
    assert env["D"] == "$HOME"


def test_overrides_are_merged_and_shown(tmp_path: Path) -> None:
    executor = run.KubernetesExecutor(
        image="i",
        gpus_per_node=2,
        memory_limits="8Gi",
        pod_spec_overrides={
            "hostNetwork": True,
            "containers": [{"name": "job", "securityContext": {"runAsUser": 1000}}, {"name": "side", "image": "s"}],
            "terminationGracePeriodSeconds": None,
        },
        container_kwargs={"workingDir": "/data"},
    )
    (job, held) = yaml.safe_load_all(str(executor.render(request_of(tmp_path))))
    spec = job["spec"]["template"]["spec"]
    assert spec["hostNetwork"] is True
    assert "terminationGracePeriodSeconds" not in spec
    assert [c["name"] for c in spec["containers"]] == ["job", "side"]
    main = spec["containers"][0]
    assert main["securityContext"] == {"runAsUser": 1000}
    assert main["workingDir"] == "/data"
    assert main["resources"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": "2"}
    assert main["command"][0] == "python3"
    assert held["kind"] == "ConfigMap"


def test_a_config_map_that_is_too_large_is_refused(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    for name in manifests.files_of(request).values():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 400_000)
    with pytest.raises(SubmissionError, match="1,200,000 bytes"):
        manifests.fill(manifests.config_map(run.KubernetesExecutor(image="i"), request), request)


def _container(job: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = job["spec"]["template"]["spec"]["containers"][0]
    return container


def test_strategic_merge() -> None:
    base = {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "args": ["x"], "map": {"k": 1, "l": 2}}
    patch = {
        "env": [{"name": "B", "$patch": "delete"}, {"name": "A", "value": "3"}, {"name": "C"}],
        "args": ["y"],
        "map": {"$patch": "replace", "m": 3},
        "new": [1],
    }
    merged = merge.strategic_merge(base, patch)
    assert merged == {"env": [{"name": "A", "value": "3"}, {"name": "C"}], "args": ["y"], "map": {"m": 3}, "new": [1]}
    assert base["args"] == ["x"]
    assert len(base["env"]) == 2


# Credentials ---------------------------------------------------------------------------------------------------------

CONFIG = {
    "current-context": "one",
    "contexts": [{"name": "one", "context": {"cluster": "a"}}, {"name": "two", "context": {"cluster": "b"}}],
    "clusters": [{"name": n, "cluster": {"server": f"https://{n}.example:6443/"}} for n in "ab"],
}


def test_the_cluster_is_known_by_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(yaml.safe_dump(CONFIG))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert run.KubernetesExecutor(image="i").cluster == "a.example:6443"
    assert run.KubernetesExecutor(image="i", context="two").cluster == "b.example:6443"
    assert run.KubernetesExecutor(image="i", credentials="kubernetes-credentials/prod").cluster.endswith("/prod")


def test_a_credentials_block_travels_with_the_executor() -> None:
    credentials = pytest.importorskip("prefect_kubernetes.credentials")
    held = credentials.KubernetesCredentials(
        cluster_config=credentials.KubernetesClusterConfig(config=CONFIG, context_name="two")
    )
    executor = run.KubernetesExecutor(image="i", credentials=held)
    spec = executor_to_spec(executor)
    again = executor_from_spec(type(spec).model_validate_json(spec.model_dump_json()))
    assert again.cluster == executor.cluster == "b.example:6443"
    assert isinstance(again, run.KubernetesExecutor)
    assert isinstance(again.credentials, credentials.KubernetesCredentials)


def test_importing_the_executors_imports_no_client() -> None:
    source = "import sys, nemo_prefect.executors; print([m for m in sys.modules if m.startswith('kubernetes_asyncio')])"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_role_covers_every_request_and_nothing_else() -> None:
    """Which verbs are used is read off the code: the requests that the API object is asked for."""
    documents = list(yaml.safe_load_all((ROOT / "deployments/kubernetes-rbac.yaml").read_text()))
    rules = [rule for d in documents if d["kind"] in ("Role", "ClusterRole") for rule in d["rules"]]
    granted = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    verbs = {"POST": "create", "GET": "get", "DELETE": "delete", "PATCH": "patch"}
    found = set()
    for file in (ROOT / "nemo_prefect/executors/kubernetes").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("request", "items")
            ):
                found.add(verbs[ast.literal_eval(node.args[0])] if node.func.attr == "request" and isinstance(
                    node.args[0], ast.Constant) else "list")  # fmt: skip
    assert found == {verb for _, verb in granted}


# Capacity ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"), [("500m", 0.5), ("2", 2), ("1Ki", 1024), ("1.5Gi", 1.5 * 2**30), ("1e3", 1000), ("3k", 3000), (4, 4)]
)
def test_quantities(text: Any, value: float) -> None:
    assert quantity.parse(text) == value


@pytest.mark.parametrize("text", ["", "4 GB", "1GB", "many", "1mi", "1i"])
def test_what_is_no_quantity_is_refused_when_it_is_given(text: str) -> None:
    with pytest.raises(ValueError, match="no Kubernetes quantity"):
        run.KubernetesExecutor(image="i", memory_requests=text)


def node(labels: dict[str, str] | None = None, **allocatable: str) -> dict[str, Any]:
    return {"metadata": {"labels": labels or {}}, "status": {"allocatable": allocatable}}


def test_what_no_single_node_can_hold_is_impossible() -> None:
    nodes = [node(cpu="2", memory="64Gi"), node({"gpu": "yes"}, cpu="32", memory="16Gi")]

    def why(selector: dict[str, str] | None = None, **requests: str) -> str:
        spec = {"containers": [{"resources": {"requests": requests}}], "nodeSelector": selector}
        return quantity.why_impossible(spec, nodes)

    assert why(cpu="32", memory="16Gi") == ""
    assert "cpu" in why(cpu="32", memory="17Gi")  # each alone would fit, on different nodes
    assert why({"gpu": "yes"}, memory="17Gi") == "memory 18253611008 asked, at most 16Gi on a node"
    assert why({"gpu": "no"}) == "none of the 2 nodes has the labels gpu=no"
    assert quantity.why_impossible({"containers": [{"resources": {"limits": {"cpu": "99"}}}]}, []) == ""


# States --------------------------------------------------------------------------------------------------------------

KEY = "k"


def pod(phase: str, state: dict[str, Any] | None = None, deleted: bool = False, **status: Any) -> dict[str, Any]:
    metadata = {"uid": "u", "name": "p", **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {})}
    containers = {"containerStatuses": [{"name": "job", "image": "img", "state": state}]} if state else {}
    return {"metadata": metadata, "status": {"phase": phase, **containers, **status}}


def terminated(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message, "containerID": "c"}}


def disrupted(reason: str) -> list[dict[str, str]]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "why"}]


RECORD = '{"key": "k", "exit_code": null, "signal": 9, "message": "", "start": 1, "end": 2, "host": "h"}'
UNSCHEDULABLE = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]
FAILED, PENDING = JobStatus.FAILED, JobStatus.PENDING


@pytest.mark.parametrize(
    ("seen", "status", "cause", "exit_code", "signal"),
    [
        (pod("Pending"), PENDING, Cause.NONE, None, None),
        (pod("Pending", conditions=UNSCHEDULABLE), PENDING, Cause.NONE, None, None),
        (pod("Pending", {"waiting": {"reason": "ContainerCreating"}}), PENDING, Cause.NONE, None, None),
        (pod("Pending", {"waiting": {"reason": "ErrImagePull", "message": "i/o timeout"}}), PENDING, Cause.NONE, None, None),
        (
            pod("Pending", {"waiting": {"reason": "ImagePullBackOff"}}, startTime="2020-01-01T00:00:00Z"),
            FAILED,
            Cause.LAUNCH_FAILED,
            None,
            None,
        ),
        (
            pod("Pending", {"waiting": {"reason": "ErrImagePull", "message": "x: not found"}}),
            FAILED,
            Cause.LAUNCH_FAILED,
            None,
            None,
        ),
        (pod("Pending", {"waiting": {"reason": "ErrImageNeverPull"}}), FAILED, Cause.LAUNCH_FAILED, None, None),
        (pod("Pending", {"waiting": {"reason": "CreateContainerConfigError"}}), FAILED, Cause.LAUNCH_FAILED, None, None),
        (pod("Running", {"running": {}}), JobStatus.RUNNING, Cause.NONE, None, None),
        (pod("Succeeded", terminated(0, "Completed")), JobStatus.SUCCEEDED, Cause.NONE, 0, None),
        (pod("Failed", terminated(3)), FAILED, Cause.EXIT_CODE, 3, None),
        (pod("Failed", terminated(137)), FAILED, Cause.SIGNAL, None, 9),
        (pod("Failed", terminated(137, message=RECORD)), FAILED, Cause.SIGNAL, None, 9),
        (pod("Failed", terminated(3, message=RECORD.replace('"k"', '"other"'))), FAILED, Cause.EXIT_CODE, 3, None),
        (pod("Failed", terminated(137, "OOMKilled")), FAILED, Cause.OUT_OF_MEMORY, 137, None),
        (pod("Succeeded", terminated(0, "OOMKilled")), JobStatus.SUCCEEDED, Cause.NONE, 0, None),
        (pod("Failed", terminated(128, "StartError", "no python")), FAILED, Cause.LAUNCH_FAILED, 128, None),
        (pod("Failed", reason="Evicted", message="The node was low on memory"), FAILED, Cause.PREEMPTED, None, None),
        (pod("Failed", reason="Evicted", message="exceeds its ephemeral-storage"), FAILED, Cause.NONE, None, None),
        (pod("Failed", reason="NodeLost"), FAILED, Cause.NODE_FAIL, None, None),
        (pod("Failed", terminated(143), conditions=disrupted("PreemptionByScheduler")), FAILED, Cause.PREEMPTED, None, 15),
        (
            pod("Failed", terminated(143), conditions=disrupted("DeletionByTaintManager")),
            FAILED,
            Cause.NODE_FAIL,
            None,
            15,
        ),
        (pod("Running", {"running": {}}, deleted=True), FAILED, Cause.PREEMPTED, None, None),
        (pod("Running", {"running": {}}, deleted=True, reason="NodeLost"), FAILED, Cause.NODE_FAIL, None, None),
        (pod("Running", terminated(0, "Completed"), deleted=True), JobStatus.SUCCEEDED, Cause.NONE, 0, None),
    ],
)
def test_states_of_pods(
    seen: dict[str, Any], status: JobStatus, cause: Cause, exit_code: int | None, signal: int | None
) -> None:
    state = states.rank_state({"status": {}}, [seen], KEY, 60.0)
    assert (state.status, state.cause, state.exit_code, state.signal) == (status, cause, exit_code, signal), state


def test_missing_is_never_success() -> None:
    assert states.rank_state(None, [], KEY, 60.0) == JobState(
        JobStatus.UNKNOWN, Cause.LOST, message="neither its Job nor its pod is in the cluster"
    )
    gone = {"status": {"conditions": [{"type": "Failed", "status": "True", "message": "limit"}]}}
    assert states.rank_state(gone, [], KEY, 60.0).cause is Cause.PREEMPTED
    late = {"status": {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}}
    assert states.rank_state(late, [], KEY, 60.0).cause is Cause.TIMEOUT
    assert states.was_replaced([pod("Running")], "another")
    assert not states.was_replaced([pod("Running")], "u")


def test_a_job_of_several_ranks() -> None:
    ok, runs = JobState(JobStatus.SUCCEEDED, exit_code=0), JobState(JobStatus.RUNNING)
    bad, infra = JobState(FAILED, Cause.EXIT_CODE, 3), JobState(FAILED, Cause.PREEMPTED)
    assert states.combine([ok, ok]).status is JobStatus.SUCCEEDED
    assert states.combine([ok, runs]).status is JobStatus.RUNNING
    assert states.combine([runs, JobState(PENDING, message="why")]) == JobState(PENDING, message="rank 1: why")
    assert states.combine([infra, ok, bad]).exit_code == 3  # what failed by itself tells more
    assert states.combine([infra, ok, bad]).message == "rank 2"


# Logs ----------------------------------------------------------------------------------------------------------------


def log_of(seed: int) -> list[tuple[float, bytes]]:
    """Records as a runtime writes them: several a second, some a little out of order, some lines in parts."""
    chance, now, records = random.Random(seed), 1_700_000_000.0, []
    for index in range(200):
        now += chance.choice([0, 0.001, 0.3, 2.5])
        text = bytes([97 + index % 26]) * chance.choice([0, 1, 50, 16384, 40000]) + str(index).encode()
        stamp = now - chance.choice([0, 0, 0.5])
        parts = [text[i : i + pod_logs.PART] for i in range(0, len(text), pod_logs.PART)]
        records += [(stamp, part) for part in parts[:-1]] + [(stamp, parts[-1] + b"\n")]
    return records


def answer(records: list[tuple[float, bytes]], since: int | None) -> bytes:
    """What the API gives of them from a second on."""
    from datetime import datetime, timezone

    def stamp(moment: float) -> bytes:
        return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f000Z ").encode()

    return b"".join(stamp(moment) + content for moment, content in records if since is None or moment >= since)


@pytest.mark.parametrize("seed", range(5))
def test_a_log_read_piece_by_piece_is_the_log(seed: int) -> None:
    records, chance = log_of(seed), random.Random(seed)
    cursor, got = pod_logs.Cursor("u"), b""
    cuts = [*sorted(chance.sample(range(len(records)), 20)), len(records)]
    for cut in cuts:
        reader = pod_logs.Reader(cursor)
        data = answer(records[:cut], cursor.since)
        for start in range(0, len(data), 5000):
            got += b"".join(reader.feed(data[start : start + 5000]))
        got += b"".join(reader.feed(b"", final=cut == cuts[-1]))
        assert not reader.gap
        cursor = reader.after(len(got))
    assert got == b"".join(content for _, content in records)


def test_a_rotated_log_goes_on_where_it_can() -> None:
    records = [(1_700_000_000.0 + i, f"{i}\n".encode()) for i in range(20)]
    reader = pod_logs.Reader(pod_logs.Cursor("u"))
    got = b"".join(reader.feed(answer(records[:10], None)))
    cursor = reader.after(len(got))
    reader = pod_logs.Reader(cursor)
    rest = b"".join(reader.feed(answer(records[15:], cursor.since)))
    assert reader.gap
    assert rest == b"15\n16\n17\n18\n19\n"


def test_pieces_of_artifacts_go_where_they_belong_and_nowhere_else(tmp_path: Path) -> None:
    def frame(path: str, offset: int, content: bytes) -> bytes:
        fields = (base64.b64encode(path.encode()).decode(), offset, 6, base64.b64encode(content).decode())
        return pod_logs.FRAME + "k {} {} {} {}\n".format(*fields).encode()

    folder = tmp_path / "artifacts"
    for piece in [frame("a/b", 3, b"def"), frame("a/b", 0, b"abc"), frame("a/b", 3, b"def")]:
        pod_logs._put_back(piece, folder)
    assert (folder / "a/b").read_bytes() == b"abcdef"
    for path in ("../out", "/tmp/out", "a/../../out", ".", ""):
        pod_logs._put_back(frame(path, 0, b"x"), folder)
    pod_logs._put_back(pod_logs.FRAME + b"nonsense\n", folder)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "artifacts", "b"]


def test_refusals_say_what_the_api_said() -> None:
    error = api._refusal(403, '{"reason": "Forbidden", "message": "jobs is forbidden"}')
    assert "jobs is forbidden" in str(error)
    assert "rbac" in str(error)
    assert not error.transient
    assert api._refusal(503, "<html>").transient
    assert api._refusal(410, '{"reason": "Expired"}').transient
