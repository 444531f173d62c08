"""Deployments: putting flows and experiments on the server, with their schedules. Everything is checked first."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from nemo_prefect._async import run_sync
from nemo_prefect.errors import ConfigError, NemoPrefectError, ServerError
from nemo_prefect.home import experiments_dir
from nemo_prefect.layout import CONFIG, Layout
from nemo_prefect.server import connected
from nemo_prefect.shell import check_name

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment

    from nemo_prefect.experiment import Experiment

logger = logging.getLogger("nemo_prefect")

#: The process pool that is made where no work pool is named.
DEFAULT_POOL = "local"


def to_deployment(flow: Flow[..., Any], name: str, **options: Any) -> RunnerDeployment:
    """A deployment of `flow`, checked, not yet on the server.

    Raises:
        ConfigError: the name, a schedule or a parameter is not valid.
    """
    from prefect import Flow
    from prefect.exceptions import ParameterBindError, ParameterTypeError
    from pydantic import ValidationError

    from nemo_prefect._prefect import quiet_validation

    check_name("name of a deployment", name)
    given = options.get("parameters") or {}
    unknown = set(given) - set(flow.parameters.properties)
    if unknown:
        raise ConfigError(
            f"The flow {flow.name} has no parameter {', '.join(sorted(unknown))}.",
            hint=f"It has: {', '.join(flow.parameters.properties) or 'none'}.",
        )
    try:
        if set(flow.parameters.required) <= set(given):
            with quiet_validation():
                _try(flow, flow.validate_parameters(given))
        return Flow.to_deployment(flow, name, **options)  # type: ignore[return-value]
    except (ParameterTypeError, ParameterBindError) as error:
        raise ConfigError(
            f"A parameter does not fit {flow.name}: {error}", hint="See the function's annotations."
        ) from error
    except NemoPrefectError:
        raise
    except (ValidationError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{flow.name} cannot be deployed so: {_said(error)}.",
            hint="A cron reads '0 3 * * *', an interval is a number of seconds above 0, an rrule 'FREQ=HOURLY'; give one.",
        ) from error


def _try(flow: Flow[..., Any], parameters: dict[str, Any]) -> None:
    """Build the experiment of such a run, unwritten: what would fail at every run is refused now.

    Raises:
        NemoPrefectError: an override leads nowhere, an executor block is missing, a task cannot be sent to its job.
    """
    build = getattr(flow, "experiment", None)
    if build is None:
        return
    try:
        build(**parameters).spec()
    except NemoPrefectError:
        raise
    except Exception as error:  # noqa: BLE001 - the user's function may need what only its workers have
        logger.warning("The jobs of %s are not checked here: adding them raised %r.", flow.name, error)


def _said(error: Exception) -> str:
    from pydantic import ValidationError

    return "; ".join(e["msg"] for e in error.errors()) if isinstance(error, ValidationError) else str(error)


def deploy(flow: Flow[..., Any], name: str, work_pool_name: str | None = None, **options: Any) -> UUID:
    """Put a deployment of `flow` on the server, for a work pool. Returns its id.

    Raises:
        ConfigError: a schedule or a parameter is not valid, or there is no such work pool. Nothing was created then.
        ServerError: the server does not take it.
    """
    return put(to_deployment(flow, name, **options), work_pool_name, _directory(flow))


def put(deployment: RunnerDeployment, work_pool_name: str | None, directory: Path | None) -> UUID:
    """Put a checked deployment on the server. Returns its id.

    Args:
        deployment: what `to_deployment` made.
        work_pool_name: the work pool; None means the process pool ``local``, which is made where it is missing.
        directory: where its entrypoint's file lies, or None where it is an installed module.

    Raises:
        ConfigError: there is no such work pool.
        ServerError: the server does not take it.
    """
    from prefect.deployments.runner import DeploymentApplyError
    from prefect.runner.storage import LocalStorage

    if directory is not None:
        deployment.storage = LocalStorage(path=str(directory))
        file, _, qualname = str(deployment.entrypoint).partition(":")
        deployment.entrypoint = f"{Path(file).name}:{qualname}"

    async def apply() -> UUID:
        await _check_pool(work_pool_name)
        return await deployment.aapply(work_pool_name=work_pool_name or DEFAULT_POOL)

    with connected():
        try:
            return run_sync(apply())
        except DeploymentApplyError as error:
            raise ServerError(f"The server does not take the deployment: {error}", hint="Look at what it says.") from error


async def _check_pool(name: str | None) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    async with get_client() as client:
        try:
            await client.read_work_pool(name or DEFAULT_POOL)
        except ObjectNotFound as error:
            if name is not None:
                known = [pool.name for pool in await client.read_work_pools()]
                raise ConfigError(
                    f"There is no work pool {name!r}.",
                    hint=f"There are: {', '.join(known) or 'none'}. Make one with: "
                    f"prefect work-pool create {name} --type process",
                ) from error
            try:
                await client.create_work_pool(WorkPoolCreate(name=DEFAULT_POOL, type="process"))
            except ObjectAlreadyExists:
                return  # somebody else made it meanwhile


def serve(flow: Flow[..., Any], name: str, **options: Any) -> None:
    """Run the scheduled and requested runs of `flow` from this process, until it is stopped."""
    limit = options.pop("limit", None)
    serve_deployment(to_deployment(flow, name, **options), limit)


def serve_deployment(deployment: RunnerDeployment, limit: int | None = None) -> None:
    """As `serve`, for a checked deployment."""
    from prefect import serve as prefect_serve

    with connected():
        prefect_serve(deployment, limit=limit)


def experiment_to_deployment(experiment: Experiment, name: str, **options: Any) -> RunnerDeployment:
    """A deployment of an experiment as it is now, not yet on the server. The experiment is stored beside the others, with
    its code; each run of the deployment is a copy of it with an id of its own.

    Raises:
        ConfigError: as in `to_deployment`.
    """
    from prefect.types.entrypoint import EntrypointType

    from nemo_prefect.deployed import experiment as deployed
    from nemo_prefect.overrides import apply_overrides, override_schema

    flow = deployed.with_options(name=experiment.title, description=f"The experiment {experiment.title}.")
    parameters = dict(options.pop("parameters", None) or {})
    if unknown := set(parameters) - {"overrides"}:
        raise ConfigError(
            f"An experiment's deployment has no parameter {', '.join(sorted(unknown))}.",
            hint="Its fields are set by path: parameters={'overrides': {'train.lr': 1e-4}}.",
        )
    schema = override_schema(list(experiment.jobs))
    spec = experiment.spec()
    stored = experiments_dir(experiment.base_dir).parent / "deployed" / experiment.title / f"{name}-{time.time_ns()}"
    if overrides := parameters.get("overrides"):
        from nemo_prefect.jobs import job_from_spec

        apply_overrides([job_from_spec(job) for job in spec.jobs], overrides)  # on a copy: it only has to be valid
    # Checked as a whole before anything is written.
    to_deployment(flow, name, **options, parameters={"stored": str(stored), "digest": "", **parameters})
    layout = Layout(stored)
    layout.write(spec)
    where = {"stored": str(stored), "digest": digest_of(layout)}
    deployment = to_deployment(
        flow, name, entrypoint_type=EntrypointType.MODULE_PATH, **options, parameters={**where, **parameters}
    )
    deployment._parameter_openapi_schema.properties["overrides"] = schema
    return deployment


def digest_of(layout: Layout) -> str:
    """A digest of a stored experiment's spec: 16 hexadecimal digits."""
    return hashlib.sha256((layout.root / CONFIG).read_bytes()).hexdigest()[:16]


def load(entrypoint: str) -> Flow[..., Any]:
    """The flow that ``FILE:NAME`` or ``module:NAME`` names.

    Raises:
        ConfigError: there is no such file, or it defines no such flow.
    """
    from prefect import Flow
    from prefect.exceptions import MissingFlowError, ScriptError
    from prefect.flows import load_flow_from_entrypoint

    file, colon, name = entrypoint.rpartition(":")
    if not colon or not name:
        raise ConfigError(f"{entrypoint!r} names no flow.", hint="Write FILE:FLOW, such as sweep.py:pretrain_sweep.")
    if file.endswith(".py") and not Path(file).is_file():
        raise ConfigError(f"There is no file {file}.", hint=f"Paths are relative to {Path.cwd()}.")
    try:
        flow: Any = load_flow_from_entrypoint(entrypoint if file.endswith(".py") else f"{file}.{name}")
    except (MissingFlowError, ScriptError, ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(
            f"{entrypoint} cannot be loaded: {error}", hint="Name a function with @run.flow at the top of the file."
        ) from error
    if not isinstance(flow, Flow):
        raise ConfigError(f"{entrypoint} is {flow!r}, no flow.", hint="Decorate the function with @run.flow.")
    return flow


def _directory(flow: Flow[..., Any]) -> Path | None:
    """Where the flow's file lies."""
    import sys

    file = getattr(sys.modules.get(flow.fn.__module__), "__file__", None)
    return Path(file).resolve().parent if file else None
