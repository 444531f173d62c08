"""The manifests that the Kubernetes executor creates, whole. ``NEMO_PREFECT_GOLDEN=write`` writes the files anew."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.executors.registry import executor_from_spec
from nemo_prefect.layout import Layout

HERE = Path(__file__).parent
EXECUTORS: dict[str, dict[str, Any]] = {
    "one_pod": {"env_vars": {"SEED": "1", "ODD": 'it\'s "odd" $HOME $(HOME)\nsecond line'}},
    "two_pods_torchrun": {
        "num_nodes": 2,
        "gpus_per_node": 8,
        "launcher": "torchrun",
        "namespace": "research",
        "cpu_requests": "16",
        "memory_limits": "512Gi",
        "shm_size": "64Gi",
        "env_list": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        "volume_mounts": [{"name": "data", "mountPath": "/data"}],
        "node_selector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "image_pull_secrets": ["registry"],
        "service_account": "trainer",
        "priority_class": "high",
        "active_deadline": 86400,
        "labels": {"team": "speech"},
        "pod_annotations": {"note": "x"},
        "pod_spec_overrides": {"hostIPC": True, "containers": [{"name": "job", "securityContext": {"runAsUser": 1000}}]},
    },
}


@pytest.mark.parametrize("name", EXECUTORS)
def test_kubernetes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    executor = run.KubernetesExecutor(image="registry.example/train:1", **EXECUTORS[name])
    with run.Experiment("golden", id="golden_1", base_dir=str(tmp_path / "home")) as exp:
        exp.add(run.Script("train.py", args=["--lr", "1e-3", "a b"], entrypoint="python3"), executor, name="job")
        spec = exp.spec()
    request = Layout(spec.directory).request(spec, spec.jobs[0], "job", range(1), 1)
    rendered = str(executor_from_spec(spec.jobs[0].executors[0]).render(request))
    golden = HERE / f"kubernetes_{name}.yaml"
    if os.environ.get("NEMO_PREFECT_GOLDEN") == "write":
        golden.write_text(rendered)
    assert rendered == golden.read_text()
