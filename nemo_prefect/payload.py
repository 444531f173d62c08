"""Writes a `Partial` down as the JSON that `worker/run.py` builds inside the job.

The file is ``{"version", "root", "nodes", "main", "sys_path"}``. ``nodes`` are configs, partials and containers; a value is
a JSON scalar or an object with a single key: ``{"node": index}``, ``{"symbol": "module:qualname"}``, ``{"list": [...]}``,
``{"tuple": [...]}``, ``{"set": [...]}``, ``{"frozenset": [...]}``, ``{"dict": [[key, value], ...]}``, ``{"float": "nan"}``,
``{"complex": "1j"}``, ``{"bytes": base64}``. Buildables and mutable containers that occur twice are one node: what was
shared in the config is shared in the job.
"""

from __future__ import annotations

import base64
import enum
import inspect
import math
import types
from typing import Any

import fiddle as fdl

from nemo_prefect.errors import SerializationError
from nemo_prefect.external_main import main_source

VERSION = 1


def encode_task(task: Any) -> dict[str, Any]:
    """The task file's ``version``, ``root`` and ``nodes``.

    Raises:
        SerializationError: a value has no form in the file; the message names its path.
    """
    encoder = _Encoder()
    root = encoder.value(task, "<root>")
    return {"version": VERSION, "root": root, "nodes": encoder.nodes}


class _Encoder:
    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.seen: dict[int, int] = {}
        self.keep: list[Any] = []  # an id is only unique while its object lives

    def value(self, value: Any, path: str) -> Any:
        if value is None or (isinstance(value, (bool, str)) and type(value) in (bool, str)):
            return value
        if type(value) is int:
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if type(value) is complex:
            return {"complex": repr(value)}
        if type(value) is bytes:
            return {"bytes": base64.b64encode(value).decode("ascii")}
        if isinstance(value, enum.Enum):
            return {"symbol": f"{_symbol(type(value), path)}.{value.name}"}
        if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType)):
            return {"symbol": _symbol(value, path)}
        if type(value) is tuple:
            return {"tuple": [self.value(v, f"{path}[{i}]") for i, v in enumerate(value)]}
        if type(value) is frozenset:
            return {"frozenset": [self.value(v, path) for v in sorted(value, key=repr)]}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return {"node": self._node(value, "config", type(value), dict(zip(value._fields, value, strict=True)), path)}
        if isinstance(value, fdl.Buildable):
            return {"node": self._buildable(value, path)}
        if type(value) in (list, dict, set):
            return {"node": self._container(value, path)}
        raise SerializationError(
            f"{path} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be sent to a job.",
            hint="Wrap it in run.Config(...), so that it is built inside the job.",
        )

    def _reserve(self, value: Any) -> tuple[int, bool]:
        """The node index of `value`, and whether it is new."""
        if id(value) in self.seen:
            return self.seen[id(value)], False
        self.keep.append(value)
        self.seen[id(value)] = len(self.nodes)
        self.nodes.append({})
        return self.seen[id(value)], True

    def _container(self, value: Any, path: str) -> int:
        index, new = self._reserve(value)
        if new:
            content: list[Any]
            if isinstance(value, dict):
                content = [[self.value(k, path), self.value(v, f"{path}[{k!r}]")] for k, v in value.items()]
            else:
                members = sorted(value, key=repr) if isinstance(value, set) else value
                content = [self.value(v, f"{path}[{i}]") for i, v in enumerate(members)]
            self.nodes[index] = {"kind": type(value).__name__, "value": content}
        return index

    def _buildable(self, value: Any, path: str) -> int:
        target = fdl.get_callable(value)
        if (target.__module__ or "").startswith("fiddle."):
            raise SerializationError(f"{path} is one of Fiddle's own helpers.", hint="Put a plain value in its place.")
        kind = "partial" if isinstance(value, (fdl.Partial, fdl.ArgFactory)) else "config"
        return self._node(value, kind, target, dict(fdl.ordered_arguments(value)), path)

    def _node(self, value: Any, kind: str, target: Any, arguments: dict[Any, Any], path: str) -> int:
        index, new = self._reserve(value)
        if new:
            positional = sorted(k for k in arguments if isinstance(k, int))
            args = [self.value(arguments[k], f"{path}[{k}]") for k in positional]
            named = {k: v for k, v in arguments.items() if isinstance(k, str)}
            only = _positional_only(target)
            args += [self.value(named.pop(k), f"{path}.{k}") for k in only if k in named]
            node = {
                "kind": kind,
                "symbol": _symbol(target, path),
                "args": args,
                "kwargs": {k: self.value(v, f"{path}.{k}") for k, v in named.items()},
            }
            factories = [k for k, v in named.items() if isinstance(v, fdl.ArgFactory)]
            self.nodes[index] = {**node, "factories": factories} if factories else node
        return index


def _positional_only(target: Any) -> list[str]:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (ValueError, TypeError):
        return []
    return [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]


def _symbol(target: Any, path: str) -> str:
    """``module:qualname``, for what can be found again under it."""
    qualname = getattr(target, "__qualname__", "")
    module = getattr(target, "__module__", None) or "builtins"
    if not qualname or "<" in qualname:
        raise SerializationError(
            f"{path} is {getattr(target, '__name__', target)!r}, which has no name that a job could import.",
            hint="Define it at the top level of a module, not inside a function and not as a lambda.",
        )
    if module == "__main__" and main_source() is None:
        raise SerializationError(
            f"{path} is {qualname!r}, which was defined in an interactive session.",
            hint="Put it into a file, as a script or a module: a job can only import what is in one.",
        )
    return f"{module}:{qualname}"
