"""Two runs beside each other, and a notification that a real failure sends."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client

import nemo_prefect as run
from nemo_prefect._async import run_sync
from nemo_prefect.errors import ConfigError, ExperimentFailed, NotFoundError
from nemo_prefect.server import connected

pytestmark = [
    pytest.mark.usefixtures("server", "home"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def trained(loss: float, word: str) -> run.Experiment:
    code = f"from nemo_prefect.worker import report; report(1, 1, loss={loss})"
    executor = run.LocalExecutor(env_vars={"WORD": word})
    with run.Experiment("compared", executor, skip_status_at_exit=True, enable_goodbye_message=False) as exp:
        exp.add(run.Script(inline=f"python -c '{code}'"), name="train")
        exp.run()
    return exp


def test_two_runs_are_compared() -> None:
    first, second = trained(0.5, "one"), trained(0.25, "two")
    found = second.compare(first.id)
    assert found.ids == (first.id, second.id)
    assert any("WORD" in line and "'one' -> 'two'" in line for line in found.config), found.config
    before, after = found.jobs["train"]
    assert before is not None
    assert after is not None
    assert (before.metrics, after.metrics) == ({"loss": 0.5}, {"loss": 0.25})
    assert before.seconds is not None
    assert "loss: 0.5 -> 0.25" in str(found)
    done = subprocess.run(
        [sys.executable, "-m", "nemo_prefect", "experiment", "compare", first.id, second.id, "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == json.loads(json.dumps(found.to_dict()))
    with pytest.raises(NotFoundError):
        second.compare("compared_1")


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """A web server that keeps what is sent to it."""
    bodies: list[str] = []

    class Keep(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keep) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", bodies
        server.shutdown()
        thread.join()


def test_a_failure_is_notified_of_once_and_asking_twice_makes_one_automation(listener: tuple[str, list[str]]) -> None:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    url, bodies = listener
    with connected():
        CustomWebhookNotificationBlock(name="test", url=url, json_data={"text": "{{subject}}: {{body}}"}, timeout=20).save(
            "team", overwrite=True
        )
        Webhook(url="http://localhost/").save("no-notification", overwrite=True)
    with run.Experiment("notified", skip_status_at_exit=True, enable_goodbye_message=False) as exp:
        exp.add(run.Script(inline="exit 3"), name="bad")
        made = exp.notify(on=["cancelled"], block="custom-webhook/team")
        assert exp.notify(on=["failed"], block="custom-webhook/team") == made
        with pytest.raises(ConfigError, match="names no state"):
            exp.notify(on=["exploded"], block="custom-webhook/team")
        with pytest.raises(NotFoundError, match="nobody"):
            exp.notify(on=["failed"], block="custom-webhook/nobody")
        with pytest.raises(ConfigError, match="cannot notify"):
            exp.notify(on=["failed"], block="webhook/no-notification")
        with pytest.raises(ExperimentFailed):
            exp.run()

    async def automations() -> int:
        async with get_client() as client:
            return len([a for a in await client.read_automations() if "notified" in a.name])

    with connected():
        assert run_sync(automations()) == 1
    deadline = time.monotonic() + 60
    while not bodies and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(bodies) == 1
    assert exp.id in bodies[0]
    assert "exit code 3" in bodies[0]
