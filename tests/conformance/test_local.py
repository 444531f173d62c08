import pytest

from nemo_prefect import LocalExecutor
from nemo_prefect.testing.conformance import ConformanceSuite


class TestLocal(ConformanceSuite):
    @pytest.fixture
    def executor(self) -> LocalExecutor:
        return LocalExecutor()
