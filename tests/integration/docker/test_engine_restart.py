"""The engine goes away and comes back in mid-job. (An engine of the test's own: the machine's is left alone.)"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.errors import ExperimentFailed

pytestmark = [
    pytest.mark.docker,
    pytest.mark.usefixtures("server", "home"),
    # Where an engine dies while docker-py connects to it, docker-py leaves its socket to the collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket.socket fd=:ResourceWarning"),
]

IMAGE = "local/python:3.11"


class Engine:
    """A dockerd with its own data, socket and containerd, in a network namespace of its own: one that has no bridge takes
    the machine's away."""

    def __init__(self, root: Path) -> None:
        self.root, self.socket = root, f"unix://{root}/docker.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        where = ["--data-root", f"{self.root}/data", "--exec-root", f"{self.root}/exec", "--pidfile", f"{self.root}/pid"]
        alone = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"]
        command = ["unshare", "--net", "dockerd", "-H", self.socket, *where, *alone, *options]
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 60
        while self.docker("info", check=False).returncode:
            assert self.process.poll() is None, (self.root / "log").read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(60)

    def docker(self, *arguments: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["docker", "-H", self.socket, *arguments], check=check, capture_output=True, **more)


@pytest.fixture(scope="module")
def image(engine: None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "image.tar"
        subprocess.run(["docker", "save", "-o", str(file), IMAGE], check=True)
        yield file


@pytest.fixture
def own(image: Path) -> Iterator[Engine]:
    if os.getuid() != 0:
        pytest.skip("starting a dockerd takes root")
    root = Path(tempfile.mkdtemp(prefix="dockerd-"))
    engine = Engine(root)
    try:
        engine.start("--live-restore")
        engine.docker("load", "-i", str(image))
        yield engine
    finally:
        if engine.process and engine.process.poll() is None:
            left = engine.docker("ps", "-aq", check=False).stdout.decode().split()
            if left:
                engine.docker("rm", "-f", *left, check=False)
        engine.stop()
        subprocess.run(["umount", str(root / "data")], check=True)  # dockerd mounts it on itself
        shutil.rmtree(root)
        gc.collect()  # the socket, while it is expected


def executor(engine: Engine) -> run.DockerExecutor:
    from prefect_docker import DockerHost

    return run.DockerExecutor(
        container_image=IMAGE, image_pull_policy="Never", docker_host=DockerHost(base_url=engine.socket), network="none"
    )


def run_in_thread(exp: run.Experiment) -> tuple[threading.Thread, list[BaseException]]:
    raised: list[BaseException] = []

    def body() -> None:
        try:
            exp.run()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            raised.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    return thread, raised


def wait_for_line(file: Path, line: str) -> None:
    deadline = time.monotonic() + 90
    while not file.exists() or line not in file.read_text().splitlines():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_jobs_that_outlive_the_engine_go_on_without_a_line_lost_or_doubled(own: Engine) -> None:
    with run.Experiment("restart", executor=executor(own)) as exp:
        exp.add(run.Script(inline="for i in $(seq 80); do echo tick $i; echo err $i >&2; sleep 0.2; done"), name="job")
        exp.dryrun(log=False)
        log = exp.directory / "job/attempt-1/stdout.log"
        thread, raised = run_in_thread(exp)
        wait_for_line(log, "tick 5")
        own.stop()
        time.sleep(2)
        own.start("--live-restore")
        thread.join(200)
        assert not thread.is_alive()
    assert raised == []
    assert log.read_text().splitlines() == [f"tick {i}" for i in range(1, 81)]
    assert (log.parent / "stderr.log").read_text().splitlines() == [f"err {i}" for i in range(1, 81)]
    assert own.docker("ps", "-aq").stdout == b""


def test_jobs_that_end_with_the_engine_are_no_success(own: Engine) -> None:
    own.stop()
    own.start()  # without --live-restore, as an engine is by default
    with run.Experiment("gone", executor=executor(own)) as exp:
        exp.add(run.Script(inline="for i in $(seq 600); do echo tick $i; sleep 0.2; done"), name="job")
        log = exp.directory / "job/attempt-1/stdout.log"
        thread, raised = run_in_thread(exp)
        wait_for_line(log, "tick 5")
        own.stop(signal.SIGKILL)
        time.sleep(2)
        own.start()
        thread.join(200)
        assert not thread.is_alive()
    (error,) = raised
    assert isinstance(error, ExperimentFailed)
    assert "job: FAILED" in str(error)
    lines = log.read_text().splitlines()
    assert lines == [f"tick {i}" for i in range(1, len(lines) + 1)]
    assert own.docker("ps", "-aq").stdout == b""
