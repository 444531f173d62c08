"""A real Docker engine; without one, one line says how to bring it up."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

IMAGE = "local/python:3.11"
HOW = (
    f"no Docker engine with the image {IMAGE}: apt-get install docker.io debootstrap; dockerd & "
    f"debootstrap --include=python3 bookworm r; tar -C r -c . | docker import - {IMAGE}"
)


def docker(*arguments: str) -> str:
    """Run Docker's own command line, the judge of what is there."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    try:
        docker("image", "inspect", IMAGE)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(HOW)


@pytest.fixture(autouse=True)
def nothing_left_behind(engine: None) -> Iterator[None]:
    """Every test ends with no container and no network of ours on the engine."""
    before = leftovers()
    yield
    assert leftovers() <= before


def leftovers() -> set[str]:
    ours = ("--filter", "label=nemo-prefect/key")
    return {*docker("ps", "-aq", *ours).split(), *docker("network", "ls", "-q", *ours).split()}
