"""The command, as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import nemo_prefect as run

pytestmark = pytest.mark.usefixtures("server", "home")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "nemo_prefect", *arguments], capture_output=True, text=True, timeout=120)


@pytest.fixture
def exp(home: Path) -> run.Experiment:
    with run.Experiment("cli", enable_goodbye_message=False) as exp:
        exp.add(run.Script(inline="echo one; echo two"), name="first")
        exp.add([run.Script(inline="echo zero"), run.Script(inline="echo one")], name="pair")
        exp.run()
    return exp


def test_list_status_logs_open(exp: run.Experiment) -> None:
    assert json.loads(command("experiment", "list", "--json").stdout) == ["cli"]
    assert json.loads(command("experiment", "list", "cli", "--json").stdout) == [exp.id]
    status = json.loads(command("experiment", "status", "cli", "--json").stdout)
    assert {k: v["status"] for k, v in status.items()} == dict.fromkeys(["first", "pair", "pair/0", "pair/1"], "SUCCEEDED")
    assert "first" in command("experiment", "status", exp.id).stdout
    assert command("experiment", "logs", exp.id).stdout == "one\ntwo\n"
    assert command("experiment", "logs", exp.id, "first", "--regex", "^t").stdout == "two\n"
    assert sorted(command("experiment", "logs", exp.id, "pair").stdout.split("\n")) == ["", "pair/0 zero", "pair/1 one"]
    assert command("experiment", "logs", exp.id, "1").stdout == command("experiment", "logs", exp.id, "pair").stdout
    first = command("experiment", "logs", exp.id, "0", "--json").stdout.splitlines()[0]
    assert json.loads(first) == {"job": "first", "line": "one"}
    opened = json.loads(command("experiment", "open", exp.id, "--json").stdout)
    assert opened["link"].startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["experiment", "status", "cli_1"], "Experiment cli_1 not found", 1),
        (["experiment", "logs", "cli", "nope"], "cli_", 1),
        (["experiment", "cancel", "cli"], "Name a job, or pass --all", 2),
        (["experiment", "nope"], "No such command", 2),
    ],
)
def test_bad_input_is_one_paragraph_and_an_exit_code(
    exp: run.Experiment, arguments: list[str], words: str, code: int
) -> None:
    done = command(*arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_cancelling_what_has_ended_changes_nothing(exp: run.Experiment) -> None:
    done = command("experiment", "cancel", exp.id, "--all")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(command("experiment", "status", exp.id, "--json").stdout)["first"]["status"] == "SUCCEEDED"


def test_doctor_finds_nothing_wrong_here() -> None:
    findings = json.loads(command("doctor", "--json").stdout)
    assert {f["level"] for f in findings} == {"ok"}, findings
    assert {"Python", "prefect", "server", "executor local"} <= {f["subject"] for f in findings}


def test_server_commands() -> None:
    status = json.loads(command("server", "status", "--json").stdout)
    assert status["running"] is True
    assert "export PREFECT_API_URL=http://127.0.0.1:" in command("server", "env").stdout


def test_version_and_help() -> None:
    assert command("--version").stdout.strip() == run.__version__
    assert "experiment" in command("--help").stdout
