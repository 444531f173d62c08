"""`RunContext`: one run of a command: its options, its executor and plugins, and how it is carried out."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nemo_prefect.cli.annotations import hints_of, parameters, target_of
from nemo_prefect.cli.cli_parser import Operation, assign, parse_argument, parse_cli_args
from nemo_prefect.cli.resolve import built, factory_call, named_class
from nemo_prefect.cli.suggest import did_you_mean
from nemo_prefect.errors import ArgumentParsingError, ArgumentValueError, CLIException, UsageError

if TYPE_CHECKING:
    from nemo_prefect.cli.entrypoints import Kind

#: Options that ``run.NAME=VALUE`` can set.
_OPTIONS = ("name", "direct", "dryrun", "factory", "repl", "detach", "skip_confirmation", "tail_logs", "yaml")


@dataclass(kw_only=True)
class RunContext:
    """One run of a command.

    Attributes:
        name: the experiment's title.
        direct: run it in this process.
        dryrun: only show what would run.
        factory: the factory that makes the whole call.
        load: accepted for NeMo-Run's sake; it has no meaning there either.
        repl: let the user change the task in an interactive session first.
        detach: return once a runner in the background owns it.
        skip_confirmation: do not ask.
        tail_logs: show the jobs' output.
        yaml: a file of arguments.
        to_yaml, to_toml, to_json: write the configuration to this ``PATH[:section]``, and run nothing.
        lazy: look up the names of factories when it is launched, not before.
        executor: where it runs; None is this process.
        plugins: they change the task and the executor first.
    """

    name: str
    direct: bool = False
    dryrun: bool = False
    factory: str | None = None
    load: str | None = None
    repl: bool = False
    detach: bool = False
    skip_confirmation: bool = False
    tail_logs: bool = False
    yaml: str | None = None
    to_yaml: str | None = None
    to_toml: str | None = None
    to_json: str | None = None
    lazy: bool = False
    executor: Any = field(init=False, default=None)
    plugins: list[Any] = field(init=False, default_factory=list)

    # What the arguments say ------------------------------------------------------------------------------------------

    def parse_args(self, args: Sequence[str], fn: Any = None) -> list[str]:
        """Take what is meant for the run itself out of `args`: ``executor=``, ``executor.nodes=``, ``plugins=``, and
        anything that begins with ``run.``.

        Args:
            args: the arguments.
            fn: the function; where it has a parameter ``executor`` or ``plugins`` of its own, those go to it.

        Returns:
            The others.

        Raises:
            CLIException: a name or a value is wrong.
        """
        own = set(parameters(fn)[0]) if fn is not None else set()
        rest: list[str] = []
        executor: list[str] = []
        for text in args:
            try:
                argument = parse_argument(text)
            except ArgumentParsingError:
                if not text.startswith("@"):
                    raise
                rest.append(text)
                continue
            prefix, _, key = argument.key.partition(".")
            typed = text
            if prefix == "run" and key:
                text = text.strip().removeprefix("run.")
                argument = dataclasses.replace(argument, key=key)
            elif argument.steps[0] not in ("executor", "plugins") or argument.steps[0] in own:
                rest.append(text)
                continue
            first, *more = argument.steps
            if first == "executor":
                if more:
                    executor.append(text.strip().removeprefix("executor."))
                else:
                    self.executor, executor = self.parse_executor(str(argument.value)), []
            elif first == "plugins":
                self._parse_plugins(argument.operation, more, text, str(argument.value))
            else:
                self.set_option(first, argument.value, typed)
        if executor:
            self.executor = self._changed_executor(executor)
        return rest

    def set_option(self, name: str, value: Any, text: str = "") -> None:
        """Set an option of the run, from text or from a file's value.

        Raises:
            ArgumentValueError: there is no such option; the hint names the nearest.
            ParseError: the value does not fit it.
        """
        from nemo_prefect.cli.types import type_parser

        if name not in _OPTIONS:
            raise ArgumentValueError(
                f"{text or name}: There is no option {name!r} of the run.",
                text,
                hint=did_you_mean(name, [*_OPTIONS, "executor", "plugins"]),
            )
        try:
            setattr(self, name, type_parser.convert(value, hints_of(RunContext)[name]))
        except CLIException as error:
            error.prefix(f"{text or name}: ")
            raise

    def set_options(self, options: dict[str, Any]) -> None:
        """Set the options that a file holds: ``executor``, ``plugins`` and the others."""
        from nemo_prefect.cli.files import config_from
        from nemo_prefect.executors.base import Executor
        from nemo_prefect.plugin import ExperimentPlugin

        for name, value in options.items():
            if name == "executor":
                is_text = isinstance(value, str)
                self.executor = self.parse_executor(value) if is_text else config_from(value, Executor)
            elif name == "plugins":
                many = value if isinstance(value, list) else [value]
                self.plugins = []
                for each in many:
                    made = self.parse_plugin(each) if isinstance(each, str) else config_from(each, ExperimentPlugin)
                    self.plugins += made if isinstance(made, list) else [made]
            else:
                self.set_option(name, value)

    def parse_executor(self, name: str, *args: str) -> Any:
        """The executor that a text names: a factory (``cluster(nodes=2)``), an installed executor (``local``), or the slug
        of an executor block (``slurm-executor/a100``).

        Args:
            name: the text.
            *args: ``key=value`` each, put into it.

        Raises:
            ArgumentValueError: there is none; the hint names the nearest.
        """
        from nemo_prefect.cli.factories import call_target, candidates, split_call
        from nemo_prefect.executors.base import Executor
        from nemo_prefect.executors.registry import executor_class, executor_names, load_executor

        text = name.strip()
        head, call = split_call(text)
        found, installed = candidates(None, "", Executor), executor_names()
        if head in found or head in installed:
            target = found[head] if head in found else executor_class(head)
            made = call_target(target, call, text, call is not None)
        elif head and (cls := named_class(head, Executor)) is not None:
            made = call_target(cls, call, text, call is not None)
        elif "/" in text and not head:
            made = load_executor(text)
        elif "." in head or head == text == "None":
            from nemo_prefect.cli.types import type_parser

            made = type_parser.parse(text, Executor | None)
        else:
            raise ArgumentValueError(
                f"There is no executor named {text!r}.", text, hint=did_you_mean(head or text, [*found, *installed])
            )
        return parse_cli_args(made, args) if args else made

    def _changed_executor(self, args: list[str]) -> Any:
        import fiddle as fdl

        from nemo_prefect.config import Config

        base = self.executor
        if base is None:
            raise ArgumentValueError(
                f"executor.{args[0]}: there is no executor to change.", hint="Name it first, with executor=..."
            )
        if not isinstance(base, fdl.Buildable):  # one that was loaded or passed in
            base = Config(type(base), **{name: getattr(base, name) for name in base.model_fields_set})
        try:
            return parse_cli_args(base, args)
        except CLIException as error:
            error.prefix("executor.")
            raise

    def parse_plugin(self, name: str, *args: str) -> Any:
        """The plugin (or list of plugins) that a text names.

        Args:
            name: a factory, a class, or a list of them.
            *args: ``key=value`` each, put into it.
        """
        from nemo_prefect.cli.types import type_parser
        from nemo_prefect.plugin import ExperimentPlugin

        made = type_parser.parse(name, ExperimentPlugin | list[ExperimentPlugin])
        return parse_cli_args(made, args) if args else made

    def _parse_plugins(self, operation: Operation, more: list[str], text: str, value: str) -> None:
        if not more:
            made = self.parse_plugin(value)
            made = made if isinstance(made, list) else [made]
            self.plugins = [*self.plugins, *made] if operation is Operation.ADD else made
            return
        index = int(more[0]) if more[0].lstrip("-").isdigit() else 0
        if not -len(self.plugins) <= index < len(self.plugins):
            raise ArgumentValueError(f"{text}: there is no such plugin.", text, hint="Name them first, with plugins=...")
        key = text.strip().removeprefix("plugins").partition("]")[2] if "[" in text.partition("=")[0] else text
        argument = parse_argument(key.lstrip(".").removeprefix("plugins."))
        assign(self.plugins[index], argument)

    def parse_fn(self, fn: Any, args: Sequence[str], **default_kwargs: Any) -> Any:
        """The `Partial` of `fn` that a factory, a file and the arguments make, in this order.

        Args:
            fn: the function.
            args: ``key=value`` each.
            **default_kwargs: arguments that it has before.

        Raises:
            CLIException: a name or a value is wrong.
        """
        from nemo_prefect.cli.config import read_file
        from nemo_prefect.cli.files import FACTORY, apply_mapping

        data = read_file(self.yaml) if self.yaml else {}
        if isinstance(data, dict) and FACTORY in data:
            self.factory = self.factory or str(data.pop(FACTORY))
        task = self._base(fn, default_kwargs)
        if self.yaml:
            self.set_options(apply_mapping(task, data, str(self.yaml).removeprefix("@")))
        if (wrong := next((a for a in args if "=" not in a and not a.startswith("@")), None)) is not None:
            parse_argument(wrong)
        return parse_cli_args(task, args)

    def _base(self, fn: Any, default_kwargs: dict[str, Any]) -> Any:
        import fiddle as fdl

        from nemo_prefect.config import Partial

        default = getattr(getattr(fn, "cli_entrypoint", None), "default_factory", None)
        if self.factory:
            made = factory_call(fn, self.factory)
        elif default is not None:
            made = default()
        else:
            return Partial(fn, **default_kwargs)
        if not isinstance(made, fdl.Buildable) or target_of(made) is not fn:
            what = getattr(target_of(made), "__qualname__", type(made).__name__)
            raise ArgumentValueError(
                f"The factory {self.factory or default!r} makes a {what}, no call of {fn.__name__}.",
                hint=f"A factory for the whole call returns run.Partial({fn.__name__}, ...).",
            )
        return fdl.cast(Partial, made)

    def parse_lazy(self, fn: Any, args: Sequence[str]) -> Any:
        """The same as `parse_fn`, as a `LazyEntrypoint`: looked up when it is resolved."""
        from nemo_prefect.cli.lazy import LazyEntrypoint

        rest = self.parse_args(args, fn)
        return LazyEntrypoint(fn, factory=self.factory, yaml=self.yaml, overwrites=rest)

    # Carrying it out -------------------------------------------------------------------------------------------------

    def launch(self, experiment: Any, sequential: bool = False) -> None:
        """Run an experiment as the options say.

        Without an executor of the command line, an experiment runs in this process, unless it names executors itself, or
        has groups or dependencies.

        Args:
            experiment: the experiment, within its ``with`` block.
            sequential: let every job wait for the one before it.
        """
        if self.executor is not None:
            _warn_of_another_executor(experiment, self.executor)
        if self.dryrun:
            experiment.dryrun()
            return
        direct = self.direct or (self.executor is None and not self.detach and not _has_its_own(experiment))
        experiment.run(sequential=sequential, detach=self.detach, direct=direct, tail_logs=self.tail_logs)

    def cli_execute(self, fn: Any, args: Sequence[str], entrypoint_type: Kind = "task") -> None:
        """Run `fn` with these arguments.

        Args:
            fn: the function.
            args: ``key=value`` each.
            entrypoint_type: ``"task"`` or ``"experiment"``.

        Raises:
            CLIException: an argument is wrong.
            UsageError: options exclude each other, or nobody is there to be asked.
            ExperimentFailed: it failed.
        """
        from nemo_prefect.cli.execute import execute_experiment, execute_task

        (execute_experiment if entrypoint_type == "experiment" else execute_task)(self, fn, args)

    def build(self) -> None:
        """Make the executor and the plugins from their configs.

        Raises:
            ArgumentValueError: a field has a wrong value, or one is missing.
        """
        self.executor = built(self.executor)
        self.plugins = [built(plugin) for plugin in self.plugins]

    def should_continue(self, skip_confirmation: bool | None = None) -> bool:
        """Ask whether to go on.

        Raises:
            UsageError: there is no terminal to ask on.
        """
        skip = self.skip_confirmation if skip_confirmation is None else skip_confirmation
        if skip or "TORCHELASTIC_RUN_ID" in os.environ:
            return True
        if not sys.stdin or not sys.stdin.isatty():
            raise UsageError("Nothing was run: there is no terminal to ask on.", hint="Pass --yes to run without asking.")
        import typer

        return bool(typer.confirm("Continue?"))

    def to_config(self) -> Any:
        """This context as a `Config`."""
        from nemo_prefect.config import Config

        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        return Config(type(self), **values)


def _has_its_own(experiment: Any) -> bool:
    """Whether an experiment says itself where its jobs run, or needs more than one process."""
    if getattr(experiment, "_given_executor", None) is not None:
        return True
    jobs = getattr(experiment, "jobs", None)
    if not isinstance(jobs, list):
        return False
    return any(len(j.tasks) > 1 or j.dependencies or j.executor.executor_name != "local" for j in jobs)


def _warn_of_another_executor(experiment: Any, executor: Any) -> None:
    """Say so, where no job of the experiment is on the executor that was asked for."""
    jobs = getattr(experiment, "jobs", None)
    if isinstance(jobs, list) and jobs and not any(type(e) is type(executor) for job in jobs for e in job.executors):
        from nemo_prefect.terminal import PatientConsole

        PatientConsole(stderr=True).print(
            f"[yellow]No job of this experiment runs on the {type(executor).__name__} that was asked for.[/yellow] "
            "Pass it on: run.Experiment(..., executor=ctx.executor)."
        )
