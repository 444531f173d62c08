"""What a command does once its options are known: show the task, ask, run it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from nemo_prefect.cli.annotations import MISSING, display_module, parameters, target_of, type_name
from nemo_prefect.cli.resolve import built, context_parameters
from nemo_prefect.errors import ArgumentValueError, UsageError

if TYPE_CHECKING:
    from nemo_prefect.cli.context import RunContext

F = Callable[..., Any]


class Aborted(UsageError):
    """The user said no."""


def execute_task(ctx: RunContext, fn: F, args: Sequence[str]) -> None:
    """Run `fn` as a task: on the executor, or in this process where there is none."""
    task = _parsed(ctx, fn, args, None)
    if task is None:
        return
    if ctx.detach and (ctx.executor is None or ctx.direct):
        raise UsageError("--detach needs an executor.", hint="Name one, with executor=..., and leave out --direct.")
    if not ctx.dryrun and not ctx.should_continue():
        raise Aborted("Nothing was run.")
    from nemo_prefect.api import run

    if ctx.executor is None or ctx.direct:
        if ctx.plugins:
            _console().print("[yellow]The plugins are left out: the task runs in this process.[/yellow]")
        if not ctx.dryrun:
            run(task, direct=True)
        return
    run(
        portable(task),
        executor=ctx.executor,
        plugins=ctx.plugins or None,
        name=ctx.name,
        dryrun=ctx.dryrun,
        detach=ctx.detach,
        tail_logs=ctx.tail_logs,
    )


def execute_experiment(ctx: RunContext, fn: F, args: Sequence[str]) -> None:
    """Call `fn`, which makes an experiment, with the context, with an open experiment, or with both."""
    takes_ctx, takes_exp = context_parameters(fn)
    task = _parsed(ctx, fn, args, [name for name in (takes_ctx, takes_exp) if name])
    if task is None:
        return
    if not ctx.dryrun and not ctx.should_continue():
        raise Aborted("Nothing was run.")
    import fiddle as fdl

    call = functools.partial(fdl.build(task), **({takes_ctx: ctx} if takes_ctx else {}))
    from nemo_prefect.rehearsal import rehearsing

    with rehearsing(ctx.dryrun):
        if not takes_exp:
            call()
            return
        from nemo_prefect.experiment import Experiment

        with Experiment(ctx.name, executor=ctx.executor) as exp:
            call(**{takes_exp: exp})
            if not exp.launched and exp.jobs:
                ctx.launch(exp)


def _parsed(ctx: RunContext, fn: F, args: Sequence[str], context: Sequence[str] | None) -> Any:
    """The task, once it was shown; None where it was only to be written to a file. `context` are the parameters of an
    experiment's function that get the context; None says that it is no such function."""
    given = context or ()
    lazy = None
    if ctx.lazy:
        lazy = ctx.parse_lazy(fn, args)
        if _export(ctx, lazy):
            return None
    entrypoint = getattr(fn, "cli_entrypoint", None)
    configured = entrypoint.configured if entrypoint is not None else {}
    task = lazy.resolve(ctx) if lazy is not None else ctx.parse_fn(fn, ctx.parse_args(args, fn), **configured)
    if _export(ctx, task):
        return None
    if context is None:
        fill_defaults(task)
    if ctx.executor is not None and entrypoint is not None and not entrypoint.enable_executor:
        raise UsageError(f"{entrypoint.name} runs in this process, not on an executor.", hint="Leave out executor=...")
    ctx.build()
    if ctx.repl:
        task = _interact(ctx, task)
    show(ctx, task, given)
    check_complete(task, given)
    return task


def fill_defaults(task: Any) -> None:
    """Defaults that are configs, or hold some, become arguments of the task, so that they are built with it. (The
    function of an experiment gets such defaults as they are, as in NeMo-Run, to make tasks of them.)"""
    import copy

    import fiddle as fdl
    from fiddle import daglish

    for name, parameter in parameters(task)[0].items():
        if name not in task.__arguments__ and isinstance(parameter.default, (fdl.Buildable, list, tuple, dict)):
            if any(isinstance(value, fdl.Buildable) for value, _ in daglish.iterate(parameter.default)):
                setattr(task, name, copy.deepcopy(parameter.default))


def check_complete(task: Any, given: Sequence[str] = ()) -> None:
    """Refuse a task that lacks arguments.

    Raises:
        ArgumentValueError: it does; the hint names the factories that there are.
    """
    from nemo_prefect.cli.factories import candidates

    known, _ = parameters(task)
    missing = [p for p in known.values() if p.default is MISSING and p.name not in (*task.__arguments__, *given)]
    missing = missing[len([k for k in task.__arguments__ if isinstance(k, int)]) :]
    if missing:
        first = missing[0]
        found = sorted(candidates(target_of(task), first.name, first.annotation))
        hint = f"Pass {first.name}=..., a {type_name(first.annotation)}."
        if found:
            hint = f"Pass {first.name}={found[0]}" + (f", or one of {', '.join(found[1:])}." if found[1:] else ".")
        name = getattr(target_of(task), "__name__", target_of(task))
        raise ArgumentValueError(f"{name} needs {', '.join(p.name for p in missing)}.", hint=hint)


def portable(task: Any) -> Any:
    """`task` with its paths as configs: a path travels to its job as the call that makes it."""
    from fiddle import daglish

    from nemo_prefect.config import Config

    def convert(value: Any, state: daglish.State) -> Any:
        if isinstance(value, PurePath):
            kind = value.__class__ if value.__class__.__module__ == "builtins" else PurePath
            from pathlib import Path

            kind = Path if isinstance(value, Path) else kind
            return Config(kind, str(value), bind_args=False)
        return state.map_children(value) if state.is_traversable(value) else value

    return daglish.MemoizedTraversal.run(convert, task)


def _export(ctx: RunContext, task: Any) -> bool:
    """Write the configuration where the options say. Whether they say so."""
    from nemo_prefect.cli.config import ConfigSerializer, split_section

    wanted = {"yaml": ctx.to_yaml, "toml": ctx.to_toml, "json": ctx.to_json}
    for format, where in wanted.items():
        if where:
            if hasattr(task, "to_data"):
                path, section = split_section(where)
                ConfigSerializer().dump_dict(task.to_data(), path, format, section)
            else:
                ConfigSerializer().dump(portable(task), where, format)
            if not where.startswith("-"):
                _console().print(f"The configuration is in {where}.", markup=False, highlight=False, soft_wrap=True)
    return any(wanted.values())


def show(ctx: RunContext, task: Any, given: Sequence[str] = ()) -> None:
    """Show what would run: the function, its arguments with their defaults, the executor, the plugins."""
    from rich.pretty import Pretty
    from rich.table import Table
    from rich.text import Text

    console, target = _console(), target_of(task)
    word = "Dry run" if ctx.dryrun else "Run"
    console.print(
        Text.assemble((f"{word} of ", "bold"), (f"{display_module(target.__module__)}:{target.__name__}", "bold cyan"))
    )
    table = Table("Argument", "Value", show_edge=False, box=None, padding=(0, 2, 0, 0))
    known, _ = parameters(task)
    values = {p.name: p.default for p in known.values() if p.default is not MISSING and p.name not in given}
    for name, value in {**values, **task.__arguments__}.items():
        table.add_row(Text(str(name)), Pretty(value), style=None if name in task.__arguments__ else "dim")
    if table.row_count:
        console.print(table)
    if ctx.executor is not None:
        console.print(Text.assemble(("Executor  ", "bold"), brief(ctx.executor)), soft_wrap=True)
    for plugin in ctx.plugins:
        console.print("[bold]Plugin[/bold]", Pretty(plugin))


def brief(executor: Any) -> str:
    """An executor with the fields that are not as they are by default. Secrets stay hidden."""
    fields = type(executor).model_fields
    shown = {
        n: getattr(executor, n)
        for n, i in fields.items()
        if getattr(executor, n) != i.get_default(call_default_factory=True)
    }
    return f"{type(executor).__name__}({', '.join(f'{n}={v!r}' for n, v in shown.items())})"


def _console() -> Any:
    from nemo_prefect.terminal import PatientConsole

    return PatientConsole()


def _interact(ctx: RunContext, task: Any) -> Any:
    """An interactive session in which the task can be changed."""
    import nemo_prefect

    name = getattr(target_of(task), "__name__", "task")
    names = {"run": nemo_prefect, "ctx": ctx, "task": task, name: task}
    banner = f"Change {name} (also: task), ctx.executor, ctx.plugins. End with Ctrl-D."
    try:
        from IPython.terminal.embed import InteractiveShellEmbed
    except ImportError:
        import code

        code.interact(banner=banner, local=names, exitmsg="")
    else:
        InteractiveShellEmbed(banner1=banner, user_ns=names, confirm_exit=False)(local_ns=names)
    ctx.executor = built(ctx.executor)
    changed = names["task"]
    return changed if changed is not task else names[name]
