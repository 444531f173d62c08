"""What deployments/ ships is of a form that Prefect and Compose take."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

from nemo_prefect._async import run_sync

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", ["process", "docker", "kubernetes"])
def test_a_work_pools_template_has_what_its_worker_expects(kind: str) -> None:
    ours = json.loads((ROOT / f"deployments/work-pools/{kind}.json").read_text())
    theirs = run_sync(get_default_base_job_template_for_infrastructure_type(kind))
    if theirs is None:
        pytest.skip(f"the worker of {kind} pools is not installed: pip install 'nemo-prefect[{kind}]'")
    assert set(ours["variables"]["properties"]) == set(theirs["variables"]["properties"])
    used = set(re.findall(r"\{\{ *(\w+) *\}\}", json.dumps(ours["job_configuration"])))
    assert used <= set(ours["variables"]["properties"])


def test_each_deployment_names_a_flow_that_is_there() -> None:
    for deployment in yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())["deployments"]:
        file, _, name = deployment["entrypoint"].partition(":")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_the_shared_server_asks_for_its_secrets_and_listens_on_this_machine_only() -> None:
    services = yaml.safe_load((ROOT / "deployments/compose.yaml").read_text())["services"]
    assert services["server"]["ports"] == ["127.0.0.1:4200:4200"]
    assert "${POSTGRES_PASSWORD:?" in services["postgres"]["environment"]["POSTGRES_PASSWORD"]
    assert "${PREFECT_AUTH:?" in services["server"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"]


def test_every_file_that_the_guide_links_to_is_there() -> None:
    folder = ROOT / "deployments"
    for target in re.findall(r"\]\(([^)#]+)\)", (folder / "README.md").read_text()):
        assert (folder / target).exists(), target
