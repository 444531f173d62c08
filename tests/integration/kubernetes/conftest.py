"""The cluster is whatever KUBECONFIG names, if its node is this machine: some pods see this machine's directories."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import nemo_prefect as run

IMAGE = "local/python:3.11"
SKIP = f"no Kubernetes cluster: bring one up on this machine, load the image {IMAGE} into it, and set KUBECONFIG"
SESSION = uuid.uuid4().hex[:8]
OURS = ("get", "jobs,pods,configmaps", "-A", "-l", f"test-session={SESSION}", "-o", "name")

Kubectl = Callable[..., str]


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    def call(*arguments: str) -> str:
        done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise AssertionError(done.stderr)
        return done.stdout.strip()

    try:
        call("get", "nodes", "--request-timeout=5s")
    except (AssertionError, OSError, subprocess.TimeoutExpired):
        pytest.skip(SKIP)
    return call


@pytest.fixture
def executor(kubectl: Kubectl, tmp_path: Path) -> Iterator[run.KubernetesExecutor]:
    """An executor whose pods see the test's directory under its own path."""
    tmp_path.chmod(0o777)
    executor = run.KubernetesExecutor(
        image=IMAGE,
        grace_period=2,
        labels={"test-session": SESSION},
        volumes=[{"name": "tmp", "hostPath": {"path": str(tmp_path)}}],
        volume_mounts=[{"name": "tmp", "mountPath": str(tmp_path)}],
    )
    yield executor
    kubectl("delete", "jobs", "-A", "-l", f"test-session={SESSION}", "--wait=false")


@pytest.fixture
def torch_executor(executor: run.KubernetesExecutor) -> run.KubernetesExecutor:
    """An executor whose pods import what this interpreter imports, PyTorch too."""
    pytest.importorskip("torch", reason="pip install torch==2.13.0")
    if sys.version_info[:2] != (3, 11):
        pytest.skip(f"the image {IMAGE} has Python 3.11, so PyTorch is borrowed from this interpreter only if it has too")
    import torch

    packages = str(Path(torch.__file__).parents[1])
    executor.volumes.append({"name": "packages", "hostPath": {"path": packages}})
    executor.volume_mounts.append({"name": "packages", "mountPath": packages, "readOnly": True})
    executor.env_vars["PYTHONPATH"] = packages
    return executor
