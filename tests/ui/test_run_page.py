"""The link that a run prints, opened by somebody who knows nothing but that link."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from nemo_prefect.server import EmbeddedServer
from nemo_prefect.server.sign_in import link, make_key

pytestmark = pytest.mark.browser

T = TypeVar("T")
Screenshot = Callable[[Chrome, str], Path]

PROGRAM = """
import nemo_prefect as run

def job(*lines):
    return run.Script(inline="\\n".join(f"echo '{line}'\\nsleep 0.8" for line in lines))

with run.Experiment("fruit-sweep") as exp:
    data = exp.add(job("downloading 12 shards", "data ready"), name="prepare")
    trained = [
        exp.add(job("apple: loss 0.42", "apple: saved"), name="train-a", dependencies=[data]),
        exp.add(job("banana: loss 0.37", "banana: saved"), name="train-b", dependencies=[data]),
    ]
    exp.add(job("banana wins by 0.05"), name="compare", dependencies=trained)
    exp.run()
"""
JOBS = {"prepare", "train-a", "train-b", "compare"}
EDGES = {("prepare", "train-a"), ("prepare", "train-b"), ("train-a", "compare"), ("train-b", "compare")}
OUTPUT = {
    ("prepare", "downloading 12 shards"),
    ("prepare", "data ready"),
    ("train-a", "apple: loss 0.42"),
    ("train-a", "apple: saved"),
    ("train-b", "banana: loss 0.37"),
    ("train-b", "banana: saved"),
    ("compare", "banana wins by 0.05"),
}

#: What the page fetches for its graph, asked for again with what the page keeps to sign in.
FETCH_GRAPH = """
const [path, done] = arguments;
fetch(path, {headers: {Authorization: "Basic " + localStorage.getItem("prefect-password")}})
  .then(answer => answer.json()).then(done);
"""
#: How many pixels of a picture have the green of a job that succeeded, and how many colours the picture has.
LOOK = """
const [picture, done] = arguments;
const image = new Image();
image.onload = () => {
  const canvas = Object.assign(document.createElement("canvas"), {width: image.width, height: image.height});
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, image.width, image.height).data;
  const colours = new Set();
  let green = 0;
  for (let i = 0; i < pixels.length; i += 4) {
    const [r, g, b] = [pixels[i], pixels[i + 1], pixels[i + 2]];
    colours.add(r << 16 | g << 8 | b);
    if (g > 120 && r < 80 && b < 120) green++;
  }
  done({green, colours: colours.size});
};
image.src = "data:image/png;base64," + picture;
"""


@dataclass(frozen=True)
class Run:
    """An experiment that ran, and the link that it printed."""

    id: str
    link: str
    auth: str

    @property
    def title(self) -> str:
        return self.id.rpartition("_")[0]

    @property
    def base(self) -> str:
        return "{0.scheme}://{0.netloc}".format(urlsplit(self.link))

    @property
    def path(self) -> str:
        """Its page, without what signs in."""
        found = re.search(r"next=([^#]+)#", self.link)
        assert found
        return found[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """An experiment run as a program of its own, with a server of its own."""
    root = tmp_path_factory.mktemp("ui")
    (root / "program.py").write_text(PROGRAM)
    server = EmbeddedServer(root / "prefect")
    env = {**os.environ, "PREFECT_HOME": str(server.home), "NEMORUN_HOME": str(root / "nemo")}
    try:
        done = subprocess.run(
            [sys.executable, "program.py"], cwd=root, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        experiment = re.search(r"^Experiment (\S+)$", done.stdout, re.MULTILINE)
        printed = re.search(r"^UI  (http://127\.0\.0\.1:\d+/sign-in\?next=\S+#\S+)$", done.stdout, re.MULTILINE)
        record = server.find()
        assert experiment, done.stdout
        assert printed, done.stdout
        assert record
        yield Run(experiment[1], printed[1], record.auth)
    finally:
        server.stop()


def wait(browser: Chrome, condition: Callable[[], T], what: str, seconds: float = 20) -> T:
    """What `condition` gives once it is true; the page's text where it does not become so."""
    patient = WebDriverWait(browser, seconds, poll_frequency=0.2, ignored_exceptions=[StaleElementReferenceException])
    try:
        return patient.until(lambda _: condition())
    except TimeoutException:
        pytest.fail(f"{what} did not appear within {seconds} s at {browser.current_url}, which says:\n{text(browser)}")


def text(browser: Chrome) -> str:
    """What the page says."""
    return str(browser.execute_script("return document.body.innerText"))


def texts(browser: Chrome, selector: str) -> list[str]:
    """What each of the elements says."""
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def open_run(browser: Chrome, run: Run) -> None:
    """Follow the printed link, and wait for the page that it leads to."""
    browser.get(run.link)
    wait(browser, lambda: run.id in texts(browser, ".page-heading__crumbs span"), "the run's page")


def asks_for_password(browser: Chrome) -> bool:
    return any(field.is_displayed() for field in browser.find_elements(By.CSS_SELECTOR, "input[type=password]"))


def requests(browser: Chrome) -> Iterator[dict[str, Any]]:
    """The network events since the last call, or since the browser started."""
    for entry in browser.get_log("performance"):  # type: ignore[no-untyped-call]
        event = json.loads(entry["message"])["message"]
        if event["method"].startswith("Network."):
            yield event


@pytest.fixture(scope="module")
def signed_in(new_browser: Callable[[], Chrome], run: Run) -> Chrome:
    """One browser for all tests that only look at the page."""
    browser = new_browser()
    list(requests(browser))  # what it did before
    open_run(browser, run)
    return browser


@pytest.fixture
def page(signed_in: Chrome, run: Run) -> Chrome:
    """That browser, at the run's page."""
    if urlsplit(signed_in.current_url).path != run.path:
        open_run(signed_in, run)
    return signed_in


def test_the_printed_link_opens_the_page_of_the_run(browser: Chrome, run: Run, screenshot: Screenshot) -> None:
    open_run(browser, run)
    assert urlsplit(browser.current_url).path == run.path, "it leads to the run's page"
    assert urlsplit(browser.current_url).fragment == "", "and the key is gone from the address bar"
    assert not asks_for_password(browser)
    assert run.id in browser.title
    wait(browser, lambda: {"Completed", "4 Task runs", "fruit-sweep"} <= set(text(browser).splitlines()), "its summary")

    graph = browser.find_element(By.CSS_SELECTOR, ".run-graph__stage canvas")
    assert graph.is_displayed()

    def painted() -> bool:
        seen = browser.execute_async_script(LOOK, graph.screenshot_as_base64)
        # Four boxes, 32 pixels high; the name in each makes shades of its own.
        return bool(seen["green"] > 4 * 32 * 40 and seen["colours"] > 20)

    wait(browser, painted, "the graph painted")
    time.sleep(0.5)  # it moves into place
    screenshot(browser, "run-page.png")


def test_the_graph_has_every_job_and_every_dependency(page: Chrome, run: Run) -> None:
    address = f"/api/flow_runs/{run.path.rpartition('/')[2]}/graph-v2"
    loaded = "return performance.getEntriesByType('resource').map(entry => new URL(entry.name).pathname)"
    wait(page, lambda: address in page.execute_script(loaded), "the page asked for its graph")
    graph = page.execute_async_script(FETCH_GRAPH, address)
    nodes = dict(graph["nodes"])
    assert {node["label"] for node in nodes.values()} == JOBS
    edges = {(nodes[p["id"]]["label"], node["label"]) for node in nodes.values() for p in node["parents"]}
    assert edges == EDGES
    assert {node["state_type"] for node in nodes.values()} == {"COMPLETED"}


def test_the_logs_have_what_the_jobs_wrote(page: Chrome, run: Run) -> None:
    page.find_element(By.ID, "logs").click()
    wait(page, lambda: "All 4 jobs succeeded." in text(page), "the last log line")
    rows = [row.splitlines() for row in texts(page, "#logs-content .log-row")]
    # level, line, time, task run, logger
    assert {(row[3], row[1]) for row in rows if len(row) == 5} >= OUTPUT
    assert not any(row[0] in ("WARNING", "ERROR", "CRITICAL") for row in rows)


def test_the_task_runs_are_the_jobs(page: Chrome, run: Run, screenshot: Screenshot) -> None:
    page.find_element(By.ID, "task-runs").click()
    wait(page, lambda: len(texts(page, "#task-runs-content .state-list-item")) == len(JOBS), "the list of task runs")
    names = texts(page, "#task-runs-content .state-list-item__name")
    states = texts(page, "#task-runs-content .state-badge")
    assert dict(zip(names, states, strict=True)) == dict.fromkeys(JOBS, "Completed")
    screenshot(page, "task-runs.png")


def test_the_artifacts_have_the_table_of_jobs(page: Chrome, run: Run, screenshot: Screenshot) -> None:
    page.find_element(By.ID, "artifacts").click()
    wait(page, lambda: f"Jobs of {run.title}" in text(page), "the artifact")
    screenshot(page, "artifacts.png")
    cards = page.find_elements(By.CSS_SELECTOR, "#artifacts-content a")
    kinds = sorted(card.text.split()[0] for card in cards)
    assert kinds == ["MARKDOWN", "MARKDOWN", "MARKDOWN", "TABLE"]  # its config, its scripts, where it came from
    addresses = [str(card.get_attribute("href")) for card in cards if card.text.startswith("TABLE")]
    tables = [_table(page, address) for address in addresses]
    (table,) = tables
    assert {row["job"]: row["state"] for row in table} == dict.fromkeys(JOBS, "SUCCEEDED")
    assert {row["executor"] for row in table} == {"local"}
    assert all(Path(row["directory"]).is_dir() for row in table)


def _table(page: Chrome, address: str) -> list[dict[str, str]]:
    page.get(address)
    wait(page, lambda: len(texts(page, "table tbody tr")) == len(JOBS), "the table")
    rows = "return [...document.querySelectorAll('table tbody tr')].map(r => [...r.cells].map(c => c.innerText.trim()))"
    return [dict(zip(texts(page, "table th"), cells, strict=True)) for cells in page.execute_script(rows)]


def test_there_is_one_table_of_jobs_and_not_one_for_every_time_it_changed(page: Chrome, run: Run) -> None:
    page.find_element(By.ID, "artifacts").click()
    wait(page, lambda: f"Jobs of {run.title}" in text(page), "the artifact")
    cards = page.find_elements(By.CSS_SELECTOR, "#artifacts-content a")
    assert len([card for card in cards if card.text.startswith("TABLE")]) == 1


def test_nothing_that_the_page_asks_for_fails_or_leaves_the_machine(page: Chrome, run: Run) -> None:
    for tab in ("task-runs", "artifacts", "parameters", "logs"):
        page.find_element(By.ID, tab).click()
        wait(page, page.find_element(By.ID, f"{tab}-content").is_displayed, tab)
    wait(page, lambda: "All 4 jobs succeeded." in text(page), "the last log line")
    assert "Oops" not in text(page)
    events = list(requests(page))
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    answers = [e["params"]["response"] for e in events if e["method"] == "Network.responseReceived"]
    api = [(urlsplit(a["url"]).path, a["status"]) for a in answers if a["url"].startswith(f"{run.base}/api/")]
    assert len(api) > 5
    assert [(path, status) for path, status in api if status >= 400] == []
    assert {u for u in asked if u.startswith("http") and not u.startswith(f"{run.base}/")} == set()


def test_a_browser_that_is_signed_in_may_use_an_expired_link(page: Chrome, run: Run) -> None:
    page.get("about:blank")
    page.get(link(run.base, run.auth, run.path, lifetime=-1))
    wait(page, lambda: run.id in texts(page, ".page-heading__crumbs span"), "the run's page")


def test_without_the_key_the_page_says_how_to_sign_in(browser: Chrome, run: Run) -> None:
    browser.get(run.base + run.path)
    wait(browser, lambda: "nemo-prefect experiment open" in text(browser), "the page that signs in")
    assert urlsplit(browser.current_url).path == "/sign-in"
    assert run.id not in text(browser)
    assert not JOBS & set(text(browser).split())
    assert browser.execute_script("return localStorage.getItem('prefect-password')") is None
    browser.get(run.link)
    wait(browser, lambda: run.id in text(browser), "the run's page")


def test_expired_forged_and_missing_keys_do_not_sign_in(browser: Chrome, run: Run) -> None:
    good = run.link.partition("#")[2]
    until, _, digest = good.partition(".")
    bad = {
        "expired": make_key(run.auth, time.time() - 1),
        "another server's": make_key("me:other", time.time() + 60),
        "prolonged": f"{int(until) + 3600}.{digest}",
        "cut": good[:-1],
        "missing": "",
    }
    for what, key in bad.items():
        browser.get("about:blank")  # else only the fragment changes, and nothing is loaded
        browser.get(f"{run.base}/sign-in?next={run.path}#{key}")
        wait(browser, lambda: "makes a link that signs in" in text(browser), what)
        assert urlsplit(browser.current_url).path == "/sign-in", what
        assert browser.execute_script("return localStorage.getItem('prefect-password')") is None, what


@pytest.mark.parametrize(
    "path", ["/api/admin/version", "/api/admin/settings", "/api/flow_runs/{id}", "/api/flow_runs/{id}/graph-v2"]
)
def test_without_credentials_the_api_answers_401(run: Run, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(run.base + path.format(id=run.path.rpartition("/")[2]))
    assert caught.value.code == 401
    assert run.id not in caught.value.read().decode()
    caught.value.close()


@pytest.mark.parametrize(
    "elsewhere",
    [
        "//example.invalid/",
        "/%5Cexample.invalid/",
    ],
)
def test_a_link_leads_nowhere_else(page: Chrome, run: Run, elsewhere: str) -> None:
    page.get("about:blank")
    page.get(f"{run.base}/sign-in?next={elsewhere}#{run.link.partition('#')[2]}")
    wait(page, lambda: urlsplit(page.current_url).path != "/sign-in", "another page")
    assert page.current_url.startswith(run.base)
