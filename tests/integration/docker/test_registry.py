"""Images from a private registry (Debian's docker-registry with a password), by credentials and hosts saved as blocks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import nemo_prefect as run
from nemo_prefect._async import run_sync
from nemo_prefect.errors import ExperimentFailed
from nemo_prefect.history import open_history
from nemo_prefect.server import connected

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("server", "home")]


@pytest.fixture(scope="module")
def registry(engine: None) -> Iterator[str]:
    """The address of a registry with one image, team/python:1."""
    if not (shutil.which("docker-registry") and shutil.which("htpasswd")):
        pytest.skip("apt-get install docker-registry apache2-utils")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        subprocess.run(["htpasswd", "-Bbc", str(root / "users"), "me", "s3cret"], check=True, capture_output=True)
        (root / "config.yml").write_text(
            textwrap.dedent(f"""
            version: 0.1
            storage: {{filesystem: {{rootdirectory: {root}/data}}}}
            http: {{addr: "{address}"}}
            auth: {{htpasswd: {{realm: test, path: {root}/users}}}}
            """)
        )
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(["docker-registry", "serve", str(root / "config.yml")], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 30
            while not answers(address):
                assert time.monotonic() < deadline, (root / "log").read_text()
                time.sleep(0.1)
            image = f"{address}/team/python:1"
            environment = {**os.environ, "DOCKER_CONFIG": str(root / "docker")}
            for command in (
                ["docker", "tag", "local/python:3.11", image],
                ["docker", "login", "-u", "me", "-p", "s3cret", address],
                ["docker", "push", image],
                ["docker", "rmi", image],
            ):
                subprocess.run(command, check=True, capture_output=True, env=environment)
            yield address
            subprocess.run(["docker", "rmi", image], capture_output=True)
        finally:
            process.terminate()
            process.wait()


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"http://{address}/v2/").close()
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code == 401
    except OSError:
        return False
    return True


def test_a_private_image(registry: str) -> None:
    from prefect_docker import DockerHost, DockerRegistryCredentials

    def credentials(password: str) -> Any:
        return DockerRegistryCredentials(username="me", password=password, registry_url=registry)

    async def save() -> None:
        await credentials("s3cret").save("team", overwrite=True)
        await DockerHost(base_url="unix:///var/run/docker.sock").save("here", overwrite=True)

    with connected():
        run_sync(save())
    image: dict[str, Any] = {"container_image": f"{registry}/team/python:1", "image_pull_policy": "Always"}
    named = run.DockerExecutor(**image, registry_credentials="team", docker_host="docker-host/here", share_files=True)
    with run.Experiment("private", executor=named) as exp:
        exp.add(run.Script(inline="echo pulled"), name="named")
        exp.add(run.Script(inline="true"), run.DockerExecutor(**image), name="nobody")
        wrong = run.DockerExecutor(**image, registry_credentials=credentials("wr0ng"))
        exp.add(run.Script(inline="true"), wrong, name="wrong")
        absent = run.DockerExecutor(**image, registry_credentials="absent")
        exp.add(run.Script(inline="true"), absent, name="absent")
        with pytest.raises(ExperimentFailed) as failed:
            exp.run()
    said = {job.job_id: job.state for job in failed.value.jobs}
    assert set(said) == {"nobody", "wrong", "absent"}
    assert "no basic auth credentials" in said["nobody"]
    assert "refuses the registry_credentials" in said["wrong"]
    assert "There is no block 'docker-registry-credentials/absent'" in said["absent"]
    assert (exp.directory / "named/attempt-1/stdout.log").read_text() == "pulled\n"
    for secret in ("s3cret", "wr0ng"):
        assert secret not in str(failed.value)
        for file in exp.directory.rglob("*.log"):
            assert secret not in file.read_text()
    assert "s3cret" not in (exp.directory / "_CONFIG").read_text()
    deadline = time.monotonic() + 60  # lines reach the server in batches
    while not any(line.startswith(f"Pulled {registry}/team/python:1 in ") for line in server_log(exp.id)):
        assert time.monotonic() < deadline, server_log(exp.id)
        time.sleep(1)


def server_log(exp_id: str) -> list[str]:
    """What the run's page shows as its log."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    flow_run = UUID(open_history(exp_id).flow_run_id)

    async def read() -> list[str]:
        async with get_client() as client:
            found = await client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run])), limit=200)
        return [line.message for line in found]

    with connected():
        return run_sync(read())
