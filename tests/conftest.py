"""Every test runs with a Prefect home and an experiments' home of its own; nothing of the user's is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

#: Runs the tests against a server that is there already: the address of its API, a space, ``user:password``.
SERVER = "NEMO_PREFECT_TEST_SERVER"

# Here, and not in a hook: the conftest files below this one import Prefect, which reads its settings once.
for name in [n for n in os.environ if n.startswith(("PREFECT_", "NEMO"))]:
    if name not in ("NEMO_PREFECT_SCREENSHOTS", "NEMO_PREFECT_GOLDEN", SERVER):
        del os.environ[name]
root = tempfile.mkdtemp(prefix="nemo-prefect-tests-")
os.environ["PREFECT_HOME"] = f"{root}/prefect"
os.environ["NEMORUN_HOME"] = f"{root}/nemo"
if SERVER in os.environ:
    os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"] = os.environ[SERVER].split(" ", 1)

from nemo_prefect.server import EmbeddedServer, Record  # noqa: E402 - it may import Prefect


@pytest.fixture(scope="session", autouse=True)
def homes() -> Iterator[Path]:
    """Holds PREFECT_HOME and NEMORUN_HOME of the whole session."""
    root = Path(os.environ["PREFECT_HOME"]).parent
    yield root
    EmbeddedServer(root / "prefect").stop()
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def server(homes: Path) -> Record:
    """The session's server: the embedded one, unless another was named."""
    if SERVER in os.environ:
        url = urlsplit(os.environ["PREFECT_API_URL"])
        return Record(str(url.hostname), int(url.port or 0), os.getpid(), os.environ["PREFECT_API_AUTH_STRING"])
    return EmbeddedServer(homes / "prefect").start()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiments' home for one test."""
    monkeypatch.setenv("NEMORUN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Runs Python source as a program of its own, as a user would: ``script(source, *arguments)``."""

    def run(source: str, *arguments: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "program.py"
        file.write_text(textwrap.dedent(source))
        done = subprocess.run(
            [sys.executable, str(file), *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=timeout
        )
        if check and done.returncode:
            raise AssertionError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return run
