"""DockerExecutor without an engine: what it refuses, what it would create, how it reads an engine's answers."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import nemo_prefect as run
from nemo_prefect.errors import ConfigError, ExecutorError, SubmissionError
from nemo_prefect.executors.base import JobRequest
from nemo_prefect.executors.docker import client as docker_client
from nemo_prefect.executors.docker import outcome
from nemo_prefect.executors.docker.checks import known, size
from nemo_prefect.executors.docker.doctor import report
from nemo_prefect.executors.docker.mirror import mirror
from nemo_prefect.executors.docker.plan import container_name, host_name
from nemo_prefect.executors.registry import executor_from_spec, executor_to_spec
from nemo_prefect.jobs import task_to_spec

docker = pytest.importorskip("docker", reason="pip install nemo-prefect[docker]")


def request_of(executor: run.DockerExecutor, tmp_path: Path, count: int = 1) -> JobRequest:
    directory = tmp_path / "exp/job/attempt-1"
    return JobRequest(
        key="0123456789ab", experiment_id="exp_1", job_id="job", attempt=1,
        tasks=(task_to_spec(run.Script(inline="true")),) * count, experiment_dir=tmp_path / "exp", directory=directory,
        scripts=(str(tmp_path / "exp/job/script.sh"),) * count, payloads=("",) * count, archives=("",) * count,
        executors=(executor,) * count,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"memory": "lots"}, "'lots' is no size"),
        ({"memory": "0"}, "is no size"),
        ({"shm_size": "8 gigs"}, "is no size"),
        ({"ulimits": ["memlock"]}, "is no ulimit"),
        ({"ulimits": ["nofile:10:5"]}, "soft limit over the hard one"),
        ({"volumes": ["/data"]}, "is no volume"),
        ({"volumes": ["data/x:/data"]}, "relative source"),
        ({"volumes": ["/data:data"]}, "relative target"),
        ({"volumes": ["/a:/b:ro:z"]}, "is no volume"),
        ({"cpus": 0}, "greater than 0"),
        ({"num_gpus": -2}, "greater than or equal to -1"),
        ({"container_image": ""}, "at least 1 character"),
        ({"image_pull_policy": "Sometimes"}, "image_pull_policy"),
        ({"additional_kwargs": {"name": "mine"}}, "cannot hold 'name'"),
        ({"additional_kwargs": {"remove": True}}, "cannot hold 'remove'"),
        ({"additional_kwargs": {"restart_policy": {}}}, "Use retries"),
        ({"memory": "1g", "additional_kwargs": {"mem_limit": "2g"}}, "memory are both given"),
        ({"num_gpus": 1, "additional_kwargs": {"device_requests": []}}, "num_gpus are both given"),
        ({"docker_host": "docker-registry-credentials/x"}, "is no docker-host block"),
        ({"registry_credentials": 3}, "is no DockerRegistryCredentials"),
        ({"env_vars": {"A B": "x"}}, "cannot be the name"),
    ],
)
def test_it_refuses_when_it_is_made(fields: dict[str, Any], said: str) -> None:
    with pytest.raises((ValidationError, ConfigError)) as refused:
        run.DockerExecutor(**{"container_image": "image:1", **fields})
    assert said in str(refused.value)


def test_it_takes_what_engines_take() -> None:
    assert [size(s) for s in ("512", "512b", "1k", "2M", "1.5g", "3gb", "1t")] == [
        512, 512, 1024, 2 << 20, 3 << 29, 3 << 30, 1 << 40,
    ]  # fmt: skip
    run.DockerExecutor(
        container_image="registry:5000/a/b@sha256:" + "0" * 64,
        ulimits=["memlock:-1", "stack:67108864:67108864", "nofile:1:-1"],
        volumes=["/a:/b", "cache:/c:ro", "/$nemo_run/x:/d", "/e:/f:ro,z"],
        additional_kwargs={"mem_limit": "1g"},
    )


def test_an_argument_that_the_client_does_not_know_is_refused_when_a_task_is_added() -> None:
    executor = run.DockerExecutor(container_image="image", additional_kwargs={"cap_addd": ["X"]})
    with pytest.raises(ConfigError, match="cap_addd"), run.Experiment("x", executor=executor) as exp:
        exp.add(run.Script(inline="true"))
    known({"cap_add": ["X"], "ports": {"80/tcp": 80}})


def test_what_is_created(tmp_path: Path) -> None:
    executor = run.DockerExecutor(
        container_image="image:1", num_gpus=-1, runtime="nvidia", memory="1g", cpus=1.5, shm_size="8g", ipc_mode="host",
        ulimits=["memlock:-1"], privileged=True, user="1000:1000", platform="linux/arm64", network="host",
        healthcheck={"test": ["CMD", "true"]}, volumes=["/$nemo_run/x:/x", "/data:/data:ro"], share_files=True,
        env_vars={"A": "1"}, additional_kwargs={"labels": {"team": "a"}, "cap_add": ["SYS_PTRACE"], "hostname": "h"},
    )  # fmt: skip
    request = request_of(executor, tmp_path)
    (container,) = executor._layout(request).containers
    made = container.arguments()
    job_dir = str(tmp_path / "exp/job")
    assert made["name"] == "nemo-job-0123456789ab"
    assert made["command"] == ["bash", f"{job_dir}/script.sh"]
    assert made["device_requests"] == [{"count": -1, "capabilities": [["gpu"]]}]
    assert made["volumes"] == [f"{job_dir}/x:/x", "/data:/data:ro"]
    assert made["labels"]["team"] == "a"
    assert made["labels"]["nemo-prefect/key"] == "0123456789ab"
    assert (made["nano_cpus"], made["mem_limit"], made["memswap_limit"]) == (1_500_000_000, "1g", "1g")
    assert made["environment"]["A"] == "1"
    assert {m["Target"]: m["Source"] for m in made["mounts"]} == {
        str(tmp_path / "exp"): str(tmp_path / "exp"),
        "/nemo_run": job_dir,
    }
    assert made["hostname"] == "h"
    # The client itself takes all of it, and this is what it would send.
    from docker.models.containers import _create_container_args

    arguments = dict(made)
    sent = _create_container_args({**arguments, "version": "1.41"})["host_config"]
    assert sent["DeviceRequests"][0]["Count"] == -1
    assert sent["NetworkMode"] == "host"
    assert sent["Ulimits"] == [{"Name": "memlock", "Soft": -1, "Hard": -1}]
    assert sent["LogConfig"]["Type"] == "json-file"
    assert sent["Init"] is True


def test_a_group_has_a_network_of_its_own_unless_one_is_named(tmp_path: Path) -> None:
    executor = run.DockerExecutor(container_image="image:1")
    layout = executor._layout(request_of(executor, tmp_path, 2))
    assert layout.network == "nemo-job-0123456789ab"
    assert [c.options["network"] for c in layout.containers] == [layout.network] * 2
    assert layout.containers[1].options["networking_config"] == {layout.network: {"Aliases": ["job-1", "member-1"]}}
    executor = run.DockerExecutor(container_image="image:1", network="mine")
    layout = executor._layout(request_of(executor, tmp_path, 2))
    assert (layout.network, layout.containers[0].options["network"]) == ("", "mine")


def test_a_group_is_on_one_engine(tmp_path: Path) -> None:
    from dataclasses import replace

    from prefect_docker import DockerHost

    here = run.DockerExecutor(container_image="image:1")
    there = run.DockerExecutor(container_image="image:1", docker_host=DockerHost(base_url="tcp://there:2375"))
    with pytest.raises(ConfigError, match="more than one engine"):
        here.render(replace(request_of(here, tmp_path, 2), executors=(here, there)))
    assert (here.shares_files(), there.shares_files()) == (True, False)
    assert there.cluster == "tcp://there:2375"


@pytest.mark.parametrize("url", ["unix:///run/user/1000/docker.sock", "tcp://localhost:2375", "tcp://127.0.0.1:2375"])
def test_an_engine_of_this_machine_is_no_other_machines(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = run.DockerExecutor(container_image="image:1")
    monkeypatch.setenv("DOCKER_HOST", url)
    assert executor.cluster == f"{socket.gethostname()}:{url}"
    monkeypatch.delenv("DOCKER_HOST")
    assert executor.cluster == socket.gethostname()
    monkeypatch.setenv("DOCKER_HOST", "ssh://user@box")
    assert executor.cluster == "ssh://user@box"
    assert not executor.shares_files()


def test_blocks_in_its_fields_travel_with_their_secrets_or_by_name() -> None:
    from prefect_docker import DockerHost, DockerRegistryCredentials

    executor = run.DockerExecutor(
        container_image="image:1",
        docker_host=DockerHost(base_url="tcp://there:2375"),
        registry_credentials=DockerRegistryCredentials(username="me", password="s3cret", registry_url="reg"),
    )
    assert "s3cret" not in str(executor.model_dump(mode="json")) + repr(executor)
    spec = executor_to_spec(executor)
    again = executor_from_spec(type(spec).model_validate_json(spec.model_dump_json()))
    assert again.docker_host.base_url == "tcp://there:2375"  # type: ignore[attr-defined]
    assert again.registry_credentials.password.get_secret_value() == "s3cret"  # type: ignore[attr-defined]
    saved = DockerRegistryCredentials(username="me", password="s3cret", registry_url="reg")
    saved._block_document_name = "team"
    named = run.DockerExecutor(container_image="image:1", registry_credentials=saved, docker_host="gpu-box")
    assert named.registry_credentials == "docker-registry-credentials/team"
    assert named.docker_host == "docker-host/gpu-box"
    assert "s3cret" not in executor_to_spec(named).model_dump_json()


def test_making_one_imports_no_client() -> None:
    code = (
        "import sys, nemo_prefect as run; e = run.DockerExecutor(container_image='x', docker_host='gpu-box'); e.cluster; "
        "print(*{'docker', 'prefect_docker', 'requests'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_names_are_what_engines_and_resolvers_take() -> None:
    assert container_name("train", "k1") == "nemo-train-k1"
    assert container_name("Größe (1)", "k1").isascii()
    assert host_name("Train_Model.v2", 1) == "train-model-v2-1"
    assert host_name("日本", 0) == "member-0"
    assert len(host_name("x" * 200, 10)) <= 63


# How it ended ---------------------------------------------------------------------------------------------------------


def inspected(code: int, **state: Any) -> dict[str, Any]:
    times = {"StartedAt": "2026-01-31T12:00:00.123456789Z", "FinishedAt": "2026-01-31T12:00:02.5Z"}
    return {
        "State": {"Status": "exited", "ExitCode": code, "OOMKilled": False, "Error": "", **times, **state},
        "HostConfig": {"Memory": 64 << 20},
        "Config": {"Hostname": "abc", "Labels": {}},
    }


def test_exit_records() -> None:
    done = outcome.record(inspected(0), None)
    assert (done["exit_code"], done["cause"], done["cancelled"]) == (0, "", False)
    assert round(done["end"] - done["start"], 3) == 2.377
    assert outcome.record(inspected(137, OOMKilled=True), None)["cause"] == "OUT_OF_MEMORY"
    assert outcome.record(inspected(0, OOMKilled=True), None)["cause"] == ""  # a child of it was killed; it coped
    assert "64 MiB" in outcome.record(inspected(1, OOMKilled=True), None)["message"]
    assert "that we did not send" in outcome.record(inspected(137), None)["message"]
    assert outcome.record(inspected(137), "")["cancelled"]
    assert outcome.record(None, None)["cause"] == "LOST"


def test_a_group_ended_as_its_first_failure_did() -> None:
    times = {0: 1, 5: 9, 7: 4}
    ok, late, early = (outcome.record(inspected(c, FinishedAt=f"2026-01-31T12:00:0{t}Z"), None) for c, t in times.items())
    ended = outcome.record(inspected(137), "ended because member 2 failed")
    assert outcome.combined([ok, late, early, ended])["exit_code"] == 7
    assert outcome.combined([ok, late, early, ended])["message"] == "member 2"
    assert outcome.combined([ok, ok])["exit_code"] == 0
    assert outcome.combined([ok, ended])["cancelled"]
    assert outcome.combined([ok, outcome.record(None, None)])["cause"] == "LOST"


# Logs -----------------------------------------------------------------------------------------------------------------


class Log:
    """An engine's log of one container, which can break off and forget."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, bytes]] = []
        self.breaks_after: int | None = None
        self.api = self

    def add(self, second: float, text: str, stream: str = "stdout") -> None:
        whole, fraction = int(second), round(second % 1 * 1e9)
        self.messages.append((stream, f"2026-01-31T12:00:{whole:02}.{fraction:09}Z", text.encode()))

    def logs(self, name: str, *, stdout: bool, stderr: bool, since: int = 0, **options: Any) -> Any:
        assert options == {"timestamps": True, "stream": True, "follow": False}
        wanted = "stdout" if stdout else "stderr"
        base = 1769860800  # 2026-01-31T12:00:00Z
        found = [(t, x) for s, t, x in self.messages if s == wanted and base + int(t[17:19]) >= since]

        def give() -> Iterator[bytes]:
            for number, (time, text) in enumerate(found):
                if self.breaks_after is not None and number >= self.breaks_after:
                    raise ConnectionError("broken off")
                yield time.encode() + b" " + text

        return give()


def test_every_message_is_copied_once(tmp_path: Path) -> None:
    log = Log()
    for number in range(40):
        log.add(number / 2, f"line {number}\n")
        if number % 3 == 0:
            mirror(log, "c", tmp_path)  # type: ignore[arg-type]
    mirror(log, "c", tmp_path)  # type: ignore[arg-type]
    mirror(log, "c", tmp_path)  # type: ignore[arg-type]
    assert (tmp_path / "stdout.log").read_text().splitlines() == [f"line {n}" for n in range(40)]
    assert (tmp_path / "stderr.log").read_bytes() == b""


def test_parts_of_a_long_line_have_the_same_time(tmp_path: Path) -> None:
    log = Log()
    log.add(1, "a" * 16384)
    mirror(log, "c", tmp_path)  # type: ignore[arg-type]
    log.add(1, "b" * 16384)
    log.add(1, "c\n")
    mirror(log, "c", tmp_path)  # type: ignore[arg-type]
    assert (tmp_path / "stdout.log").read_text() == "a" * 16384 + "b" * 16384 + "c\n"


def test_a_clock_set_back_and_a_log_that_was_rotated(tmp_path: Path) -> None:
    log = Log()
    for second in (10, 11, 12):
        log.add(second, f"at {second}\n")
    mirror(log, "c", tmp_path)  # type: ignore[arg-type]
    log.add(10.5, "clock set back\n")
    log.messages = log.messages[2:]  # the engine threw the oldest away
    mirror(log, "c", tmp_path)  # type: ignore[arg-type]
    assert (tmp_path / "stdout.log").read_text() == "at 10\nat 11\nat 12\nclock set back\n"


def test_a_copy_that_breaks_off_goes_on(tmp_path: Path) -> None:
    log = Log()
    for number in range(10):
        log.add(1, f"{number}\n")
    log.breaks_after = 4
    with pytest.raises(ConnectionError):
        mirror(log, "c", tmp_path)  # type: ignore[arg-type]
    log.breaks_after = None
    mirror(log, "c", tmp_path)  # type: ignore[arg-type]
    assert (tmp_path / "stdout.log").read_text() == "".join(f"{n}\n" for n in range(10))
    # As after a crash between the lines and the cursor: the lines come again, in the same place.
    before = json.loads((tmp_path / "logs.json").read_text())
    log.add(2, "after\n")
    mirror(log, "c", tmp_path)  # type: ignore[arg-type]
    (tmp_path / "logs.json").write_text(json.dumps(before))
    mirror(log, "c", tmp_path)  # type: ignore[arg-type]
    assert (tmp_path / "stdout.log").read_text().endswith("9\nafter\n")
    assert (tmp_path / "stdout.log").read_text().count("after") == 1


# The engine's words ---------------------------------------------------------------------------------------------------


def test_an_engine_that_is_not_there() -> None:
    from prefect_docker import DockerHost

    with pytest.raises(ExecutorError, match=r"no/docker.sock does not answer: No such file or directory\. Is it running"):
        docker_client.connect(DockerHost(base_url="unix:///no/docker.sock"))


def test_what_the_doctor_says_of_an_engine() -> None:
    info = {"ServerVersion": "20.10", "NCPU": 2, "MemTotal": 8 << 30, "MemoryLimit": False, "Runtimes": {"runc": {}}}
    found = {f.subject: f for f in report(info, [{"State": "running"}, {"State": "exited"}])}
    assert "2 CPUs, 8.0 GiB" in found["engine"].said
    assert (found["memory"].level, found["restarts"].level) == ("warning", "warning")
    assert found["containers"].said.startswith("1 of our containers run, 1 wait")
    better = {**info, "MemoryLimit": True, "LiveRestoreEnabled": True, "Runtimes": {"nvidia": {}}}
    assert {f.level for f in report(better, [])} == {"ok"}


class Registry:
    """A client whose pulls give these events."""

    def __init__(self, *pulls: list[dict[str, Any]]) -> None:
        self.pulls, self.asked = list(pulls), []  # type: ignore[var-annotated]
        self.api = self.images = self

    def get(self, image: str) -> None:
        raise docker.errors.ImageNotFound("no such image")

    def pull(self, repository: str, tag: str, **options: Any) -> Any:
        self.asked.append((repository, tag))
        return iter(self.pulls.pop(0))


def progress(current: int, total: int) -> dict[str, Any]:
    return {"status": "Downloading", "id": "layer", "progressDetail": {"current": current, "total": total}}


def test_the_progress_of_a_pull_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(docker_client, "PROGRESS_INTERVAL", -1.0)
    registry = Registry([progress(50_000_000, 200_000_000), {"status": "Download complete", "id": "layer"}])
    with caplog.at_level("INFO", "nemo_prefect"):
        docker_client.ensure_image(registry, "reg:5000/a/b:2", "IfNotPresent", None)  # type: ignore[arg-type]
    assert registry.asked == [("reg:5000/a/b", "2")]
    assert "Pulling reg:5000/a/b:2: 50 of 200 MB." in caplog.messages
    assert "Pulling reg:5000/a/b:2: 200 of 200 MB." in caplog.messages


def test_a_pull_that_fails_in_its_stream_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_client.time, "sleep", lambda _: None)
    with pytest.raises(SubmissionError, match="manifest for a:nope not found") as refused:
        docker_client.ensure_image(Registry([{"error": "manifest for a:nope not found"}]), "a:nope", "Always", None)  # type: ignore[arg-type]
    assert not refused.value.transient
    flaky = Registry([{"error": "net/http: TLS handshake timeout"}], [{"status": "Pull complete"}])
    docker_client.ensure_image(flaky, "a", "Always", None)  # type: ignore[arg-type]
    assert flaky.asked == [("a", "latest")] * 2
    with pytest.raises(SubmissionError, match="image_pull_policy is Never"):
        docker_client.ensure_image(Registry(), "a", "Never", None)  # type: ignore[arg-type]
