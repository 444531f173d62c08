"""Building experiments: what `add` takes, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import nemo_prefect as run
from nemo_prefect.errors import ConfigError, DependencyError, NotFoundError, SerializationError, UsageError
from nemo_prefect.experiment import Experiment, current_experiment

pytestmark = pytest.mark.usefixtures("home")
TRUE = run.Script(inline="true")


def work(path: Any = None, lr: float = 0.1) -> None: ...


def test_add_needs_the_with_block() -> None:
    with pytest.raises(UsageError, match="without it's context manager"):
        Experiment("t").add(TRUE)
    with pytest.raises(AssertionError):
        Experiment("t").run()


def test_the_current_experiment() -> None:
    with Experiment("t") as exp:
        assert current_experiment() is exp
        exp.status()
    assert current_experiment() is None
    with pytest.raises(UsageError):
        exp.add(TRUE)


def test_ids_follow_names_and_are_unique() -> None:
    with Experiment("t") as exp:
        ids = [exp.add(TRUE, name=n) for n in ("a_2", "a", "a", "a")] + [exp.add(TRUE), exp.add(run.Partial(work))]
    assert ids[:2] == ["a_2", "a"]
    assert len(set(ids)) == 6
    assert ids[4] == "true"
    assert ids[5].endswith("test_experiment.work")
    assert len({exp.spec().jobs[i].id for i in range(6)}) == 6


def test_what_is_added_is_a_copy() -> None:
    script, executor = run.Script(inline="true"), run.LocalExecutor()
    with Experiment("t", executor=executor) as exp:
        exp.add(script, name="a")
        script.inline = "false"
        executor.env_vars["X"] = "1"
    assert exp.tasks[0].inline == "true"
    assert exp.jobs["a"].executor.env_vars == {}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"task": TRUE, "dependencies": ["nope"]}, DependencyError, "Dependency nope not found"),
        ({"task": [TRUE, TRUE]}, UsageError, "name is required for task group"),
        ({"task": [], "name": "g"}, ConfigError, "has no tasks"),
        ({"task": work}, ConfigError, "run.Partial"),
        ({"task": "train.sh"}, ConfigError, "is no task"),
        ({"task": run.Script("no/such.sh")}, ConfigError, "'no/such.sh' does not exist"),
        ({"task": run.Partial(work, path=Path("x"))}, SerializationError, "<root>.path"),
        ({"task": TRUE, "name": "a/b"}, ConfigError, "holds '/'"),
        ({"task": TRUE, "executor": object()}, ConfigError, "is no executor"),
        ({"task": [TRUE, TRUE, TRUE], "name": "g", "executor": [run.LocalExecutor()] * 2}, ConfigError, "3 tasks and 2"),
    ],
)
def test_add_refuses_and_adds_nothing(arguments: dict[str, Any], error: Any, words: str, home: Path) -> None:
    with Experiment("t") as exp:
        exp.add(TRUE, name="first")
        with pytest.raises(error, match=words):
            exp.add(**arguments)
        assert [job.id for job in exp.jobs] == ["first"]
    assert not home.exists()


def test_errors_are_those_that_users_of_nemo_run_catch() -> None:
    with Experiment("t") as exp:
        for bad, kind in (
            ({"task": TRUE, "dependencies": ["x"]}, AssertionError),
            ({"task": run.Partial(work, path=Path("x"))}, RuntimeError),
        ):
            with pytest.raises(kind):
                exp.add(**bad)


@pytest.mark.parametrize("title", ["a/b", "", "..", "a\nb"])
def test_titles_that_cannot_be_are_refused(title: str) -> None:
    with pytest.raises(ConfigError, match="title"):
        Experiment(title)


@pytest.mark.parametrize("bad", [{"env_vars": {"A B": "1"}}, {"env_vars": {"A": "a\0"}}, {"retries": -1}, {"nodez": 1}])
def test_executors_check_their_fields(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        run.LocalExecutor(**bad)


def test_an_empty_experiment_is_refused() -> None:
    with Experiment("t") as exp, pytest.raises(UsageError, match="no jobs"):
        exp.run()


def test_sequential_chains_and_refuses_dependencies() -> None:
    with Experiment("t") as exp:
        for name in "abc":
            exp.add(TRUE, name=name)
        assert [job.dependencies for job in exp.spec(sequential=True).jobs] == [(), ("a",), ("b",)]
        exp.add(TRUE, name="d", dependencies=["a"])
        with pytest.raises(UsageError, match="sequential"):
            exp.run(sequential=True)


@dataclasses.dataclass
class Verbose(run.Plugin):
    level: int = 2

    def setup(self, task: Any, executor: run.Executor) -> None:
        executor.env_vars["LEVEL"] = f"{self.level} {self.experiment_id}"
        if isinstance(task, run.Partial):
            task.lr = 0.5


def test_plugins_change_copies_of_task_and_executor() -> None:
    task, executor = run.Partial(work, lr=0.1), run.LocalExecutor()
    with Experiment("t", executor=executor) as exp:
        exp.add(task, name="one", plugins=[Verbose()])
        exp.add([task, task], name="two", plugins=[Verbose(level=3)])
    assert exp.jobs["one"].executor.env_vars == {"LEVEL": f"2 {exp.id}"}
    assert exp.jobs["one"].task.lr == 0.5
    assert [t.lr for t in exp.jobs["two"].tasks] == [0.5, 0.5]
    assert exp.jobs["two"].executors[0].env_vars == {"LEVEL": f"3 {exp.id}"}
    assert (task.lr, executor.env_vars) == (0.1, {})


def test_the_compiled_flow_has_the_title_and_says_what_is_in_it() -> None:
    with Experiment("t") as exp:
        first = exp.add(TRUE, name="a")
        exp.add(TRUE, name="b", dependencies=[first])
    flow = exp.to_flow()
    assert flow.name == "t"
    shown = flow.parameters.properties["experiment"]["default"]
    assert shown["jobs"]["b"]["dependencies"] == ["a"]
    assert "env_vars" not in str(shown)


def test_jobs_are_found_by_id() -> None:
    with Experiment("t") as exp:
        exp.add(TRUE, name="a")
    assert exp.jobs["a"] is exp.jobs[0]
    with pytest.raises(NotFoundError, match="Job b not found"):
        exp.jobs["b"]


def test_unknown_ids_are_refused_with_the_nearest(server: Any) -> None:
    with Experiment("title") as exp:
        exp.add(TRUE, name="a")
        exp.run(direct=True)
    with pytest.raises(NotFoundError, match="not found"):
        Experiment.from_id("title_123")
    with pytest.raises(NotFoundError, match="No experiment has the title nope"):
        Experiment.from_title("nope")


def test_to_config_round_trips() -> None:
    import fiddle

    with Experiment("t") as exp:
        exp.add(run.Script(inline="echo", env={"A": "b"}), name="a")
        exp.add([TRUE, TRUE], name="g", dependencies=["a"])
    again = fiddle.build(exp.to_config())
    assert again.id == exp.id
    assert again.jobs["a"].task == exp.jobs["a"].task
    assert again.jobs["g"].dependencies == ["a"]


def test_clean_mode_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Experiment("t", clean_mode=True) as exp:
        exp.add(TRUE, name="a")
        exp.dryrun()
    assert capsys.readouterr().out == ""


def test_run_takes_only_tasks() -> None:
    with pytest.raises(TypeError, match="is no task"):
        run.run(work)
    with pytest.raises(TypeError):
        run.dryrun_fn(work)


def test_run_without_an_executor_runs_here(capsys: pytest.CaptureFixture[str]) -> None:
    run.run(run.Script(inline="echo here"))
    assert capsys.readouterr().out == "here\n"
    run.run(run.Partial(print, "from a function", bind_args=False))
    assert capsys.readouterr().out == "from a function\n"
    with pytest.raises(run.errors.ExperimentFailed, match="exit code 2"):
        run.run(run.Script(inline="exit 2"))
