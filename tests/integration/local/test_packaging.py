"""With a packager a job runs on a copy of the code, made when the experiment was launched."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import nemo_prefect as run
from nemo_prefect.errors import PackagingError

pytestmark = pytest.mark.usefixtures("server", "home")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    (root / "train.sh").write_text("cat data.txt > result.txt; cat result.txt\n")
    (root / "data.txt").write_text("committed\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *command],
            cwd=root,
            check=True,
            env={"PATH": "/usr/bin:/bin"},
        )
    monkeypatch.chdir(root)
    return root


def output(exp: run.Experiment, job: str = "job") -> str:
    return (exp.directory / job / "attempt-1/stdout.log").read_text()


def test_uncommitted_changes_travel_and_the_original_is_left_alone(repository: Path) -> None:
    (repository / "data.txt").write_text("changed\n")
    with run.Experiment("packed", executor=run.LocalExecutor(packager=run.GitArchivePackager())) as exp:
        exp.add(run.Script("train.sh"), name="job")
        exp.add([run.Script("train.sh"), run.Script("train.sh")], name="pair")
        exp.run()
    assert output(exp) == output(exp, "pair/1") == "changed\n"
    assert not (repository / "result.txt").exists()
    assert "-committed" in (exp.directory / "job/code.provenance.json").read_text()


def test_a_packager_that_refuses_leaves_nothing_behind(repository: Path, home: Path) -> None:
    (repository / "data.txt").write_text("changed\n")
    strict = run.LocalExecutor(packager=run.GitArchivePackager(check_uncommitted_changes=True))
    with run.Experiment("refused", executor=strict) as exp:
        exp.add(run.Script("train.sh"), name="job")
        with pytest.raises(PackagingError, match=r"data\.txt"):
            exp.run()
    assert not list(home.glob("experiments/refused/*"))
