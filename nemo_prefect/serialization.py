"""Configs as plain data, and as YAML.

A `Config` is a mapping with ``_target_`` (``module.qualname``) and its arguments; a `Partial` has ``_partial_: true`` as
well; a function or class that is itself a value has ``_call_: false``. Positional arguments are a list under ``_args_``.
What YAML, TOML or JSON cannot express is a mapping with one key: ``{_tuple_: [...]}``, ``{_set_: [...]}``,
``{_frozenset_: [...]}``, ``{_dict_: [[key, value], ...]}``, ``{_complex_: "1j"}``, ``{_bytes_: base64}``,
``{_none_: true}`` (TOML has no null).
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

import fiddle as fdl

from nemo_prefect.config import Config, Partial, to_config
from nemo_prefect.errors import NotFoundError, SerializationError
from nemo_prefect.external_main import MODULE

__all__ = ["YamlSerializer", "from_data", "import_name", "name_of", "to_data"]

TARGET, PARTIAL, CALL, ARGS = "_target_", "_partial_", "_call_", "_args_"
_MARKS = ("_tuple_", "_set_", "_frozenset_", "_dict_", "_complex_", "_bytes_", "_none_")
_SYMBOLS = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def to_data(value: Any, path: str = "<root>") -> Any:
    """`value`, a config or anything that may be in one, as mappings, lists, strings, numbers, booleans and None.

    Raises:
        SerializationError: something in it has no such form; the message names its path.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, fdl.Buildable):
        return _buildable_to_data(value, path)
    if isinstance(value, enum.Enum):
        return {TARGET: f"{name_of(type(value), path)}.{value.name}", CALL: False}
    if isinstance(value, _SYMBOLS):
        return {TARGET: name_of(value, path), CALL: False}
    if type(value) is list:
        return [to_data(v, f"{path}[{i}]") for i, v in enumerate(value)]
    if type(value) is dict:
        if all(isinstance(k, str) and not (k.startswith("_") and k.endswith("_")) for k in value):
            return {k: to_data(v, f"{path}[{k!r}]") for k, v in value.items()}
        return {"_dict_": [[to_data(k, path), to_data(v, f"{path}[{k!r}]")] for k, v in value.items()]}
    if type(value) in (tuple, set, frozenset):
        members = value if type(value) is tuple else sorted(value, key=repr)
        return {f"_{type(value).__name__}_": [to_data(v, f"{path}[{i}]") for i, v in enumerate(members)]}
    if type(value) is complex:
        return {"_complex_": str(value)}
    if type(value) is bytes:
        return {"_bytes_": base64.b64encode(value).decode("ascii")}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_data(to_config(value), path)
    raise SerializationError(
        f"{path} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be written down as data.",
        hint="Wrap it in run.Config(...), for example run.Config(Path, 'data') in place of Path('data').",
    )


def _buildable_to_data(value: Any, path: str) -> dict[str, Any]:
    target = fdl.get_callable(value)
    if not isinstance(value, (fdl.Config, fdl.Partial)) or (target.__module__ or "").startswith("fiddle."):
        raise SerializationError(f"{path} is one of Fiddle's own helpers.", hint="Put a plain value in its place.")
    made: dict[str, Any] = {TARGET: name_of(target, path)}
    if isinstance(value, fdl.Partial):
        made[PARTIAL] = True
    arguments = fdl.ordered_arguments(value)
    positional = sorted(k for k in arguments if isinstance(k, int))
    if positional:
        made[ARGS] = [to_data(arguments[k], f"{path}[{k}]") for k in positional]
    return {**made, **{k: to_data(v, f"{path}.{k}") for k, v in arguments.items() if isinstance(k, str)}}


def from_data(data: Any) -> Any:
    """What `to_data` wrote down.

    Raises:
        NotFoundError: a ``_target_`` cannot be imported.
        SerializationError: a mapping has a form that `to_data` does not write.
    """
    if isinstance(data, list):
        return [from_data(v) for v in data]
    if not isinstance(data, dict):
        return data
    if is_marked(data):
        ((mark, content),) = data.items()
        return _marked(mark, content)
    if TARGET not in data:
        return {k: from_data(v) for k, v in data.items()}
    target = import_name(data[TARGET])
    if data.get(CALL) is False:
        return target
    arguments = {k: from_data(v) for k, v in data.items() if k not in (TARGET, PARTIAL, CALL, ARGS)}
    kind: Callable[..., Any] = Partial if data.get(PARTIAL) else Config
    try:
        return kind(target, *from_data(data.get(ARGS, [])), bind_args=False, **arguments)
    except (TypeError, AttributeError) as error:
        raise SerializationError(f"{data[TARGET]} does not take these arguments: {error}.") from error


def is_marked(data: Any) -> bool:
    """Whether it is a mapping that stands for a value which YAML, TOML or JSON cannot express."""
    return isinstance(data, dict) and len(data) == 1 and next(iter(data)) in _MARKS


def _marked(mark: str, content: Any) -> Any:
    if mark == "_none_":
        return None
    if mark == "_complex_":
        return complex(content)
    if mark == "_bytes_":
        return base64.b64decode(content)
    if mark == "_dict_":
        return {from_data(k): from_data(v) for k, v in content}
    return {"_tuple_": tuple, "_set_": set, "_frozenset_": frozenset}[mark](from_data(v) for v in content)


def name_of(target: Any, path: str = "<root>") -> str:
    """``module.qualname`` of a function or class, under which `import_name` finds it again. What the launching script
    defines is in ``__main__``, whichever way the script was loaded.

    Raises:
        SerializationError: it has no such name (a lambda, a local function).
    """
    module, qualname = getattr(target, "__module__", None) or "builtins", getattr(target, "__qualname__", "")
    if not qualname or "<" in qualname:
        raise SerializationError(
            f"{path} is {getattr(target, '__name__', target)!r}, which has no name that it could be imported by.",
            hint="Define it at the top level of a module, not inside a function and not as a lambda.",
        )
    module = {MODULE: "__main__", "pathlib._local": "pathlib"}.get(module, module)  # the latter's name in Python 3.13
    return f"{module}.{qualname}"


def import_name(name: str) -> Any:
    """What ``module.qualname`` names; in ``__main__``, what the launching script defines.

    Raises:
        NotFoundError: the module cannot be imported, or has no such attribute.
    """
    parts = name.replace(":", ".").split(".")
    if not all(part.isidentifier() for part in parts):
        raise NotFoundError(f"{name!r} is no name that can be imported.", hint="Names read module.name.")
    if parts[0] in ("__main__", MODULE):
        for module in (sys.modules.get(MODULE), sys.modules.get("__main__")):
            if (found := _attribute(module, parts[1:])) is not None:
                return found
        raise NotFoundError(f"The launching script defines no {'.'.join(parts[1:])}.")
    for split in range(len(parts), 0, -1):
        module_name = ".".join(parts[:split])
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
                continue  # a shorter name may be the module
            raise NotFoundError(f"{name} could not be imported: {error}.") from error
        except ImportError as error:
            raise NotFoundError(f"{name} could not be imported: {error}.") from error
        if (found := _attribute(module, parts[split:])) is not None:
            return found
        break
    raise NotFoundError(f"{name} names nothing that can be imported.", hint="Names read module.name.")


def _attribute(module: Any, parts: list[str]) -> Any:
    for part in parts:
        module = getattr(module, part, None)
    return module


class YamlSerializer:
    """Configs as YAML."""

    def serialize(self, cfg: Any, stream: Any = None) -> str:
        """`cfg` as text, written to `stream` as well where one is given."""
        import yaml

        text: str = yaml.safe_dump(to_data(cfg), sort_keys=True, allow_unicode=True)
        if stream is not None:
            stream.write(text)
        return text

    def deserialize(self, serialized: str) -> Any:
        """The config that `serialize` wrote. The modules that it names are imported."""
        import yaml

        return from_data(yaml.safe_load(serialized))
