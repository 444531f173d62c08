"""The forms of executor blocks, and what a run shows beside states and logs, in a real browser."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

import nemo_prefect as nemo
from nemo_prefect.executors.local import LocalExecutor
from nemo_prefect.executors.registry import executor_class, executor_names
from nemo_prefect.layout import Layout
from nemo_prefect.server import Record, connected
from nemo_prefect.server.sign_in import link

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("home")]

Screenshot = Callable[[Chrome, str], Path]


def text(browser: Chrome) -> str:
    return str(browser.execute_script("return document.body.innerText"))


def wait_for(browser: Chrome, *wanted: str) -> None:
    patient = WebDriverWait(browser, 40, poll_frequency=0.3, ignored_exceptions=[StaleElementReferenceException])
    try:
        patient.until(lambda _: all(w in text(browser) for w in wanted))
    except TimeoutException:
        missing = [w for w in wanted if w not in text(browser)]
        pytest.fail(f"{missing} did not appear at {browser.current_url}, which says:\n{text(browser)}")


def open_page(browser: Chrome, server: Record, path: str) -> None:
    browser.get(link(server.api_url.removesuffix("/api"), server.auth, path))


def described(schema: dict[str, Any], own: type[Any]) -> list[str]:
    """The descriptions of an executor's plain fields: those that the form shows as they are."""
    return [
        field["description"]
        for name, field in schema["properties"].items()
        if field.get("type") in ("string", "integer", "number", "boolean") and name in own.model_fields
    ]


@pytest.mark.parametrize("name", sorted({"local", "slurm"} & set(executor_names())))
def test_the_form_of_an_executor_describes_its_fields(
    browser: Chrome, server: Record, screenshot: Screenshot, name: str
) -> None:
    cls = executor_class(name)

    async def register() -> None:
        await cls.aregister_type_and_schema()

    with connected():
        asyncio.run(register())
    open_page(browser, server, f"/blocks/catalog/{name}-executor/create")
    wanted = described(cls._to_block_schema(block_type_id=None).fields, cls)
    assert len(wanted) >= 5
    wait_for(browser, *wanted)
    screenshot(browser, f"block-form-{name}.png")


def test_a_run_shows_its_artifacts(browser: Chrome, server: Record, screenshot: Screenshot) -> None:
    executor = LocalExecutor(env_vars={"API_KEY": "not-for-the-page"})
    code = "from nemo_prefect.worker import report; report(3, 4, loss=0.5)"
    with nemo.Experiment("artifacts-ui", executor, skip_status_at_exit=True, enable_goodbye_message=False) as exp:
        exp.add(nemo.Script(inline=f"python -c '{code}'"), name="train")
        exp.run()
    flow_run = Layout(exp.directory).read_run()["flow_run_id"]
    open_page(browser, server, f"/runs/flow-run/{flow_run}")
    wait_for(browser, exp.id, "Artifacts")
    browser.find_element(By.ID, "artifacts").click()
    wait_for(browser, "artifacts-ui-jobs", "artifacts-ui-scripts", "artifacts-ui-config", "artifacts-ui-provenance")
    wait_for(browser, "train-progress")
    screenshot(browser, "run-artifacts.png")
    for key, says in (
        ("artifacts-ui-jobs", "SUCCEEDED"),
        ("artifacts-ui-scripts", "API_KEY"),
        ("artifacts-ui-config", "train"),
    ):
        browser.get(f"{server.api_url.removesuffix('/api')}/artifacts/key/{key}")
        wait_for(browser, key)
        browser.execute_script(
            "[...document.querySelectorAll('a')].find(a => /artifacts\\/artifact\\//.test(a.href)).click()"
        )
        wait_for(browser, says)
        assert "not-for-the-page" not in text(browser)
        screenshot(browser, f"{key}.png")
