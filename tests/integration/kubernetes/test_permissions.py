"""The permissions in deployments/kubernetes-rbac.yaml are enough, and without them the API's own reason is told.

Authorisation needs an API server that authorises: a second one is started beside the cluster's, on the same etcd.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.errors import ExecutorError, SubmissionError
from nemo_prefect.states import JobStatus
from nemo_prefect.testing.conformance import ConformanceSuite

pytestmark = pytest.mark.kubernetes

RBAC = Path(__file__).parents[3] / "deployments/kubernetes-rbac.yaml"
TOKENS = (
    "admin-token,admin,admin,system:masters\n"
    "runner-token,system:serviceaccount:default:nemo-prefect,runner\n"
    "nobody-token,nobody,nobody\n"
)


class Suite(ConformanceSuite):
    timeout = 120.0


@pytest.fixture(scope="module")
def kubeconfigs(kubectl: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A kubeconfig for each of the users in TOKENS."""
    pid = Path(os.environ.get("KUBECONFIG", "")).parent / "apiserver.pid"
    if not pid.exists():
        pytest.skip("the API server has no pid file beside the kubeconfig: no second one can be started like it")
    folder = tmp_path_factory.mktemp("rbac")
    (folder / "tokens.csv").write_text(TOKENS)
    shutil.copytree(pid.parent / "pki", folder / "pki")
    changes = {
        "--secure-port": "16444",
        "--authorization-mode": "RBAC",
        "--token-auth-file": str(folder / "tokens.csv"),
        "--cert-dir": str(folder / "pki"),
    }
    argv = Path(f"/proc/{int(pid.read_text())}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    argv = [f"{name}={changes.get(name, value)}" if eq else name for name, eq, value in (a.partition("=") for a in argv)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    configs = {}
    for user in ("admin", "runner", "nobody"):
        file = folder / user
        file.write_text(
            re.sub(
                r"\s+",
                " ",
                f"""{{apiVersion: v1, kind: Config, current-context: c,
                contexts: [{{name: c, context: {{cluster: c, user: u}}}}],
                clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:16444", insecure-skip-tls-verify: true}}}}],
                users: [{{name: u, user: {{token: {user}-token}}}}]}}""",
            )
        )
        configs[user] = str(file)
    deadline = time.monotonic() + 90
    while True:
        try:
            kubectl("--kubeconfig", configs["admin"], "apply", "-f", str(RBAC))
            break
        except AssertionError:
            assert time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
            time.sleep(1)
    yield configs
    kubectl("--kubeconfig", configs["admin"], "delete", "-f", str(RBAC))
    server.terminate()
    server.wait()


def test_they_are_enough_for_a_job_of_two_pods(executor: Any, kubeconfigs: dict[str, str], tmp_path: Path) -> None:
    suite = Suite()
    executor.kubeconfig, executor.num_nodes = kubeconfigs["runner"], 2

    async def story() -> None:
        request = suite.request_for(executor, run.Script(inline="echo $NODE_RANK; sleep 3"), tmp_path)
        ref = await executor.launch(request)
        assert await executor.launch(request) == ref == await executor.find(request)
        assert (await suite.wait(executor, ref)).status is JobStatus.SUCCEEDED
        await executor.fetch(ref)
        assert (Path(ref.directory) / "1/stdout.log").read_text() == "1\n"
        other = await executor.launch(suite.request_for(executor, run.Script(inline="sleep 100"), tmp_path))
        await suite.wait(executor, other, JobStatus.RUNNING)
        await executor.cancel([other])
        assert (await executor.poll([other]))[other].status is JobStatus.CANCELLED

    suite.run(story())


def test_without_them_the_reason_is_told(executor: Any, kubeconfigs: dict[str, str], tmp_path: Path) -> None:
    executor.kubeconfig = kubeconfigs["nobody"]
    request = Suite().request_for(executor, run.Script(inline="true"), tmp_path)
    with pytest.raises(SubmissionError, match=r'User "nobody" cannot create resource "jobs"') as caught:
        asyncio.run(executor.launch(request))
    assert not caught.value.transient
    with pytest.raises(ExecutorError, match=r'User "nobody" cannot list resource "jobs"'):
        asyncio.run(executor.find(request))


def test_a_wrong_token_is_told(executor: Any, kubeconfigs: dict[str, str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text(Path(kubeconfigs["nobody"]).read_text().replace("nobody-token", "no-such-token"))
    executor.kubeconfig = str(wrong)
    with pytest.raises(SubmissionError, match="does not accept these credentials"):
        asyncio.run(executor.launch(Suite().request_for(executor, run.Script(inline="true"), tmp_path)))
