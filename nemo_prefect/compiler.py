"""`compile_flow`: an experiment's spec in, a Prefect flow out. Pure: nothing is written, asked or started."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import Flow

from nemo_prefect.spec import ExperimentSpec

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from nemo_prefect.engine import Engine
    from nemo_prefect.layout import Layout


def compile_flow(spec: ExperimentSpec, engine: Engine | None = None) -> Flow[[dict[str, Any]], Any]:
    """The flow that runs `spec`: named by its title, with one task run a job and an edge for each dependency.

    Args:
        spec: the experiment.
        engine: who drives it; by default a new engine at each run.
    """

    def write(exp_id: str, layout: Layout) -> None:
        layout.write(spec.model_copy(update={"id": exp_id, "directory": str(layout.root)}))

    async def experiment(experiment: dict[str, Any] = summary(spec)) -> State[Any]:  # noqa: B008 - never changed, and short
        from nemo_prefect.session import drive_inside

        if engine is not None:
            return await engine.drive()
        return await drive_inside(spec.title, str(Path(spec.directory).parents[2]), write)

    flow = Flow(
        experiment,
        name=spec.title,
        description=f"The experiment {spec.title}.",
        validate_parameters=False,
        persist_result=False,
        log_prints=False,
    )
    # No results are kept. Named here, since Prefect would ask the server for its default at every run, on a connection that
    # it leaves open.
    flow.result_storage = Path(spec.directory)
    return flow


#: Prefect takes 524,288 bytes of parameters; a summary is kept well below.
MAX_SUMMARY_JOBS = 1500


def summary(spec: ExperimentSpec) -> dict[str, Any]:
    """What the flow run's page shows of the experiment, and what a reader on another machine finds it by. No
    configuration and no environment: those stay in the experiment's directory."""
    jobs = {
        job.id: {"executor": job.executors[0].name, "dependencies": list(job.dependencies), "tasks": len(job.tasks)}
        for job in spec.jobs[:MAX_SUMMARY_JOBS]
    }
    host = spec.provenance.get("host", "")
    return {"id": spec.id, "title": spec.title, "directory": spec.directory, "host": host, "jobs": jobs}
