"""What must not be shown on the server: the values of environment variables, secret fields, what is named like a secret."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nemo_prefect.spec import ExecutorSpec, ExperimentSpec

MASK = "********"
#: Shorter values are masked behind their names only: as text they occur everywhere.
SHORTEST = 4
_SECRET = re.compile(r"(?i)(token|secret|passw|passphrase|credential|api_?-?key|auth)")
_ARGUMENT = re.compile(r"^(-{0,2}[\w.\-]+)=(.*)$", re.DOTALL)
#: Fields that hold environment variables, as a dict or as a list of {name, value}.
_ENVIRONMENTS = ("env_vars", "env", "env_list", "environment")


class Mask:
    """Masks text and data of one experiment."""

    def __init__(self, spec: ExperimentSpec) -> None:
        self._named: dict[str, set[str]] = {}
        self._values: set[str] = set()
        for job in spec.jobs:
            for task in job.tasks:
                self._environment(task.script.get("env") or {})
            for executor in job.executors:
                self._collect(executor.config)
                self._values |= set(_secrets(executor))

    def text(self, text: str) -> str:
        """`text` without any of the values."""
        for name, values in self._named.items():
            for value in values:
                for written in (f"{name}={shlex.quote(value)}", f"{name}={value}", f'{name}="{value}"'):
                    text = text.replace(written, f"{name}={MASK}")
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, MASK)
        return text

    def data(self, data: Any, name: str = "") -> Any:
        """`data`, made of lists, dicts and plain values, without any of the values."""
        if isinstance(data, dict):
            if name in _ENVIRONMENTS:
                return dict.fromkeys(data, MASK)
            hidden = name in _ENVIRONMENTS or ("value" in data and set(data) <= {"name", "value"})
            return {k: MASK if hidden and k == "value" else self.data(v, str(k)) for k, v in data.items()}
        if isinstance(data, (list, tuple)):
            return [self.data(each) for each in data]
        if data not in (None, "", False) and _SECRET.search(name) and isinstance(data, str):
            return MASK
        return self.text(data) if isinstance(data, str) else data

    def arguments(self, arguments: Iterable[str]) -> list[str]:
        """A command line; also what follows an option that is named like a secret is masked."""
        masked, hide = [], False
        for argument in arguments:
            match = _ARGUMENT.match(argument)
            if hide:
                masked.append(MASK)
            elif match and _SECRET.search(match[1]):
                masked.append(f"{match[1]}={MASK}")
            else:
                masked.append(self.text(argument))
            hide = not hide and not match and argument.startswith("-") and bool(_SECRET.search(argument))
        return masked

    def _collect(self, data: Any, name: str = "") -> None:
        if isinstance(data, dict):
            if name in _ENVIRONMENTS:
                self._environment(data)
            elif isinstance(data.get("name"), str) and isinstance(data.get("value"), str):
                self._environment({data["name"]: data["value"]})
            for key, value in data.items():
                self._collect(value, str(key))
        elif isinstance(data, (list, tuple)):
            for each in data:
                self._collect(each)
        elif isinstance(data, str) and _SECRET.search(name) and len(data) >= SHORTEST:
            self._values.add(data)

    def _environment(self, env: dict[str, Any]) -> None:
        for name, value in env.items():
            if isinstance(value, str) and value:
                self._named.setdefault(str(name), set()).add(value)
                if len(value) >= SHORTEST:
                    self._values.add(value)


def _secrets(spec: ExecutorSpec) -> Iterable[str]:
    """The values of the executor's secret fields: those that its data shows only when it is told to."""
    from nemo_prefect.executors.registry import executor_from_spec

    executor = executor_from_spec(spec)
    shown, hidden = executor.model_dump(mode="json", context={"include_secrets": True}), executor.model_dump(mode="json")

    def differing(a: Any, b: Any) -> Iterable[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in a:
                yield from differing(a[key], b.get(key))
        elif isinstance(a, list) and isinstance(b, list):
            for x, y in zip(a, b, strict=False):
                yield from differing(x, y)
        elif isinstance(a, str) and a != b and a:
            yield a

    return list(differing(shown, hidden))
