from __future__ import annotations

from pathlib import Path

import pytest

from nemo_prefect import DockerExecutor
from nemo_prefect.testing.conformance import ConformanceSuite

pytestmark = pytest.mark.docker


class TestDocker(ConformanceSuite):
    @pytest.fixture
    def executor(self, tmp_path: Path) -> DockerExecutor:
        return DockerExecutor(
            container_image="local/python:3.11", image_pull_policy="Never", volumes=[f"{tmp_path}:{tmp_path}"]
        )
