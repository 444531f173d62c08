"""What a user of NeMo-Run relies on, row by row, with jobs that really run. (Rows that need none are in
tests/unit/test_drop_in.py.)"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.errors import ExperimentFailed, NotFoundError
from nemo_prefect.layout import Layout
from nemo_prefect.server import EmbeddedServer

pytestmark = pytest.mark.usefixtures("server", "home")

PROGRAM = """
import dataclasses
import nemo_prefect as run

@dataclasses.dataclass
class Optimizer:
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)

@dataclasses.dataclass
class Model:
    optimizer: Optimizer
    sizes: list[int] = dataclasses.field(default_factory=list)

def train(model: Model, *, steps: int = 1, notes: dict | None = None) -> None:
    print("train", model.optimizer.lr, model.optimizer.betas, model.sizes, steps, notes)

@run.autoconvert
def small(lr: float = 0.5) -> Model:
    return Model(Optimizer(lr=lr), sizes=[1, 2])

@dataclasses.dataclass
class Noted(run.Plugin):
    note: str = "plugged"

    def setup(self, task, executor):
        executor.env_vars["NOTE"] = self.note
        if isinstance(task, run.Partial):
            task.notes = {"by": self.note}

if __name__ == "__main__":
    shared = run.Config(Optimizer, lr=0.25)
    task = run.Partial(train, model=run.Config(Model, optimizer=shared), steps=2)
    with run.Experiment("rows", executor=run.LocalExecutor(env_vars={"NOTE": "none"})) as exp:
        first = exp.add(task, tail_logs=True)
        again = exp.add(task.clone().broadcast(lr=0.75), tail_logs=True)
        named = exp.add(run.Partial(train, model=small(), steps=3), name="named", plugins=[Noted()])
        script = exp.add(run.Script(inline="echo note $NOTE; echo other"), name="script", dependencies=[first, again])
        group = exp.add(
            [run.Script(inline="echo zero $NOTE"), run.Script(inline="echo one $NOTE")],
            [run.LocalExecutor(), run.LocalExecutor()], name="group", plugins=[Noted("grouped")], dependencies=[script],
        )
        exp.run()
        exp.run()
    print("IDS", [first, again, named, script, group])
    exp.logs("script", regex="note")
    exp.logs("group")
"""


def test_an_experiment_as_nemo_run_s_users_write_it(script: Any, home: Path) -> None:
    done = script(PROGRAM)
    out = done.stdout
    assert "IDS ['program.train', 'program.train_1', 'named', 'script', 'group']" in out
    # Nested configs, defaults and changed copies reach the job; tail_logs shows what it says.
    assert "program.train | train 0.25 (0.9, 0.95) [] 2 None" in out
    assert "program.train_1 | train 0.75 (0.9, 0.95) [] 2 None" in out
    assert "named |" not in out
    assert "Experiment already running." in out
    assert done.stderr == "script/0 note none\ngroup/0 zero grouped\ngroup/1 one grouped\n"

    exp = run.Experiment.from_title("rows")
    named = (exp.directory / "named/attempt-1/stdout.log").read_text()
    assert named == "train 0.5 (0.9, 0.95) [1, 2] 3 {'by': 'plugged'}\n"
    assert {"_CONFIG", "_TASKS", "_VERSION", "_DONE", "__main__.py"} <= {p.name for p in exp.directory.iterdir()}
    assert (exp.directory / "__main__.py").read_text().strip() == PROGRAM.strip()
    assert (exp.directory / "_VERSION").read_text().strip() == run.__version__
    assert set(json.loads((exp.directory / "_TASKS").read_text())) == {job.id for job in exp.jobs}
    # What says goodbye says how to look at it again.
    assert f'from_id("{exp.id}")' in out
    assert f"nemo-prefect experiment status {exp.id}" in out


def test_an_experiment_that_is_read_back_is_inspected_changed_and_run_again(
    script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    script(PROGRAM)
    first = run.Experiment.from_title("rows")
    with first:
        first.run()
    assert "Experiment in inspection mode." in capsys.readouterr().out
    status = first.status(return_dict=True)
    assert status is not None
    assert list(status) == ["program.train", "program.train_1", "named", "script", "group", "group/0", "group/1"]
    for job_id, view in status.items():
        assert view["status"] == "SUCCEEDED"
        assert view["name"] == job_id
        assert Path(view["local_dir"]).is_dir()
        assert {"executor", "job_id", "handle"} <= set(view)
    with pytest.raises(NotFoundError, match="Job nope not found"):
        first.logs("nope")
    with pytest.raises(NotFoundError, match="Job nope not found"):
        first.cancel("nope")
    first.cancel("script")  # it has ended: nothing to do
    assert first.status(return_dict=True) == status

    again = run.Experiment.from_id(first.id)
    assert again.tasks[0].model.optimizer.lr == 0.25
    again.tasks[0].model.optimizer.lr = 0.125
    again.tasks[3] = run.Script(inline="echo changed $NOTE")
    with again.reset():
        again.run()
    assert again.id != first.id
    assert (again.directory / "program.train/attempt-1/stdout.log").read_text().startswith("train 0.125 ")
    assert (again.directory / "script/attempt-1/stdout.log").read_text() == "changed none\n"
    assert (again.directory / "group/0/attempt-1/stdout.log").read_text() == "zero grouped\n", "a plugin's work is kept"
    assert again.jobs["script"].dependencies == ["program.train", "program.train_1"]
    assert str(again.diff(first)).splitlines() == [
        "~ jobs['program.train'].task.model.optimizer.lr: 0.25 -> 0.125",
        "~ jobs['script'].task.inline: 'echo note $NOTE; echo other' -> 'echo changed $NOTE'",
    ]
    assert run.Experiment.catalog("rows") == [first.id, again.id]
    assert "rows" in run.Experiment.catalog()


def test_what_is_shown_can_be_turned_off(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(**options: Any) -> str:
        with run.Experiment("shown", **options) as exp:
            exp.add(run.Script(inline="echo said"), name="a", tail_logs=True)
            exp.run()
        assert exp.jobs["a"].state == "SUCCEEDED"
        assert exp.jobs["a"].launched
        assert exp.jobs["a"].handle.startswith("local://")
        return capsys.readouterr().out

    assert shown(clean_mode=True) == ""
    quiet = shown(skip_status_at_exit=True, enable_goodbye_message=False)
    assert "a | said" in quiet
    assert "Job id" not in quiet
    assert "from_id" not in quiet
    loud = shown()
    assert "Job id" in loud
    assert "from_id" in loud


def test_run_with_an_executor_is_an_experiment_of_one_job(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclasses.dataclass
    class Greeting(run.Plugin):
        def setup(self, task: Any, executor: run.Executor) -> None:
            executor.env_vars["WHO"] = "plugin"

    hello = run.Script(inline="echo hello $WHO")
    for plugins in (Greeting(), [Greeting()]):
        run.run(hello, executor=run.LocalExecutor(), plugins=plugins, name="single")
        assert "single | hello plugin" in capsys.readouterr().out
    run.run(hello, executor=run.LocalExecutor(), name="single", tail_logs=False)
    assert "hello" not in capsys.readouterr().out
    assert len(run.Experiment.catalog("single")) == 3
    with pytest.raises(ExperimentFailed, match="exit code 7"):
        run.run(run.Script(inline="exit 7"), executor=run.LocalExecutor(), name="single")
    run.run(hello, executor=run.LocalExecutor(), name="apart", detach=True)
    exp = run.Experiment.from_title("apart")
    exp.logs("apart")  # follows it to its end
    assert "apart/0 hello" in capsys.readouterr().err
    status = exp.status(return_dict=True)
    assert status is not None
    assert status["apart"]["status"] == "SUCCEEDED"


def test_scripts_of_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "args.sh").write_text('printf "%s;" "$@"; echo $FROM')
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__init__.py").touch()
    (tmp_path / "package/tool.py").write_text("import sys; print('tool', sys.argv[1:])")
    (tmp_path / "itself").write_text("#!/bin/sh\necho itself $1")
    (tmp_path / "itself").chmod(0o755)
    scripts = {
        "file": run.Script("args.sh", args=["a b", "$HOME", "*"], env={"FROM": "task"}),
        "module": run.Script("package.tool", m=True, entrypoint="python", args=["x"]),
        "python": run.Script(inline="import sys; print(sys.version_info[0])", entrypoint="python"),
        "itself": run.Script("./itself", entrypoint="", args=["y"]),
        "shebang": run.Script(inline="#!/usr/bin/env python3\nprint('by shebang')", entrypoint=""),
    }
    with run.Experiment("scripts") as exp:
        for name, each in scripts.items():
            exp.add(each, name=name)
        exp.run()
    said = {name: (exp.directory / name / "attempt-1/stdout.log").read_text() for name in scripts}
    assert said == {
        "file": "a b;$HOME;*;task\n",
        "module": "tool ['x']\n",
        "python": "3\n",
        "itself": "itself y\n",
        "shebang": "by shebang\n",
    }


def test_detached_jobs_are_marked_as_launched() -> None:
    with run.Experiment("away") as exp:
        exp.add(run.Script(inline="echo away"), name="a")
        exp.run(detach=True)
    assert exp.jobs["a"].launched
    exp.logs("a")
    status = exp.status(return_dict=True)
    assert status is not None
    assert status["a"]["status"] == "SUCCEEDED"


@pytest.mark.timeout(480)
def test_a_server_that_goes_away_for_good_holds_nobody_up(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    embedded = EmbeddedServer(tmp_path / "prefect")
    embedded.start()
    try:
        # 30 jobs make some 90 events; Prefect would try each of them for seven seconds when the program ends.
        done = script(
            f"""
            import nemo_prefect as run
            from nemo_prefect import session
            from nemo_prefect.server import EmbeddedServer

            session.SERVER_AWAY = 2.0
            with run.Experiment("gone", clean_mode=True) as exp:
                stop = "from nemo_prefect.server import EmbeddedServer; EmbeddedServer({str(tmp_path / "prefect")!r}).stop()"
                first = exp.add(run.Script(inline=stop, entrypoint="python"), name="stop")
                for index in range(30):
                    exp.add(run.Script(inline="true"), name=f"job-{{index}}", dependencies=[first])
                exp.run()
            """,
            timeout=400,
        )
    finally:
        embedded.stop()
    exp = run.Experiment.from_title("gone")
    monkeypatch.setattr("nemo_prefect.server.connected", None)  # the files tell it all
    status = exp.status(return_dict=True)
    assert status is not None
    assert {view["status"] for view in status.values()} == {"SUCCEEDED"}
    assert Layout(exp.directory).done_file.exists()
    assert "was not told how the experiment ended" in done.stderr
