"""The registry of factories is global: every test has it as it was before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nemo_prefect.cli import factories


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    kept = list(factories._factories)
    entrypoints = {name: dict(members) for name, members in factories._entrypoints.items()}
    yield
    factories._factories[:] = kept
    factories._entrypoints.clear()
    factories._entrypoints.update(entrypoints)
