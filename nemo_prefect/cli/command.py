"""The command line of an entry point: its options, its help, and how its errors are shown."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand

from nemo_prefect.errors import NemoPrefectError

if TYPE_CHECKING:
    from nemo_prefect.cli.entrypoints import Entrypoint

OPTIONS: dict[str, Any] = {
    "name": Annotated[str | None, typer.Option("--name", "-n", help="The experiment's title.")],
    "executor": Annotated[str | None, typer.Option("--executor", "-e", help="Where it runs; as executor=...")],
    "direct": Annotated[bool, typer.Option("--direct/--no-direct", help="Run it in this process.")],
    "dryrun": Annotated[bool, typer.Option("--dryrun", help="Show what would run, and run nothing.")],
    "factory": Annotated[str | None, typer.Option("--factory", "-f", help="The factory that makes the whole call.")],
    "yaml": Annotated[str | None, typer.Option("--yaml", help="A file of arguments: YAML, TOML or JSON, PATH[:section].")],
    "repl": Annotated[bool, typer.Option("--repl", "-r", help="Change the task in an interactive session first.")],
    "detach": Annotated[bool, typer.Option("--detach/--no-detach", help="Leave it to a runner in the background.")],
    "skip_confirmation": Annotated[bool, typer.Option("--yes", "--no-confirm", "-y", help="Do not ask before it runs.")],
    "tail_logs": Annotated[bool, typer.Option("--tail-logs/--no-tail-logs", help="Show the output of its jobs.")],
    "lazy": Annotated[bool, typer.Option("--lazy", help="Look names of factories up when it is launched, not before.")],
    "to_yaml": Annotated[
        str | None, typer.Option("--to-yaml", help="Write the configuration to PATH[:section], run nothing.")
    ],
    "to_toml": Annotated[str | None, typer.Option("--to-toml", help="The same, as TOML.")],
    "to_json": Annotated[str | None, typer.Option("--to-json", help="The same, as JSON.")],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")],
    "rich_exceptions": Annotated[
        bool, typer.Option("--rich-exceptions/--no-rich-exceptions", help="Show tracebacks in colour.")
    ],
    "rich_traceback_short": Annotated[
        bool, typer.Option("--rich-traceback-short/--rich-traceback-full", help="Only the last frame of those.")
    ],
    "rich_show_locals": Annotated[
        bool, typer.Option("--rich-show-locals/--rich-hide-locals", help="The values of local variables in those.")
    ],
    "rich_theme": Annotated[str | None, typer.Option("--rich-theme", help="A Pygments style for those.")],
}
_DISPLAY = ("verbose", "rich_exceptions", "rich_traceback_short", "rich_show_locals", "rich_theme")
DEFAULTS: dict[str, Any] = {name: False if hint.__origin__ is bool else None for name, hint in OPTIONS.items()}
err = Console(stderr=True)


def run_entrypoint(entrypoint: Entrypoint, arguments: list[str] | None, defaults: dict[str, Any], prog_name: str) -> None:
    """Run an entry point with these arguments, or with the program's; returns when it succeeded.

    Args:
        entrypoint: the entry point.
        arguments: the arguments, without the program's name.
        defaults: defaults of the options.
        prog_name: how the help names the program.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    add_command(app, entrypoint, defaults)
    run_app(app, arguments, prog_name)


def run_app(app: typer.Typer, arguments: list[str] | None, prog_name: str) -> None:
    """Run a command. Errors of this package end the program with one paragraph on stderr and exit code 1; its success
    does not end it."""
    try:
        app(args=arguments, prog_name=prog_name)
    except NemoPrefectError as error:
        err.print(f"[bold red]Error:[/bold red] {escape(error.message)}", highlight=False, soft_wrap=True)
        if error.hint:
            err.print(escape(error.hint), highlight=False, soft_wrap=True)
        sys.exit(1)
    except SystemExit as end:
        if end.code not in (0, None):
            raise


def add_command(app: typer.Typer, entrypoint: Entrypoint, defaults: dict[str, Any] | None = None) -> None:
    """Add an entry point to a command, under its name."""
    unknown = sorted(set(defaults or {}) - set(OPTIONS) - {"load"})
    if unknown:
        from nemo_prefect.cli.suggest import did_you_mean
        from nemo_prefect.errors import UsageError

        raise UsageError(f"There is no option {unknown[0]!r}.", hint=did_you_mean(unknown[0], OPTIONS))
    app.command(
        entrypoint.name,
        cls=_command_class(entrypoint),
        help=_summary(entrypoint.doc),
        context_settings={"allow_extra_args": True, "ignore_unknown_options": False},
    )(_callback(entrypoint, {**DEFAULTS, **(defaults or {})}))


def _summary(doc: str) -> str:
    """A docstring without its section of arguments: the parameters have a table of their own."""
    kept = []
    for line in doc.splitlines():
        if line.strip() in ("Args:", "Arguments:", "Parameters:", "Returns:", "Raises:"):
            break
        kept.append(line)
    return "\n".join(kept).strip()


def _command_class(entrypoint: Entrypoint) -> type[TyperCommand]:
    class EntrypointCommand(TyperCommand):
        def format_help(self, ctx: Any, formatter: Any) -> None:
            super().format_help(ctx, formatter)
            from nemo_prefect.cli.describe import help as show

            show(entrypoint.fn, with_docs=False, console=Console(), executors=entrypoint.enable_executor)

        def collect_usage_pieces(self, ctx: Any) -> list[str]:
            return [*super().collect_usage_pieces(ctx), "[NAME=VALUE]..."]

    return EntrypointCommand


def _callback(entrypoint: Entrypoint, defaults: dict[str, Any]) -> Any:
    """The function that typer calls, with the options as its parameters."""
    import inspect

    def callback(ctx: typer.Context, **options: Any) -> None:
        display = {name: options.pop(name) for name in _DISPLAY}
        _set_display(display)
        _execute(entrypoint, options, list(ctx.args))

    kind = inspect.Parameter.KEYWORD_ONLY
    made = [inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    for name, hint in OPTIONS.items():
        made.append(inspect.Parameter(name, kind, default=defaults[name], annotation=hint))
    callback.__signature__ = inspect.Signature(made)  # type: ignore[attr-defined]
    callback.__annotations__ = {p.name: p.annotation for p in made}
    return callback


def _execute(entrypoint: Entrypoint, options: dict[str, Any], args: list[str]) -> None:
    from nemo_prefect.cli.resolve import environment

    executor, name = options.pop("executor"), options.pop("name")
    ctx = entrypoint.run_ctx_cls(name=name or entrypoint.name, **options)
    ctx.skip_confirmation = ctx.skip_confirmation or entrypoint.skip_confirmation or not entrypoint.enable_executor
    ctx.executor = entrypoint.default_executor
    given = entrypoint.default_plugins or []
    ctx.plugins = list(given) if isinstance(given, (list, tuple)) else [given]
    if executor:
        ctx.executor = ctx.parse_executor(executor)
    with environment(entrypoint.env):
        ctx.cli_execute(entrypoint.fn, args, entrypoint.type)


def _set_display(display: dict[str, Any]) -> None:
    if display["verbose"]:
        logging.getLogger("nemo_prefect").setLevel(logging.DEBUG)
        logging.basicConfig(level=logging.INFO)
    if display["rich_exceptions"]:
        from rich.traceback import install

        install(
            show_locals=display["rich_show_locals"],
            max_frames=1 if display["rich_traceback_short"] else 100,
            theme=display["rich_theme"],
        )
