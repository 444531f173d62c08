"""`entrypoint` and `main`: a function as a command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from nemo_prefect.cli.factories import register_entrypoint
from nemo_prefect.errors import ConfigError

if TYPE_CHECKING:
    from nemo_prefect.cli.context import RunContext

F = Callable[..., Any]
Kind = Literal["task", "experiment"]


class CommandDefaults(TypedDict, total=False):
    """Defaults of a command's options, for `main`."""

    name: str
    direct: bool
    dryrun: bool
    factory: str
    detach: bool
    repl: bool
    skip_confirmation: bool
    tail_logs: bool
    yaml: str
    to_yaml: str
    to_toml: str
    to_json: str


class Entrypoint:
    """A function as a command: what `entrypoint` attaches to it as ``cli_entrypoint``.

    Args:
        fn: the function.
        namespace: groups commands; by default the function's module.
        default_factory: makes the whole call where no ``--factory`` is given.
        default_executor: where it runs where no ``executor=`` is given.
        default_plugins: the plugins where no ``plugins=`` are given.
        env: environment variables that are set before it runs.
        name: the command's name; by default the function's.
        help_str: what its help says; by default the function's docstring.
        enable_executor: whether it can run on an executor; else it is simply called.
        skip_confirmation: run it without asking.
        type: ``"task"``: it is the task; ``"experiment"``: it makes an experiment, with the context that it is given.
        run_ctx_cls: the class of that context.
    """

    def __init__(
        self,
        fn: F,
        namespace: str = "",
        default_factory: F | None = None,
        default_executor: Any = None,
        default_plugins: Any = None,
        env: dict[str, str] | None = None,
        name: str | None = None,
        help_str: str | None = None,
        enable_executor: bool = True,
        skip_confirmation: bool = False,
        type: Kind = "task",
        run_ctx_cls: type[RunContext] | None = None,
    ) -> None:
        from nemo_prefect.cli.annotations import display_module

        if type not in ("task", "experiment"):
            raise ConfigError(f"There is no entry point of type {type!r}.", hint="Use 'task' or 'experiment'.")
        self.fn = fn
        self.name = name or fn.__name__
        self.namespace = namespace or display_module(fn.__module__)
        self.default_factory = default_factory
        self.default_executor = default_executor
        self.default_plugins = default_plugins
        self.env = dict(env or {})
        self.help_str = help_str
        self.enable_executor = enable_executor
        self.skip_confirmation = skip_confirmation
        self.type: Kind = type
        self._run_ctx_cls = run_ctx_cls
        self.configured: dict[str, Any] = {}

    @property
    def path(self) -> str:
        """``namespace.name``."""
        return f"{self.namespace}.{self.name}"

    @property
    def run_ctx_cls(self) -> type[RunContext]:
        """The class of the context."""
        from nemo_prefect.cli.context import RunContext

        return self._run_ctx_cls or RunContext

    @property
    def doc(self) -> str:
        """What its help says."""
        import inspect

        return self.help_str or inspect.getdoc(self.fn) or ""

    def configure(self, **fn_kwargs: Any) -> None:
        """Arguments that the function has before those of the command line."""
        self.configured.update(fn_kwargs)

    def parse_partial(self, args: Sequence[str], **default_args: Any) -> Any:
        """The `Partial` that these arguments make."""
        from nemo_prefect.cli.cli_parser import parse_cli_args
        from nemo_prefect.config import Partial

        return parse_cli_args(Partial(self.fn, **{**self.configured, **default_args}), args)

    def main(self, cmd_defaults: CommandDefaults | dict[str, Any] | None = None, arguments: list[str] | None = None) -> None:
        """Run it as a command, with this program's arguments, or with those given. It ends the program where it fails."""
        from nemo_prefect.cli.command import run_entrypoint

        run_entrypoint(self, arguments, dict(cmd_defaults or {}), prog_name=Path(sys.argv[0]).name)

    def help(self, console: Any = None, with_docs: bool = True) -> None:
        """Show its parameters, their types and defaults, and the factories for them."""
        from nemo_prefect.cli.describe import help as show

        show(self.fn, with_docs=with_docs, console=console)


def entrypoint(
    fn: F | None = None,
    *,
    name: str | None = None,
    namespace: str | None = None,
    help: str | None = None,
    skip_confirmation: bool = False,
    enable_executor: bool = True,
    default_factory: F | None = None,
    default_executor: Any = None,
    default_plugins: Any = None,
    entrypoint_cls: type[Entrypoint] | None = None,
    type: Kind = "task",
    run_ctx_cls: type[RunContext] | None = None,
) -> Any:
    """Make a function a command. It stays the function that it is, and gets an attribute ``cli_entrypoint``.

    Example::

        @run.cli.entrypoint
        def train(model: Model, epochs: int = 3): ...

        if __name__ == "__main__":
            run.cli.main(train)  # python train.py model=small epochs=5

    Args:
        fn: the function, where the decorator is used without arguments.
        name: the command's name; by default the function's.
        namespace: groups commands; by default the function's module.
        help: what its help says; by default the function's docstring.
        skip_confirmation: run it without asking.
        enable_executor: whether it can run on an executor; else it is simply called.
        default_factory: makes the whole call where no ``--factory`` is given.
        default_executor: where it runs where no ``executor=`` is given.
        default_plugins: the plugins where no ``plugins=`` are given.
        entrypoint_cls: a subclass of `Entrypoint`.
        type: ``"task"``: the function is the task; ``"experiment"``: it makes an experiment. That one takes a parameter
            ``ctx`` (a `RunContext`; it calls ``ctx.launch(exp)``), or ``exp``, an open experiment that is launched
            afterwards, or both.
        run_ctx_cls: a subclass of `RunContext`.
    """

    def register(function: F) -> F:
        made = (entrypoint_cls or Entrypoint)(
            function,
            name=name,
            namespace=namespace or "",
            help_str=help,
            skip_confirmation=skip_confirmation,
            enable_executor=enable_executor,
            default_factory=default_factory,
            default_executor=default_executor,
            default_plugins=default_plugins,
            type=type,
            run_ctx_cls=run_ctx_cls,
        )
        function.cli_entrypoint = made  # type: ignore[attr-defined]
        register_entrypoint(made)
        return function

    return register if fn is None else register(fn)


def main(
    fn: Any,
    default_factory: F | None = None,
    default_executor: Any = None,
    default_plugins: Any = None,
    cmd_defaults: CommandDefaults | dict[str, Any] | None = None,
    **kwargs: Any,
) -> None:
    """Run a function as this program's command. Returns when it has run; ends the program, with exit code 1, where it
    failed, and with 2 where an option is wrong.

    Args:
        fn: the function; an `entrypoint`, or any other.
        default_factory: makes the whole call where no ``--factory`` is given.
        default_executor: where it runs where no ``executor=`` is given.
        default_plugins: the plugins where no ``plugins=`` are given, one or a list.
        cmd_defaults: defaults of the command's options.
        **kwargs: arguments of `entrypoint`, for a function that is none.
    """
    from nemo_prefect.external_main import stop_if_imported_by_a_job

    stop_if_imported_by_a_job()
    fn = fn.__lazy_load__() if hasattr(type(fn), "__lazy_load__") else fn
    found = getattr(fn, "cli_entrypoint", None) or entrypoint(**kwargs)(fn).cli_entrypoint
    before = (found.default_factory, found.default_executor, found.default_plugins)
    found.default_factory = default_factory or found.default_factory
    found.default_executor = default_executor if default_executor is not None else found.default_executor
    found.default_plugins = default_plugins if default_plugins is not None else found.default_plugins
    try:
        found.main(cmd_defaults)
    finally:
        found.default_factory, found.default_executor, found.default_plugins = before
