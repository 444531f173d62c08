"""What NeMo-Run's users type, they can type here: every public name, its parameters, their order and their defaults.

``nemo_run_api.txt`` lists NeMo-Run 0.11.1's public part, one signature a line; ``...`` stands for a default that is made
anew for each object.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import nemo_prefect as run

TABLE = (Path(__file__).parent / "nemo_run_api.txt").read_text().splitlines()
REQUIRED, MADE = "required", ...

#: Public names of NeMo-Run that this package does not have, each with the reason.
ABSENT = dict.fromkeys(
    ("DGXCloudExecutor", "LeptonExecutor", "SkypilotExecutor", "SkypilotJobsExecutor"), "services of other companies"
) | {"DevSpace": "an editor on a cluster is no workflow"}

_TORCHX = "plumbing between NeMo-Run's executors and torchx; here an executor renders and launches a JobRequest"
_TUNNEL_RUN = "Invoke's options; a tunnel here has none of Invoke"
#: Members and parameters of NeMo-Run that differ here, each with the reason.
DIFFERENT = {
    "Executor.cleanup": _TORCHX,
    "DockerExecutor.cleanup": _TORCHX,
    "Executor.create_job_dir": "what is written there comes from the spec, when the experiment runs",
    "Executor.package_configs": "what is written there comes from the spec, when the experiment runs",
    "Executor.get_launcher_prefix": "Launcher.wrap gives the whole command",
    "Executor.get_nsys_entrypoint": "Launcher.get_nsys_prefix gives it",
    "Executor.supports_launcher_transform": _TORCHX,
    "ExecutorMacros.apply": "takes a RenderedJob, not a torchx Role",
    "LocalTunnel.packaging_jobs": _TORCHX,
    "SSHTunnel.packaging_jobs": _TORCHX,
    "Packager.setup": "a packager prepares itself in package()",
}
NAMES = [line.split("(")[0] for line in TABLE]


#: Public names that are still being built.
COMING = {"KubeflowExecutor", "SlurmRay", "SlurmTemplate"}


def names_of_nemo_run() -> set[str]:
    return {name for name in NAMES if "." not in name} | {"cli"} | set(ABSENT)


def theirs(line: str) -> tuple[str, dict[str, Any], set[str]]:
    """A line of the table: the name, the parameters with their defaults, and which of them are keyword-only."""
    name, _, rest = line.partition("(")
    arguments = ast.parse(f"def f({rest}: ...").body[0].args  # type: ignore[attr-defined]
    places = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(places) - len(arguments.defaults)) + arguments.defaults
    pairs = [*zip(places, defaults, strict=True), *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    found = {a.arg: REQUIRED if d is None else ast.literal_eval(d) for a, d in pairs}
    return name, found, {a.arg for a in arguments.kwonlyargs}


def ours(target: Any) -> dict[str, Any]:
    """The parameters of `target`, with their defaults."""
    if isinstance(target, type) and issubclass(target, BaseModel):
        return {name: _field_default(info) for name, info in target.model_fields.items()}
    parameters = list(inspect.signature(target).parameters.values())
    if parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {p.name: _default(p.default) for p in named}


def _default(value: Any) -> Any:
    if value is inspect.Parameter.empty:
        return REQUIRED
    return MADE if callable(value) or type(value).__name__ == "_HAS_DEFAULT_FACTORY_CLASS" else value


def _field_default(info: Any) -> Any:
    if info.default_factory is not None:
        return MADE
    return REQUIRED if info.default is PydanticUndefined else info.default


def here(name: str) -> bool:
    return name.split(".")[0] in run.__all__


@pytest.mark.parametrize("line", [line for line in TABLE if here(line.split("(")[0])], ids=lambda line: line.split("(")[0])
def test_what_works_there_works_here(line: str) -> None:
    name, wanted, keyword_only = theirs(line) if "(" in line else (line, {}, set())
    cls, _, member = name.partition(".")
    if name in DIFFERENT:
        return
    target = getattr(run, cls)
    if member:
        target = inspect.getattr_static(target, member, None) if "(" not in line else getattr(target, member, None)
    assert target is not None, f"{name} is missing"
    if "(" not in line:
        assert isinstance(target, property) or member in getattr(getattr(run, cls), "__annotations__", {})
        return
    found = ours(target)
    for parameter, default in wanted.items():
        if f"{cls}.{parameter}" in DIFFERENT:
            continue
        assert parameter in found, f"{name} takes no {parameter}"
        if default is MADE:
            assert found[parameter] != REQUIRED, f"{name}({parameter}) has no default"
        elif default != REQUIRED:  # a default of ours where they have none changes no program of theirs
            assert found[parameter] == default, f"{name}({parameter}={default!r}) is {found[parameter]!r} here"
    by_place = [p for p in wanted if p not in keyword_only]
    assert [p for p in found if p in by_place] == by_place, f"{name}: another order"
    assert list(found)[: len(by_place)] == by_place, f"{name}: a parameter of ours comes before theirs"
    mandatory = {p for p, default in found.items() if default == REQUIRED}
    assert mandatory <= set(wanted), f"{name} needs {mandatory - set(wanted)}, which no program of theirs passes"


def test_public_names() -> None:
    missing = {name for name in names_of_nemo_run() if not hasattr(run, name)} - set(ABSENT) - COMING
    assert not missing, f"nemo_prefect has no {sorted(missing)}"


def test_names_that_are_imported_from_modules() -> None:
    from nemo_prefect import config, experiment

    assert {"Config", "Partial", "Script", "ConfigurableMixin", "get_nemorun_home", "set_nemorun_home", "from_dict",
            "get_type_namespace", "get_underlying_types", "set_value", "OptionalDefaultConfig",
            "OptionalDefaultPartial"} <= set(config.__all__)  # fmt: skip
    assert {"DummyConsole", "Experiment", "Jobs", "Tasks", "maybe_load_external_main"} <= set(experiment.__all__)


def test_every_difference_is_still_one() -> None:
    assert not [name for name in ABSENT if hasattr(run, name)]
    known = {name for line in TABLE if "(" in line for name in _members(line)} | set(NAMES)
    assert not [name for name in DIFFERENT if name not in known]


def _members(line: str) -> set[str]:
    name, wanted, _ = theirs(line)
    return {f"{name}.{parameter}" for parameter in wanted}
