"""Configuration on Fiddle: `Config`, `Partial`, `autoconvert`, `ConfigurableMixin`, and their serialisation.

NeMo-Run's users know these names; their meaning is the same. `Script`, which needs no Fiddle, lives in `script.py`.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import functools
import inspect
import itertools
import re
import sys
import types
import typing
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

import fiddle as fdl
from fiddle import daglish
from fiddle._src import casting
from fiddle.experimental import auto_config, serialization
from fiddle.experimental import dataclasses as fdl_dataclasses

from nemo_prefect._imports import keep_stderr_open
from nemo_prefect.configurable import ConfigurableMixin, svg
from nemo_prefect.diff import ConfigDiff
from nemo_prefect.errors import ConfigError, SerializationError, SetValueError
from nemo_prefect.home import get_nemorun_home, set_nemorun_home
from nemo_prefect.script import Script

if TYPE_CHECKING:
    from typing_extensions import Self

keep_stderr_open()

__all__ = [
    "Config",
    "ConfigurableMixin",
    "OptionalDefaultConfig",
    "OptionalDefaultPartial",
    "Partial",
    "Script",
    "ZlibJSONSerializer",
    "autoconvert",
    "check_serializable",
    "from_dict",
    "get_nemorun_home",
    "get_type_namespace",
    "get_underlying_types",
    "set_nemorun_home",
    "set_value",
    "to_config",
]

T = TypeVar("T")
F = Callable[..., Any]


class _Buildable:
    """What `Config` and `Partial` have beyond Fiddle's own."""

    def clone(self) -> Self:
        """A deep copy."""
        return copy.deepcopy(self)

    def walk(self, **transforms: Callable[[Any], Any]) -> Self:
        """Set every attribute named in `transforms`, here and in nested configs, to what its function makes of the config
        that has it. Attributes that have neither a value nor a default are left alone.

        Example::

            cfg.walk(seq_length=lambda part: part.seq_length * 2)

        Returns:
            This config itself.
        """
        for node in _nodes(self):
            for name, transform in transforms.items():
                if name in _parameters(node) and hasattr(node, name):
                    setattr(node, name, transform(node))
        return self

    def broadcast(self, **values: Any) -> Self:
        """Set every attribute named in `values`, here and in nested configs, to its value. Returns this config itself."""
        return self.walk(**{name: lambda _, value=value: value for name, value in values.items()})

    def visualize(self, **kwargs: Any) -> Any:
        """The config as a Graphviz graph."""
        from fiddle.graphviz import render

        return render(self, **kwargs)

    def diff(self, old: Any, trim: bool = True, **kwargs: Any) -> Any:
        """What differs between `old` and this config: text in a terminal, a table in a notebook, and a Graphviz graph.

        Args:
            old: the config to compare with.
            trim: leave out what is the same.
            **kwargs: for the graph: passed on to Fiddle's ``render_diff``.
        """
        return ConfigDiff(old, self, trim=trim, **kwargs)

    def save_config_img(self, path_str: str) -> None:
        """Draw the config into a PNG file; given a directory, into ``config.png`` there.

        Raises:
            ConfigError: the file's ending is not ``.png``.
        """
        path = Path(path_str)
        if path.is_dir() or not path.suffix:
            path = path / "config.png"
        if path.suffix != ".png":
            raise ConfigError(f"{path.name!r} cannot hold the picture.", hint="Name a file that ends in .png.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.visualize().pipe("png"))

    def _repr_svg_(self) -> str | None:
        return svg(self.visualize)


class Config(Generic[T], fdl.Config[T], _Buildable):  # type: ignore[misc]
    """A configuration of `fn_or_cls`: building it calls it with the configured arguments.

    Args:
        fn_or_cls: the class or function to configure.
        *args: positional arguments to configure.
        bind_args: bind the arguments to the signature at once; dataclass instances among them become nested configs.
        **kwargs: keyword arguments to configure.
    """

    def __init__(self, fn_or_cls: Any, *args: Any, bind_args: bool = True, **kwargs: Any) -> None:
        if fn_or_cls == {} or get_origin(fn_or_cls) is dict:
            fn_or_cls, bind_args = dict, False
        super().__init__(fn_or_cls, *args, **_bound(fn_or_cls, args, kwargs, bind_args))

    @classmethod
    def __unflatten__(cls, values: Any, metadata: Any) -> Any:
        if metadata.fn_or_cls is dict:
            return cls(dict, **metadata.arguments(values))
        return super().__unflatten__(values, metadata)


class Partial(Generic[T], fdl.Partial[T], _Buildable):  # type: ignore[misc]
    """A configured call of `fn_or_cls` that is made later, inside the job. The form of a task that is a function.

    Takes the arguments of `Config`.
    """

    def __init__(self, fn_or_cls: Any, *args: Any, bind_args: bool = True, **kwargs: Any) -> None:
        super().__init__(fn_or_cls, *args, **_bound(fn_or_cls, args, kwargs, bind_args))


OptionalDefaultConfig = Annotated[T | None, Config]
OptionalDefaultPartial = Annotated[T | None, Partial]


def _bound(fn_or_cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any], bind_args: bool) -> dict[str, Any]:
    """`kwargs` with dataclass instances as nested configs and, for parameters annotated with a default config, that
    default. Where the signature cannot be read the arguments go to Fiddle as they are, which does its own checks."""
    if not bind_args or isinstance(fn_or_cls, fdl.Buildable):
        return kwargs
    try:
        signature = inspect.signature(fn_or_cls)
        given = set(signature.bind_partial(*args, **kwargs).arguments)
        hints = get_type_hints(fn_or_cls.__init__ if inspect.isclass(fn_or_cls) else fn_or_cls, include_extras=True)
    except Exception:  # noqa: BLE001 - whatever an odd callable raises here, Fiddle reports better
        return kwargs
    bound = {name: _nested(value) for name, value in kwargs.items()}
    for name in signature.parameters:
        if name not in given and (default := _default_buildable(hints.get(name))) is not None:
            bound[name] = default
    return bound


def _nested(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _ours(fdl_dataclasses.convert_dataclasses_to_configs(value, allow_post_init=True))
    return value


def _ours(made: Any) -> Any:
    """Fiddle's configs below `made`, it included, as this module's."""

    def convert(value: Any, state: daglish.State) -> Any:
        value = state.map_children(value) if state.is_traversable(value) else value
        return fdl.cast(Config, value) if type(value) is fdl.Config else value

    return daglish.MemoizedTraversal.run(convert, made)


def _default_buildable(hint: Any) -> Any:
    """The config that ``Annotated[Optional[T], Config[T]]`` asks for where the argument is not given, else None."""
    if get_origin(hint) is not Annotated:
        return None
    base, *extras = get_args(hint)
    wrapper = next((e for e in extras if (get_origin(e) or e) in (Config, Partial)), None)
    if wrapper is None:
        return None
    targets = [a for a in get_args(base) if a is not type(None)] if get_origin(base) in _UNIONS else [base]
    kind = get_origin(wrapper) or wrapper
    return kind(targets[0]) if len(targets) == 1 and callable(targets[0]) else None


_UNIONS = (typing.Union, types.UnionType)


def _nodes(root: Any) -> Iterator[Any]:
    """`root` and the buildables below it, each once. (Listed first, so that the walker may be used to change them.)"""
    nodes = [node for node, _ in daglish.iterate(root, memoized=True) if isinstance(node, fdl.Buildable)]
    yield from nodes


def _parameters(node: Any) -> set[str]:
    signature = node.__signature_info__ if hasattr(node, "__signature_info__") else None
    names = set(signature.parameters) if signature is not None else set()
    return names | set(node.__arguments__)


def to_config(obj: Any) -> Any:
    """`obj` as a `Config`: a dataclass becomes one, nested ones too; lists, tuples and dicts stay what they are.

    Raises:
        NotImplementedError: `obj` is neither, and has no ``to_config`` of its own.
    """
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        try:
            return _ours(fdl_dataclasses.convert_dataclasses_to_configs(obj, allow_post_init=True))
        except Exception as error:
            raise NotImplementedError(
                f"{type(obj).__name__} could not be converted to a Config. Give it a to_config method of its own."
            ) from error
    if isinstance(obj, (list, tuple, dict)):
        return obj
    raise NotImplementedError(f"{type(obj).__name__} is no dataclass. Give it a to_config method of its own.")


def default_autoconfig_buildable(fn: F, cls: Any, *args: Any, **kwargs: Any) -> Any:
    """The configuration of what ``fn(*args, **kwargs)`` would build, as a `cls` (`Config` or `Partial`), or a list of
    them where `fn` returns a list."""
    made = auto_config.auto_config(
        fn,
        experimental_allow_dataclass_attribute_access=True,
        experimental_exemption_policy=_is_config_already,
        experimental_config_types=auto_config.ConfigTypes(config_cls=Config, partial_cls=Partial),
    ).as_buildable(*args, **kwargs)
    return [_cast(cls, item) for item in made] if isinstance(made, list) else _cast(cls, made)


def _is_config_already(called: Any) -> bool:
    return called in (Config, Partial) or getattr(called, "__auto_config__", False)


def _cast(cls: Any, made: Any) -> Any:
    # A function that already returns a Partial keeps it: casting would turn "call later" into "call now".
    return fdl.cast(Partial if isinstance(made, fdl.Partial) else cls, made)


def autoconvert(fn: F | None = None, *, partial: bool = False, to_buildable_fn: F = default_autoconfig_buildable) -> Any:
    """Turn a function that builds objects into one that returns their configuration, without building them.

    The body must be straight-line code (no loops or conditions: Fiddle reads it as a configuration). Calls become
    `Config`; with ``partial=True`` the returned one becomes a `Partial`. Returning a list of objects gives a list of
    configs.

    Example::

        @run.autoconvert
        def optimizer(lr: float = 1e-3) -> run.Config[Adam]:
            return Adam(lr=lr)
    """

    def convert(function: F) -> Any:
        @functools.wraps(function)
        def as_config(*args: Any, **kwargs: Any) -> Any:
            return to_buildable_fn(function, Partial if partial else Config, *args, **kwargs)

        as_config.wrapped = function  # type: ignore[attr-defined]
        as_config.__auto_config__ = True  # type: ignore[attr-defined]
        return as_config

    return convert if fn is None else convert(fn)


for _from, _to in itertools.product((fdl.Config, fdl.Partial, Config, Partial), (Config, Partial)):
    casting.register_supported_cast(_from, _to)


def get_type_namespace(typ: Any) -> str:
    """``module.qualname`` of a class or function; ``__main__`` becomes the script's name without its ending."""
    target = fdl.get_callable(typ) if isinstance(typ, fdl.Buildable) else typ
    module = target.__module__
    if module == "__main__" and (file := getattr(sys.modules["__main__"], "__file__", None)):
        module = Path(file).stem
    name = getattr(target, "__qualname__", str(target))
    return f"{module}.{name.split('.')[-1] if name.startswith('ForwardRef') else name}"


def get_underlying_types(type_hint: Any) -> set[Any]:
    """The members of a (possibly annotated) union, each resolved in turn; any other hint stands for itself."""
    if get_origin(type_hint) is Annotated:
        return get_underlying_types(get_args(type_hint)[0])
    if get_origin(type_hint) in _UNIONS:
        return {t for arg in get_args(type_hint) for t in get_underlying_types(arg)}
    return {type_hint}


def from_dict(raw_data: Any, cls: Any) -> Any:
    """Plain data as an instance of the dataclass `cls`, nested ones and lists of them too.

    Raises:
        ConfigError: `cls` is a union of several types, so that the data's type is ambiguous.
    """
    targets = get_underlying_types(cls) - {type(None)}
    target = next(iter(targets)) if len(targets) == 1 else None
    if isinstance(raw_data, dict) and target is None:
        raise ConfigError(f"{cls} names more than one type.", hint="Only one type (or an Optional of it) can be loaded.")
    if isinstance(raw_data, dict) and dataclasses.is_dataclass(target):
        hints = get_type_hints(target)
        fields = [f for f in dataclasses.fields(target) if f.init and f.name in raw_data]
        return target(**{f.name: from_dict(raw_data[f.name], hints[f.name]) for f in fields})  # type: ignore[operator]
    if isinstance(raw_data, list) and get_args(target):
        return [from_dict(item, get_args(target)[0]) for item in raw_data]
    return raw_data


def set_value(cfg: Any, key: str, value: Any) -> None:
    """Set the attribute that the path `key` (``model.layers[0].size``) names in `cfg`.

    Raises:
        SetValueError: there is no such path, or the value cannot be put there.
    """
    steps = re.findall(r"[^.\[\]]+|\[[^\]]*\]", key)
    walk = cfg
    try:
        for step in steps[:-1]:
            walk = walk[_index(step)] if step.startswith("[") else getattr(walk, step)
        if steps[-1].startswith("["):
            walk[_index(steps[-1])] = value
        else:
            setattr(walk, steps[-1], value)
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise SetValueError(
            f"Could not set {key!r} to {value!r}: {str(error).rstrip('.')}.",
            hint="Look at the config for the parameters that it has.",
        ) from error


def _index(step: str) -> Any:
    inner = step[1:-1]
    return int(inner) if inner.lstrip("-").isdigit() else inner.strip("'\"")


class ZlibJSONSerializer:
    """Fiddle's JSON, compressed with zlib and written as URL-safe base64."""

    def serialize(self, cfg: Any, metadata: str | None = None) -> str:
        """`cfg` (a `Config` or `Partial`, or a list of them) as text."""
        return base64.urlsafe_b64encode(zlib.compress(serialization.dump_json(cfg).encode())).decode("ascii")

    def deserialize(self, serialized: str, main: str | None = None) -> Any:
        """The config that `serialize` wrote. The modules that it names are imported.

        Args:
            serialized: the text.
            main: the module to look into for what was defined in ``__main__``.
        """
        text = zlib.decompress(base64.urlsafe_b64decode(serialized)).decode()
        return serialization.load_json(text.replace('"__main__"', f'"{main}"') if main else text)


def check_serializable(task: Any) -> str:
    """`task` as text, once it is sure that it comes back the same.

    Raises:
        SerializationError: it does not; the message names the paths that need a ``run.Config``.
    """
    serializer = ZlibJSONSerializer()
    culprits = [path for path, value in leaves(task) if not _survives(value)]
    try:
        text = serializer.serialize(task)
        same = serializer.deserialize(text) == task
    except Exception as error:
        raise _refusal(culprits, str(error)) from error
    if not same or culprits:
        raise _refusal(culprits, "it does not come back as it was")
    return text


def leaves(task: Any) -> Iterator[tuple[str, Any]]:
    """The path and value of everything below `task` that is neither a config nor a container."""
    for value, path in daglish.iterate(task, memoized=False):
        if not isinstance(value, (fdl.Buildable, list, tuple, dict)):
            yield daglish.path_str(path), value


def _survives(value: Any) -> bool:
    try:
        return bool(serialization.load_json(serialization.dump_json([value])) == [value])
    except Exception:  # noqa: BLE001 - any failure means that the value does not survive
        return False


def _refusal(paths: list[str], why: str) -> SerializationError:
    where = ", ".join(f"<root>{p}" for p in paths) or "<root>"
    return SerializationError(
        f"This task cannot be sent to its job ({why}). What stops it: {where}.",
        hint="Wrap each of these in run.Config(...), for example run.Config(Path, 'data') in place of Path('data'); "
        "lambdas and local functions have to become module-level functions.",
    )
