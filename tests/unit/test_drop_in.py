"""What a user of NeMo-Run relies on, row by row: the errors they catch, configs and their differences, executor files,
experiments as data. Rows that need jobs to run are in tests/integration/local/test_drop_in.py."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import fiddle
import pytest

import nemo_prefect as run
from nemo_prefect.config import OptionalDefaultConfig, OptionalDefaultPartial, from_dict, get_type_namespace, set_value
from nemo_prefect.diff import ConfigDiff
from nemo_prefect.experiment import DummyConsole, Experiment, Jobs, Tasks, maybe_load_external_main
from nemo_prefect.layout import Layout

pytestmark = pytest.mark.usefixtures("home")
TRUE = run.Script(inline="true")


@dataclasses.dataclass
class Optimizer:
    lr: float = 0.1
    name: str = "adam"


@dataclasses.dataclass
class Model:
    optimizer: Optimizer
    layers: int = 2


def train(model: Model, steps: int = 1) -> None: ...


def task(lr: float = 0.1) -> Any:
    return run.Partial(train, model=run.Config(Model, optimizer=run.Config(Optimizer, lr=lr)), steps=3)


# Errors --------------------------------------------------------------------------------------------------------------


def opened(action: Callable[[run.Experiment], object]) -> Callable[[], object]:
    def act() -> None:
        with run.Experiment("t") as exp:
            exp.add(TRUE, name="first")
            action(exp)

    return act


def cyclic(exp: run.Experiment) -> None:
    exp.add(TRUE, name="second", dependencies=["first"])
    exp.jobs["first"].dependencies = ["second"]
    exp.run()


def grouped_direct(exp: run.Experiment) -> None:
    exp.add([TRUE, TRUE], name="pair")
    exp.run(direct=True)


def dependent(**options: Any) -> Callable[[run.Experiment], None]:
    def act(exp: run.Experiment) -> None:
        exp.add(TRUE, name="second", dependencies=["first"])
        exp.run(**options)

    return act


#: What NeMo-Run refuses, and the type of error that its users catch there.
ERRORS: dict[str, tuple[Callable[[], object], type[Exception]]] = {
    "add outside the with block": (lambda: run.Experiment("t").add(TRUE), AssertionError),
    "run outside the with block": (lambda: run.Experiment("t").run(), AssertionError),
    "unknown dependency": (opened(lambda exp: exp.add(TRUE, dependencies=["x"])), AssertionError),
    "group without a name": (opened(lambda exp: exp.add([TRUE, TRUE])), AssertionError),
    "executors of a group": (
        opened(lambda exp: exp.add([TRUE] * 3, name="g", executor=[run.LocalExecutor()] * 2)),
        AssertionError,
    ),
    "no executor": (opened(lambda exp: exp.add(TRUE, executor=3)), AssertionError),  # type: ignore[arg-type]
    "value that cannot travel": (opened(lambda exp: exp.add(run.Partial(train, model=Path("x")))), RuntimeError),
    "direct with a group": (opened(grouped_direct), AssertionError),
    "direct with dependencies": (opened(dependent(direct=True)), AssertionError),
    "sequential with dependencies": (opened(dependent(sequential=True)), AssertionError),
    "cycle": (opened(cyclic), AssertionError),
    "unknown id": (lambda: run.Experiment.from_id("no-such_1"), AssertionError),
    "unknown title": (lambda: run.Experiment.from_title("no-such"), AssertionError),
    "script of nothing": (run.Script, AssertionError),
    "module without Python": (lambda: run.Script("pkg", m=True), AssertionError),
    "picture that is no png": (lambda: task().save_config_img("config.svg"), ValueError),
    "path that does not exist": (lambda: set_value(task(), "model.no.x", 1), ValueError),
    "ambiguous data": (lambda: from_dict({"lr": 1}, Optimizer | Model), AssertionError),
    "launcher that does not exist": (lambda: run.LocalExecutor(launcher="nope"), ValueError),
    "unequal patterns": (
        lambda: run.PatternPackager(include_pattern=["a", "b"], relative_path=["."]).package(Path.cwd(), ".", "x"),
        ValueError,
    ),
    "run of no task": (lambda: run.run(train), TypeError),
    "dry run of no task": (lambda: run.dryrun_fn(train), TypeError),  # type: ignore[arg-type, unused-ignore]
    "object that is no config": (lambda: run.ConfigurableMixin().to_config(), NotImplementedError),
    "plugin without setup": (lambda: run.Plugin().setup(TRUE, run.LocalExecutor()), NotImplementedError),
}


@pytest.mark.parametrize("what", ERRORS)
def test_except_clauses_keep_working(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    act, kind = ERRORS[what]
    with pytest.raises(kind) as caught:
        act()
    assert str(caught.value).strip()
    assert getattr(caught.value, "hint", "none wanted"), "it does not say what to do"


# Configs -------------------------------------------------------------------------------------------------------------


def test_a_diff_says_what_was_changed_added_and_removed() -> None:
    old, new = task(), task(lr=0.5)
    new.model.layers = 4
    del old.steps
    diff = new.diff(old)
    assert str(diff).splitlines() == [
        "~ model.optimizer.lr: 0.1 -> 0.5",
        "~ model.layers: 2 -> 4",
        "~ steps: 1 -> 3",
    ]
    assert diff
    assert not new.diff(new.clone())
    assert str(new.diff(new.clone())) == "no differences"
    assert "  model: Config(Model)" in str(new.diff(old, trim=False)).splitlines()


def test_a_diff_is_coloured_in_a_terminal_and_a_table_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    diff = task(lr=0.5).diff(task())
    plain = str(diff)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[33m" in str(diff)
    assert plain in str(diff)
    monkeypatch.setenv("NO_COLOR", "1")
    assert str(diff) == plain
    table = diff._repr_html_()
    assert "<td>model.optimizer.lr</td><td>0.1</td><td>0.5</td>" in table
    assert "&lt;" in task().diff(run.Partial(train, model="<b>"))._repr_html_()


def test_without_graphviz_a_diff_is_whole_and_pictures_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert str(task(lr=0.5).diff(task())) == "~ model.optimizer.lr: 0.1 -> 0.5"
    assert task()._repr_svg_() is None
    assert "graph" in task(lr=0.5).diff(task()).source  # as NeMo-Run's users draw it: diff(...).render("file")


def test_experiments_are_compared_by_the_ids_of_their_jobs() -> None:
    with run.Experiment("t") as old:
        old.add(task(), name="train")
        old.add(TRUE, name="report", dependencies=["train"])
    with run.Experiment("t", executor=run.LocalExecutor(env_vars={"A": "1"})) as new:
        new.add(TRUE, name="prepare")
        new.add(task(lr=0.5), name="train")
        new.add(TRUE, name="report", dependencies=["train"])
    text = str(new.diff(old))
    assert "~ jobs['train'].task.model.optimizer.lr: 0.1 -> 0.5" in text
    assert "+ jobs['prepare'].task.inline: 'true'" in text
    assert "+ executor.env_vars['A']: '1'" in text
    assert "jobs['report'].task" not in text
    assert old.id not in text
    assert isinstance(new.jobs.diff(old.jobs), ConfigDiff)
    assert str(new.tasks[1].diff(old.tasks[0])) == "~ model.optimizer.lr: 0.1 -> 0.5"
    assert "lr: 0.1 -> 0.5" in str(new.jobs["train"].diff(old.jobs["train"]))


def test_a_notebook_shows_an_experiment_as_a_table() -> None:
    with run.Experiment("t") as exp:
        exp.add(TRUE, name="train")
    shown = exp._repr_html_()
    assert exp.id in shown
    assert "<td>train</td><td>UNSUBMITTED</td><td>local</td>" in shown
    picture = exp._repr_svg_()
    assert picture is None or "train" in picture


def test_a_picture_of_a_config(tmp_path: Path) -> None:
    import shutil

    if shutil.which("dot") is None:
        with pytest.raises(RuntimeError):  # graphviz's own
            task().save_config_img(str(tmp_path))
        return
    task().save_config_img(str(tmp_path))
    assert (tmp_path / "config.png").read_bytes().startswith(b"\x89PNG")
    assert "train" in str(task()._repr_svg_())


class Wants:
    def __init__(self, model: OptionalDefaultConfig[Model] = None, opt: OptionalDefaultPartial[Optimizer] = None) -> None:
        self.model, self.opt = model, opt


def test_optional_defaults() -> None:
    config = run.Config(Wants)
    assert isinstance(config.model, run.Config)
    assert isinstance(config.opt, run.Partial)
    assert run.Config(Wants, opt=None).opt is None
    assert run.Config(Wants, bind_args=False).__arguments__ == {}


def test_data_and_names() -> None:
    made = from_dict({"optimizer": {"lr": 2.0}}, Optional[Model])  # noqa: UP045 - as it is written there
    assert made == Model(Optimizer(2.0))
    assert get_type_namespace(train).endswith("test_drop_in.train")


def test_a_dry_run_of_a_function(capsys: pytest.CaptureFixture[str]) -> None:
    run.dryrun_fn(task(), executor=run.LocalExecutor(env_vars={"SEED": "7"}), build=True)
    out = capsys.readouterr().out
    assert "Dry run for task" in out
    assert "steps" in out
    assert "SEED" in out
    with pytest.raises(TypeError):
        run.dryrun_fn(run.Config(Model), build=True)  # building finds what is missing


# Executors -----------------------------------------------------------------------------------------------------------

EXECUTORS = """
import nemo_prefect as run

cpu = run.LocalExecutor(env_vars={"WHERE": "cpu"})

def gpu(nodes: int = 1) -> run.LocalExecutor:
    return run.LocalExecutor(ntasks_per_node=8, nodes=nodes)
"""


def test_executors_of_a_file(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    (home / "executors.py").write_text(EXECUTORS)
    (tmp_path / "other.py").write_text(EXECUTORS.replace("8", "4"))
    assert run.import_executor("cpu").env_vars == {"WHERE": "cpu"}
    assert run.import_executor("gpu", nodes=2).nodes == 2
    assert run.import_executor("gpu", file_path=str(tmp_path / "other.py")).ntasks_per_node == 4
    assert run.import_executor("gpu", call=False)(nodes=3).nodes == 3
    with pytest.raises(run.errors.NotFoundError, match=r"no 'gpus'\. Did you mean 'gpu'"):
        run.import_executor("gpus")
    with pytest.raises(run.errors.NotFoundError, match="executor file"):
        run.import_executor("gpu", file_path=str(tmp_path / "none.py"))
    with pytest.raises(run.errors.ConfigError, match="no function"):
        run.import_executor("cpu", nodes=2)


def test_a_broken_executor_file_says_so_itself(home: Path) -> None:
    home.mkdir()
    (home / "executors.py").write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        run.import_executor("gpu")
    assert not [name for name in sys.modules if "executor_file" in name]


def test_an_executor_is_a_config_too() -> None:
    packager = run.PatternPackager(include_pattern="*.py", relative_path=".")
    executor = run.LocalExecutor(packager=packager, launcher=run.Torchrun(rdzv_port=1234), env_vars={"A": "1"})
    executor.assign("t_1", "/tmp/t", "job", "job")
    assert executor.job_dir == "/tmp/t/job"
    config = executor.to_config()
    assert set(config.__arguments__) == {"packager", "launcher", "env_vars"}
    config.launcher.rdzv_port = 4321
    again = fiddle.build(config)
    assert again == run.LocalExecutor(packager=packager, launcher=run.Torchrun(rdzv_port=4321), env_vars={"A": "1"})
    assert "~ launcher.rdzv_port: 4321 -> 1234" in str(executor.diff(again))
    clone = executor.clone()
    clone.env_vars["A"] = "2"
    assert executor.env_vars == {"A": "1"}


def test_a_configured_executor_is_built() -> None:
    with run.Experiment("t", executor=run.Config(run.LocalExecutor, ntasks_per_node=2)) as exp:  # type: ignore[arg-type]
        exp.add(TRUE, name="a")
    assert exp.jobs["a"].executor.ntasks_per_node == 2


# Experiments ---------------------------------------------------------------------------------------------------------


def test_an_experiment_and_its_config_go_both_ways() -> None:
    options = {"skip_status_at_exit": True, "enable_goodbye_message": False, "clean_mode": True, "threadpool_workers": 2}
    with run.Experiment("t", executor=run.LocalExecutor(env_vars={"A": "1"}), **options) as exp:  # type: ignore[arg-type]
        exp.add(task(), name="train")
        exp.add([TRUE, TRUE], name="pair", dependencies=["train"], tail_logs=True)
    again: Experiment = fiddle.build(exp.to_config())
    assert not again.diff(exp)
    assert again.executor == exp.executor
    assert [job.id for job in again.jobs] == ["train", "pair"]
    assert again.spec().jobs[1] == exp.spec().jobs[1]
    assert fiddle.build(again.jobs["train"].task).keywords == fiddle.build(exp.jobs["train"].task).keywords


def test_tasks_can_be_changed_and_replaced() -> None:
    with run.Experiment("t") as exp:
        exp.add(task(), name="train")
        exp.add([TRUE, TRUE], name="pair")
    assert isinstance(exp.tasks, Tasks)
    assert isinstance(exp.jobs, Jobs)
    exp.tasks[0].steps = 9
    assert exp.jobs["train"].task.steps == 9
    exp.tasks[0] = run.Script(inline="echo other")
    assert exp.jobs["train"].task.inline == "echo other"
    exp.tasks[1][0] = run.Script(inline="echo member")
    assert exp.jobs["pair"].tasks[0].inline == "echo member"
    exp.tasks = [task(), [TRUE, TRUE]]  # type: ignore[assignment]
    assert exp.jobs["train"].task.steps == 3
    with pytest.raises(run.errors.UsageError, match="1 tasks for 2 jobs"):
        exp.tasks = [task()]  # type: ignore[assignment]


def test_a_built_task_is_taken_as_the_config_that_it_came_from() -> None:
    job = run.Job("a", functools.partial(train, model=Model(Optimizer(0.3)), steps=2), run.LocalExecutor())
    assert isinstance(job.task, run.Partial)
    assert job.task.model.optimizer.lr == 0.3


@pytest.mark.parametrize("kept", [True, False])
def test_metadata_of_scripts_is_written_or_not(kept: bool) -> None:
    with run.Experiment("t", serialize_metadata_for_scripts=kept) as exp:
        exp.add(run.Script(inline="true", metadata={"owner": "me"}), name="a")
        exp.run(direct=True)
    assert exp.tasks[0].metadata == {"owner": "me"}
    written = [p for p in exp.directory.rglob("*") if p.is_file() and '"owner"' in p.read_text(errors="replace")]
    assert bool(written) is kept
    assert run.Experiment.from_id(exp.id).tasks[0].metadata == ({"owner": "me"} if kept else {})


def test_metadata_that_is_no_data_is_refused_unless_it_is_left_out() -> None:
    odd = run.Script(inline="true", metadata={"handle": object()})
    with run.Experiment("t") as exp, pytest.raises(RuntimeError, match="cannot be written down"):
        exp.add(odd)
    with run.Experiment("t", serialize_metadata_for_scripts=False) as exp:
        exp.add(odd, name="a")


def test_log_levels() -> None:
    import logging

    run.Experiment("t", log_level="debug")
    assert logging.getLogger("nemo_prefect").level == logging.DEBUG
    run.Experiment("t")
    assert logging.getLogger("nemo_prefect").level == logging.INFO
    with pytest.raises(ValueError, match="no log level"):
        run.Experiment("t", log_level="LOUD")


def test_a_dummy_console_takes_everything(capsys: pytest.CaptureFixture[str]) -> None:
    console: Any = DummyConsole()
    console.print("x")
    console.log("x", style="bold")
    console.rule()
    assert capsys.readouterr() == ("", "")


def test_the_script_of_an_experiment_is_loaded_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "__main__.py").write_text("here = __name__\nif __name__ == '__main__':\n    raise SystemExit(1)\n")
    before = sys.modules.pop("__external_main__", None)
    try:
        maybe_load_external_main(str(tmp_path / "nothing"))
        assert "__external_main__" not in sys.modules
        maybe_load_external_main(str(tmp_path))
        assert sys.modules["__external_main__"].here == "__external_main__"
    finally:
        sys.modules.pop("__external_main__", None)
        if before is not None:
            sys.modules["__external_main__"] = before


def test_experiments_in_another_directory_are_found(home: Path, tmp_path: Path) -> None:
    ids = []
    for base in (None, str(tmp_path / "elsewhere"), str(tmp_path / "else where")):
        with run.Experiment("spread", base_dir=base) as exp:
            exp.add(TRUE, name="a")
            exp.run(direct=True)
        ids.append(exp.id)
    assert run.Experiment.catalog("spread") == ids
    assert run.Experiment.catalog() == ["spread"]
    assert run.Experiment.from_title("spread").directory == exp.directory
    for exp_id in ids:
        found = run.Experiment.from_id(exp_id)
        status = found.status(return_dict=True)
        assert status is not None
        assert status["a"]["status"] == "SUCCEEDED"
    again = run.Experiment.from_id(ids[1]).reset()
    assert again.directory.is_relative_to(tmp_path / "elsewhere"), "a reset experiment stays where it was"


def test_a_direct_run_is_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    with run.Experiment("direct") as exp:
        exp.add(run.Script(inline="echo hello"), name="good")
        exp.add(run.Script(inline="exit 4"), name="bad")
        exp.add(run.Script(inline="echo never"), name="never")
        with pytest.raises(run.errors.ExperimentFailed, match="exit code 4"):
            exp.run(direct=True)
    for each in (exp, run.Experiment.from_id(exp.id)):
        status = each.status(return_dict=True)
        assert status is not None
        assert {k: v["status"] for k, v in status.items()} == {
            "good": "SUCCEEDED", "bad": "FAILED", "never": "UNSUBMITTED",
        }  # fmt: skip
    capsys.readouterr()
    run.Experiment.from_id(exp.id).logs("good")
    assert f"{exp.directory}/log_good_direct_run.out" in capsys.readouterr().out
    assert (exp.directory / "log_good_direct_run.out").read_text() == "hello\n"
    assert Layout(exp.directory).done_file.exists()


def test_a_direct_run_packs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no git repository
    with run.Experiment("direct", executor=run.LocalExecutor(packager=run.GitArchivePackager())) as exp:
        exp.add(run.Script(inline="pwd"), name="a")
        exp.run(direct=True)
    assert (exp.directory / "log_a_direct_run.out").read_text().strip() == str(tmp_path)


def test_direct_ends_with_the_task_s_own_error() -> None:
    with run.Experiment("direct") as exp:
        exp.add(run.Partial(json.loads, s="no json"), name="bad")
        with pytest.raises(json.JSONDecodeError):
            exp.run(direct=True)


def test_run_direct_and_dry(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    run.run(task(), executor=run.LocalExecutor(), direct=True, dryrun=True)
    assert "steps" in capsys.readouterr().out
    run.run(run.Script(inline="echo hi"), dryrun=True)
    assert "echo hi" in capsys.readouterr().out
    run.run(run.Script(inline="echo hi"), executor=run.LocalExecutor(), dryrun=True, name="named")
    out = capsys.readouterr().out
    assert "Dry run of named_" in out
    assert "bash" in out
    assert not list(home.rglob("*")), "a dry run left something behind"


def test_what_has_not_run_is_not_reset(capsys: pytest.CaptureFixture[str]) -> None:
    with run.Experiment("t") as exp:
        exp.add(TRUE, name="a")
        before = exp.id
        assert exp.reset() is exp
    assert exp.id == before
    assert "has not run yet, skipping reset" in capsys.readouterr().out


def test_a_kept_dry_run_can_be_run_and_is_found(home: Path) -> None:
    with run.Experiment("kept") as exp:
        exp.add(TRUE, name="a")
        exp.dryrun(log=False, delete_exp_dir=False)
        assert {"_CONFIG", "_TASKS", "_VERSION"} <= {p.name for p in exp.directory.iterdir()}
        with pytest.raises(ValueError, match="exists"):
            run.Experiment("kept", id=exp.id, jobs=list(exp.jobs)).dryrun()
        exp.run(direct=True)
    assert run.Experiment.catalog("kept") == [exp.id]
