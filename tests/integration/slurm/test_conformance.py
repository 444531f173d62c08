"""What every executor must do, on a directory that the cluster sees and on one that it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_prefect import SlurmExecutor
from nemo_prefect.testing.conformance import ConformanceSuite
from nemo_prefect.transport import LocalTunnel

pytestmark = pytest.mark.slurm


class TestSlurm(ConformanceSuite):
    timeout = 120.0


class TestSlurmWithADirectoryOfItsOwn(ConformanceSuite):
    """The experiment's directory is copied, and what the job writes is fetched, as over SSH."""

    timeout = 120.0

    @pytest.fixture
    def executor(self, executor: SlurmExecutor, tmp_path: Path) -> SlurmExecutor:
        executor.tunnel = LocalTunnel(job_dir=str(tmp_path / "cluster"))
        return executor
