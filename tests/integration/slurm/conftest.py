"""What the tests on a real cluster share."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from nemo_prefect import SlurmExecutor


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    if here and not is_up():
        for item in here:
            item.add_marker(
                pytest.mark.skip(reason="needs a Slurm that `scontrol ping` finds UP, with an account `research`")
            )


def is_up() -> bool:
    if not shutil.which("scontrol"):
        return False
    return "is UP" in subprocess.run(["scontrol", "ping"], capture_output=True, text=True).stdout


@pytest.fixture
def executor() -> SlurmExecutor:
    return SlurmExecutor(account="research", partition="debug", time="00:05:00", wait_time_for_group_job=0)
