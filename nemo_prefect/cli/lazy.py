"""`LazyEntrypoint` and `lazy_imports`: naming what is imported later."""

from __future__ import annotations

import builtins
import importlib
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_prefect.errors import NotFoundError, OperationError

if TYPE_CHECKING:
    from nemo_prefect.cli.cli_parser import Argument
    from nemo_prefect.cli.context import RunContext

_OPERATORS = {
    "__iadd__": "+=",
    "__isub__": "-=",
    "__imul__": "*=",
    "__itruediv__": "/=",
    "__ior__": "|=",
    "__iand__": "&=",
}


class LazyEntrypoint:
    """A call of an entry point that is put together when it is resolved: its module, its factories and its values are
    looked up then, not before. Attributes that are set on it are recorded::

        task = run.LazyEntrypoint("project.train:pretrain", factory="llama3_8b")
        task.trainer.max_steps = 100
        task.model = "small(hidden=3)"
        partial = task.resolve()

    Args:
        target: the function, or its name: ``package.module.function``, ``package.module:function``, ``FILE:function``.
        factory: makes the whole call: a function, or a factory's name.
        yaml: a file of arguments, or a mapping of them.
        overwrites: arguments as on a command line, ``key=value`` each.
    """

    def __init__(
        self,
        target: Callable[..., Any] | str,
        factory: Callable[..., Any] | str | None = None,
        yaml: Any = None,
        overwrites: Sequence[str] | None = None,
    ) -> None:
        own = self.__dict__
        own["_target_"] = target
        own["_factory_"] = factory
        own["_yaml_"] = yaml
        own["_args_"] = []
        self._add_overwrite(*(overwrites or ()))

    def _add_overwrite(self, *overwrites: str) -> None:
        from nemo_prefect.cli.cli_parser import parse_argument

        for text in overwrites:
            argument = parse_argument(text)
            self._args_.append((argument.key, argument.operation.value, argument.value))

    @property
    def is_lazy(self) -> bool:
        """Always true: nothing is looked up before `resolve`."""
        return True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Recorder(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, _Recorder):  # what `task.x += 1` sets: it was recorded already
            self._args_.append((name, "=", value))

    def __repr__(self) -> str:
        args = ", ".join(f"{key}{op}{value!r}" for key, op, value in self._args_)
        return f"LazyEntrypoint({_shown(self._target_)}{', ' if args else ''}{args})"

    def __nemo_task__(self) -> Any:
        """The task, for an experiment that it is added to."""
        return self.resolve()

    @property
    def arguments(self) -> list[Argument]:
        """What was recorded, as arguments."""
        from nemo_prefect.cli.cli_parser import Argument, Operation

        return [Argument(f"{key}{op}{value}", key, Operation(op), value) for key, op, value in self._args_]

    def resolve(self, ctx: RunContext | None = None) -> Any:
        """The `Partial`.

        Args:
            ctx: takes what is meant for the run itself, such as ``run.executor=...`` among the overwrites.

        Raises:
            NotFoundError: the target cannot be imported.
            CLIException: a name or a value is wrong.
        """
        from nemo_prefect.cli.cli_parser import assign
        from nemo_prefect.cli.context import RunContext
        from nemo_prefect.cli.files import apply_mapping

        fn = load_target(self._target_) if isinstance(self._target_, str) else self._target_
        fn = fn.__lazy_load__() if hasattr(type(fn), "__lazy_load__") else fn
        context = ctx if ctx is not None else RunContext(name=str(getattr(fn, "__name__", "task")))
        factory = self._factory_
        before = (context.factory, context.yaml)
        context.factory = factory if isinstance(factory, str) else None
        context.yaml = str(self._yaml_) if isinstance(self._yaml_, (str, Path)) else None
        try:
            task = factory() if callable(factory) else context.parse_fn(fn, [])
        finally:
            context.factory, context.yaml = before
        if isinstance(self._yaml_, dict):
            context.set_options(apply_mapping(task, self._yaml_, "The mapping"))
        for argument in self.arguments:
            if argument.key.startswith("run."):
                context.parse_args([argument.text], fn)
            else:
                assign(task, argument)
        return task

    def to_data(self) -> dict[str, Any]:
        """The call as it was written, for a file: factories by their names.

        Raises:
            OperationError: there is a ``+=`` in it, which a file cannot say.
        """
        from nemo_prefect.cli.cli_parser import steps_of
        from nemo_prefect.cli.config import read_file
        from nemo_prefect.cli.types import parse_value
        from nemo_prefect.serialization import name_of, to_data

        target = self._target_ if isinstance(self._target_, str) else name_of(self._target_)
        made: dict[str, Any] = {"_target_": target, "_partial_": True}
        if self._factory_ is not None:
            made["_factory_"] = self._factory_ if isinstance(self._factory_, str) else name_of(self._factory_)
        if self._yaml_ is not None:
            data = self._yaml_ if isinstance(self._yaml_, dict) else read_file(self._yaml_)
            made.update({k: v for k, v in data.items() if k not in ("_target_", "_partial_")})
        for key, op, value in self._args_:
            if op != "=":
                raise OperationError(f"{key}{op}{value}: a file cannot say this.", hint="Leave out --lazy.")
            *path, last = steps_of(key)
            node = made
            for step in path:
                inner = node.get(step)
                node[step] = inner if isinstance(inner, dict) else {} if inner is None else {"_factory_": inner}
                node = node[step]
            node[last] = to_data(parse_value(value) if isinstance(value, str) else value)
        return made


class _Recorder:
    """A path below a `LazyEntrypoint`: setting its attributes is recorded there."""

    def __init__(self, root: LazyEntrypoint, path: str) -> None:
        self.__dict__["_root"] = root
        self.__dict__["_path"] = path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Recorder(self._root, f"{self._path}.{name}")

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, _Recorder):
            self._root._args_.append((f"{self._path}.{name}", "=", value))

    def __getitem__(self, key: Any) -> _Recorder:
        return _Recorder(self._root, f"{self._path}[{key}]")

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(value, _Recorder):
            self._root._args_.append((f"{self._path}[{key}]", "=", value))


def _operator(op: str) -> Callable[[_Recorder, Any], _Recorder]:
    def record(self: _Recorder, other: Any) -> _Recorder:
        self._root._args_.append((self._path, op, other))
        return self

    return record


for _name, _op in _OPERATORS.items():
    setattr(_Recorder, _name, _operator(_op))


def _shown(target: Any) -> str:
    return repr(target) if isinstance(target, str) else getattr(target, "__qualname__", repr(target))


def load_target(name: str) -> Any:
    """What ``package.module:function``, ``package.module.function`` or ``FILE:function`` names.

    Raises:
        NotFoundError: it names nothing; the hint names the nearest entry point.
    """
    from nemo_prefect.cli.target import load

    return load(name)


class LazyName:
    """A name that is imported when it is used: called, or resolved."""

    def __init__(self, path: str) -> None:
        self.__dict__["_path"] = path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return LazyName(f"{self._path}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__lazy_load__()(*args, **kwargs)

    def __lazy_load__(self) -> Any:
        """What the name stands for; imported now."""
        from nemo_prefect.serialization import import_name

        return import_name(self._path)

    def __repr__(self) -> str:
        return f"<{self._path}, imported when it is used>"


class LazyModule(types.ModuleType):
    """A module that is imported when something in it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return LazyName(f"{self.__name__}.{name}")

    def __repr__(self) -> str:
        return f"<module {self.__name__!r}, imported when it is used>"


@contextmanager
def lazy_imports(fallback_to_lazy: bool = False) -> Iterator[None]:
    """Within the block, modules that are not imported yet are not imported by ``import`` either: names from them stand for
    what is looked up when they are used, as a target of `LazyEntrypoint` or `main`, or by a call.

    Args:
        fallback_to_lazy: import what can be imported; only what cannot becomes lazy.
    """
    real = builtins.__import__

    def lazily(
        name: str,
        globals: Any = None,
        locals: Any = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        own = globals is not None and str(globals.get("__name__", "")).split(".")[0] == "nemo_prefect"
        inside = globals is None or globals.get("__name__") != caller
        if own or inside or level or name in sys.modules:
            return real(name, globals, locals, fromlist or (), level)
        if fallback_to_lazy:
            try:
                return real(name, globals, locals, fromlist or (), level)
            except ImportError:
                pass
        return LazyModule(name) if fromlist else LazyModule(name.partition(".")[0])

    caller = sys._getframe(2).f_globals.get("__name__")
    builtins.__import__ = lazily
    try:
        yield
    finally:
        builtins.__import__ = real


def load_config_from_path(path_with_syntax: str) -> Any:
    """The plain data in ``@PATH[:section]``.

    Raises:
        ArgumentValueError: there is no such file or section.
    """
    from nemo_prefect.cli.config import read_file

    return read_file(path_with_syntax)


def import_module(qualname_str: str) -> Any:
    """What ``module.qualname`` names.

    Raises:
        NotFoundError: it cannot be imported.
    """
    from nemo_prefect.serialization import import_name

    return import_name(qualname_str)


__all__ = [
    "LazyEntrypoint",
    "LazyModule",
    "LazyName",
    "NotFoundError",
    "import_module",
    "importlib",
    "lazy_imports",
    "load_config_from_path",
    "load_target",
]
