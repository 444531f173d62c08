import pytest

from nemo_prefect.testing.conformance import ConformanceSuite

pytestmark = pytest.mark.kubernetes


class TestKubernetes(ConformanceSuite):
    """With the executor of conftest.py."""

    timeout = 120.0
