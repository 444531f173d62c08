"""Every registered executor is a block that Prefect's own standards accept."""

from __future__ import annotations

import pytest
from prefect.blocks.abstract import JobBlock
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite

from nemo_prefect.executors.registry import executor_class, executor_names


@pytest.mark.parametrize("name", executor_names())
class TestStandards(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, name: str) -> type[Block]:
        return executor_class(name)

    def test_has_a_valid_image(self, block: type[Block]) -> None:  # the suite fetches it: there may be no internet here
        assert str(block._logo_url).startswith("https://")
        assert str(block._logo_url).endswith(".png")

    def test_is_a_job_block_under_its_own_slug(self, block: type[Block], name: str) -> None:
        assert issubclass(block, JobBlock)
        assert block.get_block_type_slug() == f"{name}-executor"
        assert "trigger" in block.get_block_capabilities()

    def test_its_type_and_schema_can_be_sent_to_a_server(self, block: type[Block]) -> None:
        assert block._to_block_type().logo_url is not None
        assert "env_vars" in block._to_block_schema(block_type_id=None).fields["properties"]


def test_the_four_executors_are_registered() -> None:
    assert {"local", "slurm", "docker", "kubernetes"} <= set(executor_names())
