"""Overrides: values for the fields of an experiment's tasks, by path, as a deployment's parameters carry them.

A path is a job's id and a field of its task, with dots: ``train.lr``, ``train.optim.lr``, ``pair/1.steps`` (a member of a
group), ``prepare.args`` and ``prepare.env.SEED`` (of a script).
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from nemo_prefect.errors import SetValueError
from nemo_prefect.script import Script

if TYPE_CHECKING:
    from nemo_prefect.jobs import Job, JobGroup

#: Fields of a script that a run may change.
_SCRIPT_FIELDS = ("path", "inline", "args", "entrypoint")


def apply_overrides(jobs: list[Job | JobGroup], overrides: Mapping[str, Any]) -> None:
    """Put `overrides` into the jobs' tasks. All are checked first: either all are applied or none is.

    Raises:
        SetValueError: a path names no field (the nearest one is named), or a value does not fit the field's annotation.
    """
    known = {path: (owner, name, annotation) for path, owner, name, annotation in _fields(jobs)}
    checked = []
    for path, value in overrides.items():
        if path in known:
            owner, name, annotation = known[path]
        elif (script := _environment(jobs, path)) is not None:
            owner, name, annotation = script, path.rpartition(".env.")[2], str
        else:
            raise SetValueError(f"There is no field {path!r} to override.", hint=_nearest(path, known))
        checked.append((owner, name, _validated(path, value, annotation)))
    for owner, name, value in checked:
        if isinstance(owner, dict):
            owner[name] = value
        else:
            setattr(owner, name, value)


def override_schema(jobs: list[Job | JobGroup]) -> dict[str, Any]:
    """The JSON schema of the overrides that these jobs take: what the server checks, and what the UI's form shows."""
    properties: dict[str, Any] = {}
    for prefix, task in _tasks(jobs):
        if isinstance(task, Script):
            # Without their values, which may be secrets: a schema is for everyone to see.
            paths = [f"{prefix}.env.{name}" for name in task.env]
            properties |= {path: {"title": path, "type": "string"} for path in paths}
    for path, owner, name, annotation in _fields(jobs):
        properties[path] = {"title": path, **_json_schema(annotation), **_default(owner, name)}
    return {
        "title": "overrides",
        "description": "Values for fields of the tasks, by path.",
        "type": "object",
        "default": {},
        "properties": properties,
        "additionalProperties": False,
    }


def _tasks(jobs: list[Job | JobGroup]) -> Iterator[tuple[str, Any]]:
    for job in jobs:
        tasks = list(job.tasks)
        group = hasattr(job, "executors") and not hasattr(job, "task")
        for index, task in enumerate(tasks):
            yield (f"{job.id}/{index}" if group else job.id), task


def _fields(jobs: list[Job | JobGroup]) -> Iterator[tuple[str, Any, str, Any]]:
    """Every field there is: its path, the object that has it, its name there, and its annotation (Any where it has none)."""
    for prefix, task in _tasks(jobs):
        if isinstance(task, Script):
            hints = get_type_hints(Script)
            for name in _SCRIPT_FIELDS:
                yield f"{prefix}.{name}", task, name, hints[name]
        else:
            yield from _buildable_fields(prefix, task)


def _buildable_fields(prefix: str, buildable: Any) -> Iterator[tuple[str, Any, str, Any]]:
    import fiddle as fdl

    target = fdl.get_callable(buildable)
    hints = _hints(target)
    arguments = fdl.ordered_arguments(buildable, include_unset=True, include_defaults=True)
    for name, value in arguments.items():
        if not isinstance(name, str):
            continue
        if isinstance(value, fdl.Buildable):
            yield from _buildable_fields(f"{prefix}.{name}", value)
        else:
            yield f"{prefix}.{name}", buildable, name, hints.get(name, Any)


def _hints(target: Any) -> dict[str, Any]:
    of = target.__init__ if inspect.isclass(target) and not dataclasses.is_dataclass(target) else target
    try:
        return get_type_hints(of)
    except Exception:  # noqa: BLE001 - an annotation that cannot be evaluated is one that says nothing
        return {}


def _environment(jobs: list[Job | JobGroup], path: str) -> dict[str, str] | None:
    """The environment of the script that ``<job>.env.<NAME>`` names."""
    from nemo_prefect.shell import check_env

    prefix, found, name = path.rpartition(".env.")
    task = dict(_tasks(jobs)).get(prefix)
    if not found or not isinstance(task, Script):
        return None
    check_env({name: ""})
    return task.env


def _nearest(path: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(path, known, 1, 0.5)
    return f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(sorted(known)) or 'none'}."


def _validated(path: str, value: Any, annotation: Any) -> Any:
    from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

    if isinstance(value, bool) and annotation in (int, float):  # which Python takes for 1 and 0
        raise SetValueError(f"{path} cannot be {value!r}: it is no number.", hint="Give a number.")
    try:
        adapter = TypeAdapter(annotation)
    except (PydanticSchemaGenerationError, PydanticUserError):
        return value  # a class of the user's own: it will be checked when the task is built
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        name = getattr(annotation, "__name__", str(annotation))
        raise SetValueError(f"{path} cannot be {value!r}: {said}.", hint=f"It takes a value of type {name}.") from error


def _json_schema(annotation: Any) -> dict[str, Any]:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError

    try:
        schema = TypeAdapter(annotation).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError):
        return {}
    return {} if "$defs" in schema else schema


def _default(owner: Any, name: str) -> dict[str, Any]:
    import fiddle as fdl

    if isinstance(owner, fdl.Buildable):
        value = fdl.ordered_arguments(owner, include_defaults=True).get(name)
    else:
        value = getattr(owner, name)
    return {"default": value} if isinstance(value, (str, int, float, bool)) else {}
