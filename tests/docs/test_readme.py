"""Every code block of the README runs; every figure in it has the command that measures it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.usefixtures("server")


#: What says that a cluster is up, by the word in the comment with which its blocks begin.
CLUSTERS = {
    "docker": ["docker", "image", "inspect", "python:3.11-slim"],
    "kubernetes": ["kubectl", "get", "--raw", "/readyz"],
    "slurm": ["scontrol", "ping"],
}


def cluster_is_up(name: str) -> bool:
    try:
        return subprocess.run(CLUSTERS[name], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.fixture(scope="module", autouse=True)
def image() -> Iterator[None]:
    """Where the tests' own image is and the README's is not, the one stands for the other."""
    if cluster_is_up("docker") or subprocess.run(["which", "docker"], capture_output=True).returncode:
        yield
        return
    subprocess.run(["docker", "tag", "local/python:3.11", "python:3.11-slim"], capture_output=True)
    yield
    subprocess.run(["docker", "rmi", "python:3.11-slim"], capture_output=True)


def test_the_blocks_run_in_the_order_in_which_they_stand(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "NEMORUN_HOME": str(tmp_path / "home"),
        "BROWSER": "true",
    }
    ran = 0
    for language, source in BLOCKS:
        needs = re.match(r"# needs (\w+)", source)
        if needs and not cluster_is_up(needs[1]):
            continue
        if language == "python" and (named := re.match(r"# (\w+\.py)$", source, re.MULTILINE)):
            (tmp_path / named.group(1)).write_text(source)  # a script that the next block runs
            continue
        if language == "python":
            file = tmp_path / f"block_{ran}.py"
            file.write_text(source)
            command = [sys.executable, str(file)]
        elif language == "bash":
            command = ["bash", "-euo", "pipefail", "-c", source]
        else:
            assert language == "console", f"a block in {language} would not be tested"
            continue
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=180)
        expected = 1 if "# this fails" in source else 0
        assert done.returncode == expected, f"{source}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran >= 6


def test_every_make_target_that_it_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"hello", "check", "bench"} <= named <= targets


def test_every_file_that_it_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_it_names_no_path_of_a_machine() -> None:
    assert not re.search(r"/(root|work|opt)/", README)
