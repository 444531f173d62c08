"""Scripts with entry points, started as their users start them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import nemo_prefect as run

pytestmark = pytest.mark.usefixtures("server", "home")

SCRIPT = '''
from dataclasses import dataclass
from pathlib import Path
import nemo_prefect as run

@dataclass
class Optimizer:
    lr: float = 0.1

@dataclass
class Model:
    hidden: int = 4
    optimizer: Optimizer | None = None

@dataclass
class Greet(run.Plugin):
    word: str = "hello"
    def setup(self, task, executor):
        executor.env_vars["WORD"] = self.word

@run.cli.factory
@run.autoconvert
def small(hidden: int = 8) -> Model:
    """A small one."""
    return Model(hidden=hidden, optimizer=Optimizer(lr=0.5))

@run.cli.factory
@run.autoconvert
def greet(word: str = "hi") -> Greet:
    return Greet(word=word)

@run.cli.entrypoint
def train(model: Model, epochs: int = 3, runtime: int = 1, where: Path = Path("here"), fail: bool = False):
    """Train a model.

    Args:
        epochs: how often it sees all data.
    """
    import os
    print("TRAINED", model, epochs, runtime, where, os.environ.get("WORD"))
    if fail:
        raise SystemExit("out of luck")

@run.cli.entrypoint(type="experiment")
def sweep(exp: run.Experiment, ctx: run.cli.RunContext, seeds: list[int]):
    first = exp.add(run.Script(inline="echo first"), name="first")
    for seed in seeds:
        exp.add(run.Partial(train, model=run.Config(Model, hidden=seed)), name=f"seed-{seed}", dependencies=[first])

if __name__ == "__main__":
    run.cli.main(train)
'''

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs the script, or with ``of="train"`` the command on it: ``command(*arguments)``."""
    (tmp_path / "job.py").write_text(SCRIPT)

    def start(*arguments: str, of: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        program = ["-m", "nemo_prefect", "run", of] if of else ["job.py"]
        done = subprocess.run(
            [sys.executable, *program, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=180,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert code != 1 or "Traceback" not in done.stderr.splitlines()[0]
        return done

    return start


def output(title: str, job: str) -> str:
    exp = run.Experiment.from_title(title)
    return (exp.directory / job / "attempt-1" / "stdout.log").read_text()


def test_in_this_process_with_a_file_a_factory_and_overrides(command: Command, tmp_path: Path) -> None:
    (tmp_path / "args.yaml").write_text("model: {_factory_: small, hidden: 5}\nepochs: 7\nwhere: /data\n")
    done = command("--yes", "--yaml", "args.yaml", "epochs+=1", "model.optimizer.lr=1e-4", "runtime=2")
    assert "TRAINED Model(hidden=5, optimizer=Optimizer(lr=0.0001)) 8 2 /data None" in done.stdout


@pytest.mark.parametrize("of", ["", "job.py:train", "job:train"])
def test_as_a_job(command: Command, of: str) -> None:
    command(
        "--yes",
        "--name",
        "mine",
        "model=small(hidden=6)",
        "where=/data",
        "executor=local",
        "executor.retries=1",
        "plugins=greet(word='moin moin')",
        of=of,
    )
    text = output("mine", "mine")
    assert "TRAINED " in text
    assert "Model(hidden=6, optimizer=" in text
    assert "3 1 /data moin moin" in text
    (spec,) = run.Experiment.from_title("mine")._stored.jobs  # type: ignore[union-attr]
    assert spec.executors[0].config == {"env_vars": {"WORD": "moin moin"}, "retries": 1}


def test_detached(command: Command) -> None:
    done = command("--yes", "model=small", "run.executor=local", "run.detach=true", of="job.py:train")
    exp = run.Experiment.from_title("train")
    assert exp.id in done.stdout
    ends = time.monotonic() + 120
    while exp.status(return_dict=True)["train"]["status"] != "SUCCEEDED":  # type: ignore[index]
        assert time.monotonic() < ends
        time.sleep(0.2)
    assert "TRAINED" in output("train", "train")


def test_an_experiment(command: Command) -> None:
    done = command("--dryrun", "seeds=[1, 2]", of="job.py:sweep")
    assert "seed-2" in done.stdout
    assert run.Experiment.catalog("sweep") == []
    command("--yes", "seeds=[i for i in range(1, 3)]", of="job.py:sweep")
    assert "Model(hidden=2" in output("sweep", "seed-2")


def test_a_failure_is_exit_code_1(command: Command) -> None:
    in_process = command("--yes", "model=small", "fail=true", code=1)
    assert "out of luck" in in_process.stderr
    as_a_job = command("--yes", "model=small", "fail=true", "executor=local", code=1)
    assert "train: FAILED (exit code 1)" in as_a_job.stderr
    assert "out of luck" in as_a_job.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--yes", "model=small", "epoch=4"], "Did you mean 'epochs'?"),
        (["--yes", "model=small", "epochs=four"], "epochs=four: Failed to parse 'four' as int"),
        (["--yes", "model=smal"], "Did you mean 'small'?"),
        (["--yes", "model=small", "executor=locl"], "Did you mean 'local'?"),
        (["--yes"], "train needs model."),
        (["model=small"], "Pass --yes to run without asking."),
    ],
)
def test_a_mistake_is_one_paragraph_and_nothing_runs(command: Command, arguments: list[str], words: str, home: Path) -> None:
    done = command(*arguments, code=1)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "TRAINED" not in done.stdout
    assert not home.exists()


def test_the_target_is_named_wrongly(command: Command) -> None:
    for target, words in [
        ("job.py:trian", "Did you mean 'train'?"),
        ("jop.py:train", "Did you mean 'job.py'?"),
        ("jop:train", "There is no module 'jop'."),
        ("job.py", "Name one of train, sweep"),
    ]:
        assert words in command("--yes", of=target, code=1).stderr


def test_help_names_parameters_defaults_and_factories(command: Command) -> None:
    for done in (command("--help"), command("--help", of="job.py:train")):
        shown = " ".join(done.stdout.split())
        for words in ("Train a model.", "epochs", "how often it sees all data.", "small(hidden=8)", "A small one.", "--yes"):
            assert words in shown


def test_a_dryrun_leaves_nothing_behind(command: Command, home: Path) -> None:
    done = command("--dryrun", "model=small", "executor=local")
    assert "Dry run" in done.stdout
    assert "export NEMO_PREFECT_JOB_ID=train" in done.stdout
    assert not home.exists()


def test_what_is_exported_runs_the_same(command: Command, tmp_path: Path) -> None:
    for ending in ("yaml", "toml", "json"):
        command(f"--to-{ending}", f"config.{ending}", "model=small", "epochs=9", "where=/data")
        done = command("--yes", "--yaml", f"config.{ending}")
        assert "TRAINED Model(hidden=8, optimizer=Optimizer(lr=0.5)) 9 1 /data" in done.stdout


def test_a_question_is_answered_on_a_terminal(tmp_path: Path, command: Command) -> None:
    import os
    import pty

    for answer, code in [(b"n\n", 1), (b"y\n", 0)]:
        main, other = pty.openpty()
        os.write(main, answer)
        done = subprocess.run(
            [sys.executable, "job.py", "model=small"], stdin=other, capture_output=True, text=True, cwd=tmp_path, timeout=120
        )
        os.close(main)
        os.close(other)
        assert done.returncode == code, done.stderr
        assert ("TRAINED" in done.stdout) is (code == 0)


def test_the_task_is_changed_in_a_session(tmp_path: Path, command: Command) -> None:
    import os

    done = subprocess.run(
        [sys.executable, "job.py", "--repl", "--yes", "model=small"],
        input="train.epochs = 77\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        env={**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")},
    )
    assert done.returncode == 0, done.stderr
    assert "TRAINED Model(hidden=8, optimizer=Optimizer(lr=0.5)) 77 1" in done.stdout


def test_commands_of_a_workspace_and_of_other_packages(tmp_path: Path, command: Command) -> None:
    import os

    (tmp_path / "below").mkdir()
    (tmp_path / "workspace.py").write_text(SCRIPT)
    (tmp_path / "other.py").write_text(
        "import typer\napp = typer.Typer()\n@app.command()\ndef hello():\n    print('HELLO')\n"
        "@app.command()\ndef bye():\n    print('BYE')\n"
    )
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nemo_prefect.cli]\nother = other:app\nbroken = nowhere:app\n")

    def nemo(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nemo_prefect", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path / "below",
            timeout=120,
            env={**os.environ, "PYTHONPATH": str(tmp_path), **env},
        )

    here = nemo("workspace", "train", "--yes", "model=small", INCLUDE_WORKSPACE_FILE="true")
    assert "TRAINED" in here.stdout, here.stderr
    assert nemo("workspace", "train").returncode == 2
    other = nemo("other", "hello")
    assert other.stdout == "HELLO\n"
    assert "The command broken of nowhere:app could not be loaded" in other.stderr
    assert nemo("experiment", "--help").stderr == ""
