"""`run` and `dryrun_fn`: one task without writing an experiment around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nemo_prefect.errors import NotATaskError
from nemo_prefect.script import Script

if TYPE_CHECKING:
    from nemo_prefect.executors.base import Executor
    from nemo_prefect.plugin import ExperimentPlugin


def run(
    fn_or_script: Any,
    executor: Executor | str | None = None,
    plugins: ExperimentPlugin | Sequence[ExperimentPlugin] | None = None,
    name: str = "",
    dryrun: bool = False,
    direct: bool = False,
    detach: bool = False,
    tail_logs: bool = True,
    log_level: str = "INFO",
) -> None:
    """Run one task: on `executor` as an experiment of one job, or, without one, in this process.

    Args:
        fn_or_script: a Partial or a Script.
        executor: where it runs.
        plugins: change task and executor first; they need an executor.
        name: the experiment's title; by default the task's name.
        dryrun: only show what would run.
        direct: run it in this process.
        detach: return once a runner in the background owns it.
        tail_logs: show its output.
        log_level: the level of this package's own log.

    Raises:
        NotATaskError: `fn_or_script` is neither (a TypeError as well).
        ExperimentFailed: the task failed.
    """
    from nemo_prefect.external_main import stop_if_imported_by_a_job
    from nemo_prefect.jobs import check_task, task_name
    from nemo_prefect.rehearsal import is_rehearsal

    stop_if_imported_by_a_job()
    dryrun = dryrun or is_rehearsal()
    if hasattr(type(fn_or_script), "__nemo_task__"):
        fn_or_script = fn_or_script.__nemo_task__()
    if not isinstance(fn_or_script, Script) and not hasattr(fn_or_script, "__fn_or_cls__"):
        raise NotATaskError(
            f"{fn_or_script!r} is no task.",
            hint="Pass a run.Script, or a function as run.Partial(function, argument=value).",
        )
    if direct or executor is None:
        if dryrun:
            dryrun_fn(fn_or_script)
            return
        check_task(fn_or_script)
        from nemo_prefect.direct import run_directly

        run_directly(fn_or_script)
        return
    from nemo_prefect.experiment import Experiment

    title = name or task_name(fn_or_script)
    with Experiment(title, executor=executor, log_level=log_level) as exp:
        exp.add(fn_or_script, name=title, plugins=plugins, tail_logs=tail_logs)
        if dryrun:
            exp.dryrun()
        else:
            exp.run(detach=detach)


def dryrun_fn(configured_fn: Any, executor: Executor | None = None, build: bool = False) -> None:
    """Show a configured call: its function, its arguments, and the executor.

    Args:
        configured_fn: a Partial or Config, or a Script.
        executor: shown as well where it is given.
        build: also build it, to see whether that works.

    Raises:
        NotATaskError: `configured_fn` is something else (a TypeError as well).
    """
    from rich.console import Console
    from rich.pretty import Pretty
    from rich.table import Table

    console = Console()
    if isinstance(configured_fn, Script):
        console.print(f"[bold cyan]Dry run for script {configured_fn.get_name()}:[/bold cyan]", Pretty(configured_fn))
        return
    import fiddle

    if not isinstance(configured_fn, (fiddle.Config, fiddle.Partial)):
        raise NotATaskError(f"{configured_fn!r} is no configured call.", hint="Pass a run.Partial or a run.Config.")
    target = fiddle.get_callable(configured_fn)
    console.print(f"[bold cyan]Dry run for task {target.__module__}:{target.__name__}[/bold cyan]")
    tables = [("Resolved Arguments", dict(configured_fn.__arguments__))]
    if executor is not None:
        tables.append(("Executor", executor.model_dump(exclude_defaults=True, exclude={"block_type_slug"})))
    for heading, values in tables:
        table = Table("Name", "Value", title=heading, title_justify="left")
        for key, value in values.items():
            table.add_row(str(key), Pretty(value))
        console.print(table)
    if build:
        fiddle.build(configured_fn)
