"""The flow that a deployed experiment runs: one importable flow for all of them, given a reference to the stored experiment.

A closure cannot be deployed, and parameters are for everyone to see and limited in size; so `Experiment.deploy` keeps the
experiment in a directory that only its user reads, and the deployment's parameters say which.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import Flow

from nemo_prefect.errors import ConfigError, NotFoundError
from nemo_prefect.exit_record import read_json
from nemo_prefect.layout import Layout, member_id
from nemo_prefect.session import drive_inside

if TYPE_CHECKING:
    from nemo_prefect.spec import ExperimentSpec


def stored_spec(stored: str, digest: str) -> ExperimentSpec:
    """The experiment that is stored in the directory `stored`.

    Raises:
        NotFoundError: this machine does not see it.
        ConfigError: it is not what was deployed.
    """
    from nemo_prefect.deploying import digest_of

    layout = Layout(stored)
    try:
        spec = layout.read()
    except NotFoundError as error:
        raise NotFoundError(
            f"The deployed experiment is kept in {stored}, which this machine does not see.",
            hint="Run the worker where it was deployed, or on a file system that both share; or deploy a @run.flow.",
        ) from error
    if digest_of(layout) != digest:
        raise ConfigError(f"The experiment in {stored} was changed since it was deployed.", hint="Deploy it again.")
    return spec


def write_run(exp_id: str, layout: Layout, stored: str, digest: str, overrides: dict[str, Any] | None) -> None:
    """Write one run of a stored experiment."""
    from nemo_prefect.executors.registry import refresh
    from nemo_prefect.external_main import maybe_load_external_main
    from nemo_prefect.jobs import job_from_spec, job_to_spec
    from nemo_prefect.overrides import apply_overrides

    spec = stored_spec(stored, digest)
    jobs = list(spec.jobs)
    if overrides:
        _see_modules(Layout(stored), spec)
        maybe_load_external_main(stored)
        loaded = [job_from_spec(job) for job in spec.jobs]
        apply_overrides(loaded, overrides)
        jobs = [
            before.model_copy(update={"tasks": job_to_spec(after).tasks})
            for before, after in zip(spec.jobs, loaded, strict=True)
        ]
    jobs = [job.model_copy(update={"executors": tuple(refresh(e) for e in job.executors)}) for job in jobs]
    own = spec.model_copy(update={"id": exp_id, "directory": str(layout.root), "jobs": tuple(jobs)})
    layout.write_copy(own, Layout(stored))


def _see_modules(stored: Layout, spec: ExperimentSpec) -> None:
    """Let this process import what the experiment's tasks name, from where its jobs import it."""
    for job in spec.jobs:
        for index in range(len(job.tasks)):
            task = read_json(stored.job_dir(member_id(job, index)) / "task.json") or {}
            sys.path += [entry for entry in task.get("sys_path", []) if entry not in sys.path]


async def _experiment(stored: str, digest: str, overrides: dict[str, Any] | None = None) -> Any:
    """Runs a deployed experiment.

    Args:
        stored: the directory in which the experiment is kept.
        digest: what it was when it was deployed.
        overrides: values for fields of its tasks, by path.
    """
    spec = stored_spec(stored, digest)

    def write(exp_id: str, layout: Layout) -> None:
        write_run(exp_id, layout, stored, digest, overrides)

    return await drive_inside(spec.title, str(Path(spec.directory).parents[2]), write)


_experiment.__name__ = _experiment.__qualname__ = "experiment"  # Prefect finds the flow again under the function's name
experiment = Flow(_experiment, name="experiment", persist_result=False)
