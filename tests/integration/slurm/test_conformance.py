import pytest

from nemo_prefect.testing.conformance import ConformanceSuite

pytestmark = pytest.mark.slurm


class TestSlurm(ConformanceSuite):
    timeout = 120.0
