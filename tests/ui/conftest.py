"""A real browser: Debian's Chromium, headless, with a profile that nobody used before."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",  # the page is on this machine, whatever the environment says
    "--force-color-profile=srgb",
    "--window-size=1400,1000",
)


@pytest.fixture(scope="module")
def new_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], webdriver.Chrome]]:
    """Starts a browser that is signed in nowhere. Its performance log holds every request that its pages make."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("apt-get install chromium chromium-driver")
    with ExitStack() as started:

        def start() -> webdriver.Chrome:
            options = webdriver.ChromeOptions()
            options.binary_location = CHROMIUM
            for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
                options.add_argument(argument)
            options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
            # Told where the driver is, selenium does not go and download one.
            driver = webdriver.Chrome(options=options, service=Service(DRIVER))
            started.callback(driver.quit)
            driver.set_page_load_timeout(30)
            driver.set_script_timeout(15)
            return driver

        yield start


@pytest.fixture
def browser(new_browser: Callable[[], webdriver.Chrome]) -> Iterator[webdriver.Chrome]:
    """A browser of the test's own."""
    driver = new_browser()
    yield driver
    driver.quit()


@pytest.fixture
def screenshot(tmp_path: Path) -> Callable[[webdriver.Chrome, str], Path]:
    """Saves what a browser shows, to $NEMO_PREFECT_SCREENSHOTS where that is set: ``screenshot(browser, "run.png")``."""
    directory = Path(os.environ.get("NEMO_PREFECT_SCREENSHOTS") or tmp_path)

    def save(driver: webdriver.Chrome, name: str) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        assert driver.save_screenshot(str(directory / name))
        return directory / name

    return save
