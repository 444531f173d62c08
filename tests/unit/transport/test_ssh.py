"""What an SSHTunnel takes, refuses and tells of itself, without any connection."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field, SerializeAsAny, ValidationError

from nemo_prefect.errors import ConfigError
from nemo_prefect.polymorphic import Polymorphic
from nemo_prefect.testing.fake import FakeExecutor
from nemo_prefect.transport import LocalTunnel, SSHTunnel, Tunnel
from nemo_prefect.transport.trees import is_excluded, rsync_pattern


class Holder(Polymorphic):
    tunnel: SerializeAsAny[Tunnel] = Field(default_factory=LocalTunnel)


class ClusterExecutor(FakeExecutor):
    _block_type_slug = "test-cluster-executor"

    tunnel: SerializeAsAny[Tunnel] = Field(default_factory=LocalTunnel)


def test_it_travels_as_data_with_its_secrets_only_where_they_may() -> None:
    tunnel = SSHTunnel(host="h", user="u", job_dir="/jobs", identity="k", port=2222, password="pa55", passphrase="pa55 too")
    holder = Holder(tunnel=tunnel)
    assert "pa55" not in holder.model_dump_json() + repr(holder) + str(holder.model_dump())
    written = holder.model_dump_json(context={"include_secrets": True})
    assert Holder.model_validate_json(written) == holder
    assert Holder.model_validate_json(written).tunnel.password == tunnel.password  # type: ignore[attr-defined]


def test_it_travels_inside_an_executor() -> None:
    tunnel = SSHTunnel(host="h", password="pa55")
    executor = ClusterExecutor(tunnel=tunnel)
    assert "pa55" not in str(executor.model_dump(mode="json"))
    written = executor.model_dump(mode="json", context={"include_secrets": True})
    again = ClusterExecutor.model_validate(
        {name: value for name, value in written.items() if name in ClusterExecutor.model_fields}
    )
    assert again.tunnel == tunnel


def test_nemo_run_s_arguments() -> None:
    tunnel = SSHTunnel(
        job_dir="/jobs", host="h", user="u", packaging_jobs={}, port=1, identity="i", shell="bash", pre_command="true"
    )
    assert tunnel.key == "u@h:1"
    assert tunnel.directory_for(Path("/home/me/experiments/title/title_1")) == "/jobs/title/title_1"
    assert SSHTunnel(host="h").key == "h"


@pytest.mark.parametrize(
    "fields",
    [
        {"job_dir": "relative"},
        {"job_dir": "~/jobs"},
        {"host": ""},
        {"host": "-oProxyCommand=x"},
        {"host": "a b"},
        {"user": "a\nb"},
        {"port": 0},
        {"connect_timeout": 0},
        {"no_such_field": 1},
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises((ConfigError, ValidationError)):
        SSHTunnel(**{"host": "h", **fields})  # type: ignore[arg-type]


def test_it_needs_a_job_dir_for_experiments() -> None:
    with pytest.raises(ConfigError, match="needs a job_dir"):
        SSHTunnel(host="h").directory_for(Path("/e/t/t_1"))


def test_nothing_is_imported_before_it_is_used() -> None:
    code = "from nemo_prefect import SSHTunnel; SSHTunnel(host='h'); import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"asyncssh", "cryptography", "prefect", "fiddle"}


@pytest.mark.parametrize(
    ("pattern", "path", "excluded"),
    [
        ("*.pyc", "a.pyc", True),
        ("*.pyc", "x/y/a.pyc", True),
        ("*.pyc", "a.py", False),
        ("code", "code", True),
        ("code/", "x/code", True),
        ("x/code", "x/code", True),
        ("x/code", "y/x/code", False),
        ("x/*", "x/code", True),
        ("x/*", "x/code/deep", False),
        ("/top", "top", True),
        ("/top", "x/top", False),
        ("[a]", "a", True),
        ("x", "x/code/deep", False),
    ],
)
def test_patterns(pattern: str, path: str, excluded: bool, tmp_path: Path) -> None:
    assert is_excluded(path, [pattern]) is excluded
    here = tmp_path / "here"
    (here / path).parent.mkdir(parents=True)
    (here / path).touch()
    command = [
        "rsync",
        "-n",
        "-r",
        "--out-format=%n",
        f"--exclude={rsync_pattern(pattern)}",
        f"{here}/",
        f"{tmp_path}/there",
    ]
    try:
        seen = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except FileNotFoundError:
        pytest.skip("no rsync here")
    # (rsync leaves out what an excluded directory holds without naming it.)
    above = [str(folder) for folder in Path(path).parents if str(folder) != "."]
    assert (path not in seen) is (excluded or any(is_excluded(folder, [pattern]) for folder in above))
