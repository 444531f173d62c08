"""The forms that operators see: a deployment's parameters, an executor's fields."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.support.wait import WebDriverWait

from nemo_prefect.server import EmbeddedServer
from nemo_prefect.server.sign_in import link

pytestmark = pytest.mark.browser

PROGRAM = """
import sys
import nemo_prefect as run
from nemo_prefect.server import connected

@run.flow(name="form-sweep")
def form_sweep(exp: run.Experiment, lr: float = 3e-4, seeds: list[int] = [0, 1], kind: str = "adam"):
    exp.add(run.Script(inline="true"), name="job")

def work(lr: float, steps: int = 1) -> None: ...

if __name__ == "__main__":
    print(form_sweep.deploy("nightly", cron="0 3 * * *"))
    with run.Experiment("form-plain") as exp:
        exp.add(run.Partial(work, lr=0.1), name="train")
    print(exp.deploy("once"))
"""


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str, str]]:
    """The server's address and password, and the ids of two deployments on it."""
    root = tmp_path_factory.mktemp("forms")
    (root / "program.py").write_text(PROGRAM)
    server = EmbeddedServer(root / "prefect")
    env = {**os.environ, "PREFECT_HOME": str(server.home), "NEMORUN_HOME": str(root / "nemo")}
    try:
        done = subprocess.run(
            [sys.executable, "program.py"], cwd=root, env=env, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        record = server.find()
        assert record
        yield (record.url, record.auth, *done.stdout.split()[-2:])  # type: ignore[misc]
    finally:
        server.stop()


def body(browser: Chrome) -> str:
    return str(browser.execute_script("return document.body.innerText"))


def shows(browser: Chrome, *words: str) -> None:
    """Wait until the page says all of `words`."""
    WebDriverWait(browser, 60, poll_frequency=0.3).until(
        lambda _: all(word in body(browser) for word in words), f"{words} of:\n{body(browser)}"
    )


def test_a_flows_parameters_are_a_form(
    browser: Chrome, deployed: tuple[str, str, str, str], screenshot: Callable[[Chrome, str], Path]
) -> None:
    url, auth, sweep, _ = deployed
    browser.get(link(url, auth, f"/deployments/deployment/{sweep}/run"))
    shows(browser, "form-sweep", "lr", "seeds", "kind", "overrides")
    values = browser.execute_script("return [...document.querySelectorAll('input')].map(i => i.value)")
    assert "0.0003" in values, values
    assert screenshot(browser, "deployment-form.png").stat().st_size > 10_000


def test_a_deployed_experiments_fields_are_a_form(browser: Chrome, deployed: tuple[str, str, str, str]) -> None:
    url, auth, _, plain = deployed
    browser.get(link(url, auth, f"/deployments/deployment/{plain}/run"))
    shows(browser, "form-plain", "overrides", "train.lr", "train.steps")


def test_an_executors_fields_are_a_form_with_descriptions(
    browser: Chrome, deployed: tuple[str, str, str, str], screenshot: Callable[[Chrome, str], Path], tmp_path: Path
) -> None:
    url, auth, *_ = deployed
    env = {**os.environ, "PREFECT_API_URL": f"{url}/api", "PREFECT_API_AUTH_STRING": auth}
    command = [sys.executable, "-m", "prefect", "block", "register", "-m", "nemo_prefect.executors"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    browser.get(link(url, auth, "/blocks/catalog/local-executor/create"))
    shows(
        browser,
        "Local Executor",
        "Environment variables of the job.",
        "How often a job is tried again",
    )
    assert screenshot(browser, "executor-form.png").stat().st_size > 10_000
