"""Entry points, factories, the context of a run, lazy ones, and help."""

from __future__ import annotations

import inspect
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console

import nemo_prefect as run
from nemo_prefect import cli, errors
from nemo_prefect.cli.run_command import workspace_file
from nemo_prefect.rehearsal import rehearsing
from nemo_prefect.testing import FakeExecutor


@dataclass
class Model:
    hidden: int = 4


@dataclass
class Noisy(run.Plugin):
    level: int = 1

    def setup(self, task: Any, executor: Any) -> None:
        executor.env_vars["LEVEL"] = str(self.level)


called: list[Any] = []


@run.cli.factory
def small(hidden: int = 8) -> run.Config[Model]:
    """A small one."""
    return run.Config(Model, hidden=hidden)


@run.cli.factory
@run.autoconvert
def noisy(level: int = 2) -> Noisy:
    return Noisy(level=level)


@run.cli.factory
@run.autoconvert
def cluster(tasks: int = 2) -> run.LocalExecutor:
    return run.LocalExecutor(ntasks_per_node=tasks)


@run.cli.entrypoint(namespace="test")
def train(model: Model, epochs: int = 3, runtime: int = 1, where: Path = Path("here")) -> None:
    """Train a model.

    Args:
        model: the network.
        epochs: how often it sees
            all data.
    """
    called.append((model, epochs, runtime, where))


@run.cli.factory(target=train)
def recipe(epochs: int = 7) -> run.Partial:
    return run.Partial(train, model=run.Config(Model, hidden=77), epochs=epochs)


@run.cli.factory(target=train, target_arg="model")
def special() -> run.Config[Model]:
    return run.Config(Model, hidden=1234)


@pytest.fixture(autouse=True)
def _forget() -> None:
    called.clear()


def test_an_entrypoint_stays_the_function_that_it_is() -> None:
    train(Model(), epochs=1)
    assert called == [(Model(), 1, 1, Path("here"))]
    assert train.cli_entrypoint.path == "test.train"
    assert cli.list_entrypoints("test") == {"test": {"train": train.cli_entrypoint}}
    assert "test" in cli.list_entrypoints()
    assert cli.list_entrypoints("nope") == {}
    assert train.cli_entrypoint.parse_partial(["epochs=2"]) == run.Partial(train, epochs=2)
    with pytest.raises(errors.ConfigError, match="'task' or 'experiment'"):
        run.cli.entrypoint(type="flow")(train)


def test_factories_are_found_by_what_they_make() -> None:
    assert cli.resolve_factory(Model, "small") is small
    assert cli.list_factories(Model) == [small]
    assert cli.list_factories(f"{Model.__module__}.Model") == [small]
    assert set(cli.list_factories(train)) == {recipe, special}
    assert cluster in cli.list_factories(run.Executor)
    assert small() == run.Config(Model, hidden=8)
    with pytest.raises(ValueError, match="Did you mean 'small'"):
        cli.resolve_factory(Model, "smal")
    with pytest.raises(LookupError):
        cli.resolve_factory("nowhere", "small")


def test_factories_of_a_namespace() -> None:
    @run.cli.factory(namespace="zoo", name="big")
    def large() -> run.Config[Model]:
        return run.Config(Model, hidden=99)

    assert cli.list_factories("zoo") == [large]
    assert cli.resolve_factory("zoo", "big") is large
    assert large not in cli.list_factories(Model)


def test_a_factory_says_what_it_makes() -> None:
    def silent():  # type: ignore[no-untyped-def]
        return run.Config(Model)

    def plain() -> Model:
        return Model()

    def vague() -> run.Partial:
        return run.Partial(train)

    for function, words in [(silent, "does not say what"), (plain, "run.autoconvert"), (vague, "of what")]:
        with pytest.raises(ValueError, match=words):
            run.cli.factory(function)
    with pytest.raises(errors.ConfigError, match="needs a target"):
        run.cli.factory(target_arg="model")(plain)


def test_a_module_that_is_loaded_again_replaces_its_factories() -> None:
    def small(hidden: int = 9) -> run.Config[Model]:
        return run.Config(Model, hidden=hidden)

    small.__module__, small.__qualname__ = Model.__module__, "small"
    again = run.cli.factory(small)
    assert cli.list_factories(Model) == [again]


# The context of a run ----------------------------------------------------------------------------------------------------


def context(*args: str, fn: Callable[..., Any] = train, **options: Any) -> tuple[run.cli.RunContext, list[str]]:
    ctx = run.cli.RunContext(name="x", **options)
    rest = ctx.parse_args(args, fn)
    ctx.build()
    return ctx, rest


def test_what_is_meant_for_the_run_is_taken_out() -> None:
    given = ["run.executor=cluster(tasks=3)", "run.executor.env_vars.A=b", "run.detach=yes"]
    ctx, rest = context("model=small", "runtime=1", *given, "epochs=2")
    assert rest == ["model=small", "runtime=1", "epochs=2"]
    assert ctx.executor == run.LocalExecutor(ntasks_per_node=3, env_vars={"A": "b"})
    assert ctx.detach is True


@pytest.mark.parametrize("name", ["local", "local()", "LocalExecutor", "nemo_prefect.LocalExecutor"])
def test_installed_executors(name: str) -> None:
    assert context(f"executor={name}", "executor.retries=2")[0].executor == run.LocalExecutor(retries=2)


def test_a_function_keeps_parameters_of_these_names() -> None:
    def odd(executor: str = "", plugins: int = 0, run: int = 0) -> None: ...

    ctx, rest = context("executor=a", "plugins=1", "run=2", "run.executor=local", fn=odd)
    assert rest == ["executor=a", "plugins=1", "run=2"]
    assert ctx.executor == run.LocalExecutor()


@pytest.mark.parametrize(
    ("arguments", "levels"),
    [
        (["plugins=noisy"], [2]),
        (["plugins=noisy(level=5)"], [5]),
        (["plugins=noisy", "plugins.level=6"], [6]),
        (["run.plugins=[noisy, noisy(3)]", "run.plugins[1].level=4"], [2, 4]),
        (["plugins=noisy", "plugins+=noisy(level=7)"], [2, 7]),
        (["plugins=Noisy(level=8)"], [8]),
        (["plugins=Noizy"], None),
    ],
)
def test_plugins(arguments: list[str], levels: list[int] | None) -> None:
    if levels is None:
        with pytest.raises(errors.ParseError, match="Noizy"):
            context(*arguments)
        return
    assert [plugin.level for plugin in context(*arguments)[0].plugins] == levels


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("executor=locl", "Did you mean 'local'?"),
        ("executor.nodes=2", "no executor to change"),
        ("run.exeutor=local", "Did you mean 'executor'?"),
        ("run.dryrun=maybe", "run.dryrun=maybe: Failed to parse 'maybe' as bool"),
        ("plugins=noisi", "Did you mean 'noisy'?"),
        ("plugins[3].level=1", "no such plugin"),
        ("executor=local(retries=-1)", "LocalExecutor cannot be made: retries"),
        ("executor=cluster(task=3)", "Did you mean 'tasks'?"),
        ("nonsense", "not key=value"),
    ],
)
def test_what_is_wrong_with_the_run(argument: str, words: str) -> None:
    with pytest.raises(errors.CLIException) as raised:
        context(argument)
    assert words in str(raised.value)


def test_a_factory_a_file_and_arguments_in_this_order(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("_factory_: recipe\nepochs: 8\nexecutor: {_factory_: cluster, retries: 1}\nplugins: [noisy]")
    ctx = run.cli.RunContext(name="x", yaml=str(file))
    assert ctx.parse_fn(train, ["model.hidden=5"]) == run.Partial(train, model=run.Config(Model, hidden=5), epochs=8)
    ctx.build()
    assert ctx.executor == run.LocalExecutor(ntasks_per_node=2, retries=1)
    assert [p.level for p in ctx.plugins] == [2]
    ctx = run.cli.RunContext(name="x", factory="recipe(epochs=9)")
    assert ctx.parse_fn(train, ["model=special"]) == run.Partial(train, model=run.Config(Model, hidden=1234), epochs=9)
    for name, words in [("recipy", "Did you mean 'recipe'"), (f"{__name__}.small", "makes a Model")]:
        with pytest.raises(errors.ArgumentValueError, match=words):
            run.cli.RunContext(name="x", factory=name).parse_fn(train, [])


@pytest.mark.parametrize(
    ("options", "executor", "expected"),
    [
        ({}, run.LocalExecutor(), {"direct": False, "detach": False, "tail_logs": False}),
        ({}, None, {"direct": True, "detach": False, "tail_logs": False}),
        ({"direct": True, "tail_logs": True}, run.LocalExecutor(), {"direct": True, "detach": False, "tail_logs": True}),
        ({"detach": True}, None, {"direct": False, "detach": True, "tail_logs": False}),
    ],
)
def test_launch(options: dict[str, bool], executor: Any, expected: dict[str, bool]) -> None:
    ctx = run.cli.RunContext(name="x", **options)
    ctx.executor = executor
    experiment = Mock(spec=run.Experiment)
    ctx.launch(experiment, sequential=True)
    experiment.run.assert_called_once_with(sequential=True, **expected)


def test_an_experiment_that_names_executors_or_dependencies_runs_as_it_says() -> None:
    ctx = run.cli.RunContext(name="x")
    for given, dependencies in [(run.LocalExecutor(), []), (None, ["one"])]:
        with run.Experiment("x", executor=given) as exp:
            exp.add(run.Script(inline="true"), name="one")
            exp.add(run.Script(inline="true"), name="two", dependencies=dependencies)
            exp.run = Mock()  # type: ignore[method-assign]
            ctx.launch(exp)
        assert exp.run.call_args.kwargs["direct"] is False


def test_within_a_dryrun_nothing_runs(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    with rehearsing(), run.Experiment("x") as exp:
        exp.add(run.Script(inline="touch made"), name="one")
        exp.run()
        run.run(run.Partial(train, model=run.Config(Model)))
    assert "Dry run of x_" in capsys.readouterr().out
    assert exp.launched
    assert called == []
    assert not home.exists()


# Running it --------------------------------------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str, fn: Any = train, **options: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["program.py", *arguments])
    try:
        run.cli.main(fn, **options)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_main_runs_it_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, "--yes", "model=small(hidden=3)", "epochs=2", "runtime=9", "where=/data") == 0
    assert called == [(Model(hidden=3), 2, 9, Path("/data"))]


def test_defaults_of_main(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, "epochs=1", default_factory=recipe, cmd_defaults={"skip_confirmation": True}) == 0
    assert called == [(Model(hidden=77), 1, 1, Path("here"))]
    assert train.cli_entrypoint.default_factory is None
    with pytest.raises(errors.UsageError, match="dryrun"):
        run.cli.main(train, cmd_defaults={"dryrum": True})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--yes", "model=small", "epoch=4"], 1, "Did you mean 'epochs'?"),
        (["--yes"], 1, "train needs model. Pass model=small, or one of special."),
        (["model=small"], 1, "Pass --yes to run without asking."),
        (["--yes", "model=small", "--detach"], 1, "--detach needs an executor."),
        (["--yess", "model=small"], 2, "--yes"),
        (["--yes", "model"], 1, "'model' is not key=value"),
    ],
)
def test_what_is_wrong_ends_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert command(monkeypatch, *arguments) == code
    assert words in " ".join(capsys.readouterr().err.split())
    assert called == []


def test_the_users_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, code in [("n\n", 1), ("y\n", 0)]:
        terminal = io.StringIO(answer)
        terminal.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", terminal)
        assert command(monkeypatch, "model=small") == code
    assert len(called) == 1


def test_a_dryrun_shows_and_runs_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, "--dryrun", "model=small", "executor=local(retries=2)") == 0
    assert called == []
    shown = capsys.readouterr().out
    assert "Executor  LocalExecutor(retries=2)" in shown
    assert "Dry run of" in shown
    assert "worker/run.py" in shown


def test_without_an_executor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    @run.cli.entrypoint(enable_executor=False)
    def simple(a: int = 1) -> None:
        called.append(a)

    assert command(monkeypatch, "a=2", fn=simple) == 0
    assert called == [2]
    assert command(monkeypatch, "executor=local", fn=simple) == 1
    assert "runs in this process" in capsys.readouterr().err


def test_writing_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "--to-json", "-:model", "model=small") == 0
    assert json.loads(capsys.readouterr().out)["hidden"] == 8
    arguments = ["--to-yaml", "a.yaml", "--to-json", "a.json:model", "model=small", "epochs=2", "where=/data"]
    assert command(monkeypatch, *arguments) == 0
    assert called == []
    assert json.loads((tmp_path / "a.json").read_text()) == {"_target_": f"{Model.__module__}.Model", "hidden": 8}
    assert command(monkeypatch, "--yes", "--yaml", "a.yaml", "epochs+=1") == 0
    assert called == [(Model(hidden=8), 3, 1, Path("/data"))]
    assert command(monkeypatch, "--lazy", "--to-toml", "l.toml", "model=small", "model.hidden=6") == 0
    assert '_factory_ = "small"' in (tmp_path / "l.toml").read_text()
    assert command(monkeypatch, "--yes", "--lazy", "--yaml", "l.toml") == 0
    assert called[-1][0] == Model(hidden=6)


def test_experiments_get_what_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    @run.cli.entrypoint(type="experiment", skip_confirmation=True)
    def both(ctx: run.cli.RunContext, exp: run.Experiment, n: int = 2) -> None:
        called.append((ctx, exp, n))

    @run.cli.entrypoint(type="experiment", skip_confirmation=True)
    def makes(ctx, n: int = 2):  # type: ignore[no-untyped-def]
        with run.Experiment("made", executor=ctx.executor) as exp:
            exp.add(run.Partial(train, model=run.Config(Model, hidden=n)), name="one")
            ctx.launch(exp)

    assert command(monkeypatch, "n=3", "--name", "mine", fn=both) == 0
    ctx, exp, n = called.pop()
    assert (ctx.name, exp.title, n) == ("mine", "mine", 3)
    assert command(monkeypatch, "n=5", fn=makes) == 0
    assert called == [(Model(hidden=5), 3, 1, Path("here"))]
    assert command(monkeypatch, "--dryrun", "n=6", fn=makes) == 0
    assert len(called) == 1


def test_defaults_that_are_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    default = run.Config(Model, hidden=1)

    @run.cli.entrypoint(skip_confirmation=True)
    def task(models: list[Model] = [default], model: Model = default) -> None:  # noqa: B006
        called.append((models, model))

    @run.cli.entrypoint(type="experiment", skip_confirmation=True)
    def experiment(ctx: run.cli.RunContext, model: Model = default) -> None:
        called.append(model)

    assert command(monkeypatch, fn=task) == 0
    assert command(monkeypatch, "models[0].hidden=3", "model.hidden=2", fn=task) == 0
    assert command(monkeypatch, fn=experiment) == 0
    assert called == [([Model(1)], Model(1)), ([Model(3)], Model(2)), default]
    assert default == run.Config(Model, hidden=1)


def test_an_executor_that_no_job_uses_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    ctx = run.cli.RunContext(name="x", dryrun=True)
    ctx.executor = FakeExecutor()
    with run.Experiment("x") as exp:
        exp.add(run.Script(inline="true"), name="one")
        ctx.launch(exp)
    assert "No job of this experiment runs on the FakeExecutor" in " ".join(capsys.readouterr().err.split())


NEMO_RUN = {
    "entrypoint": "fn name namespace help skip_confirmation enable_executor default_factory default_executor "
    "default_plugins entrypoint_cls type run_ctx_cls",
    "factory": "fn target target_arg is_target_default name namespace",
    "main": "fn default_factory default_executor default_plugins cmd_defaults kwargs",
    "resolve_factory": "target name",
    "list_factories": "type_or_namespace",
    "list_entrypoints": "namespace",
    "create_cli": "add_verbose_callback nested_entrypoints_creation",
    "parse_cli_args": "fn args output_type",
    "parse_partial": "fn args",
    "parse_config": "fn args",
    "parse_factory": "parent arg_name arg_type value",
    "RunContext": "name direct dryrun factory load repl detach skip_confirmation tail_logs yaml to_yaml to_toml to_json",
}


@pytest.mark.parametrize(("name", "parameters"), NEMO_RUN.items())
def test_names_and_parameters_are_nemo_runs(name: str, parameters: str) -> None:
    found = list(inspect.signature(getattr(run.cli, name)).parameters)
    assert found[: len(parameters.split())] == parameters.split()
    assert name in dir(run.cli)


def test_submodules_are_where_nemo_run_has_them() -> None:
    for module, name in [
        ("api", "RunContext"),
        ("cli_parser", "parse_factory"),
        ("config", "ConfigSerializer"),
        ("lazy", "lazy_imports"),
    ]:
        assert hasattr(getattr(run.cli, module), name)
    assert run.cli.entrypoint is run.cli.api.entrypoint
    app = run.cli.create_cli()
    assert {"experiment", "server", "test"} <= {group.name for group in app.registered_groups}


# Lazy ones ---------------------------------------------------------------------------------------------------------------


def test_a_lazy_entrypoint_records_and_resolves() -> None:
    task: Any = run.LazyEntrypoint(train, overwrites=["model=small", "epochs=4"])
    task.model.hidden = 5
    task.epochs += 2
    assert task.is_lazy
    assert task.resolve() == run.Partial(train, model=run.Config(Model, hidden=5), epochs=6)
    assert run.LazyEntrypoint(train, factory="recipe").resolve() == recipe()
    assert run.LazyEntrypoint(train, factory=recipe, overwrites=["epochs=1"]).resolve().epochs == 1
    assert run.LazyEntrypoint(train, yaml={"model": "small"}).resolve().model == run.Config(Model, hidden=8)
    assert run.LazyEntrypoint(f"{__name__}.train").resolve() == run.Partial(train)
    ctx = run.cli.RunContext(name="x")
    run.LazyEntrypoint(train, overwrites=["run.executor=local"]).resolve(ctx)
    assert ctx.parse_executor("local") == ctx.executor
    with pytest.raises(errors.OperationError, match="Leave out --lazy"):
        task.to_data()


def test_a_lazy_entrypoint_is_a_task() -> None:
    with run.Experiment("x") as exp:
        exp.add(run.LazyEntrypoint(train, overwrites=["model=small"]), name="one")
    assert exp.tasks == [run.Partial(train, model=run.Config(Model, hidden=8))]
    run.run(run.LazyEntrypoint(train, overwrites=["model=small"]))
    assert called == [(Model(hidden=8), 3, 1, Path("here"))]


def test_lazy_imports() -> None:
    with run.lazy_imports():
        import io as known  # imported already

        import this_module_is_nowhere.at_all as module  # type: ignore[import-not-found]
        from this_module_is_nowhere import name
    assert known is io
    assert "imported when it is used" in repr(module.x.y) + repr(name)
    with pytest.raises(errors.NotFoundError, match="this_module_is_nowhere"):
        name()
    with run.lazy_imports(fallback_to_lazy=True):
        import colorsys

        import this_module_is_nowhere  # noqa: F401
    assert colorsys.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)


# Help --------------------------------------------------------------------------------------------------------------------


def test_help_lists_parameters_defaults_and_factories() -> None:
    out = io.StringIO()
    run.help(train, console=Console(file=out, width=200))
    shown = " ".join(out.getvalue().replace("│", " ").split())
    for words in (
        "Train a model.",
        "required the network.",
        "epochs int 3 how often it sees all data.",
        "where Path PosixPath('here')",
        "Factories for model",
        "small(hidden=8)",
        "A small one.",
        "special",
        "--factory",
        "recipe(epochs=7)",
        "cluster(tasks=2)",
        "noisy(level=2)",
        "local",
    ):
        assert words in shown
    out.truncate(0)
    run.help(run.LocalExecutor, with_docs=False, console=Console(file=out, width=200))
    assert "ntasks_per_node" in out.getvalue()


def test_the_workspace_file_is_looked_for_only_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "workspace.py").touch()
    monkeypatch.chdir(tmp_path / "a" / "b")
    monkeypatch.delenv("INCLUDE_WORKSPACE_FILE", raising=False)
    assert workspace_file() is None
    monkeypatch.setenv("INCLUDE_WORKSPACE_FILE", "true")
    assert workspace_file() == tmp_path / "workspace.py"
    (tmp_path / "workspace_private.py").touch()
    assert workspace_file() == tmp_path / "workspace_private.py"
    (tmp_path / "a" / "workspace.py").touch()
    assert workspace_file() == tmp_path / "a" / "workspace.py"
