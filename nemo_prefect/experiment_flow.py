"""``@run.flow``: a function that adds jobs to an experiment, as a Prefect flow with the function's own parameters."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, overload

from prefect import Flow

from nemo_prefect import deploying
from nemo_prefect._prefect import quiet_validation
from nemo_prefect.errors import ConfigError
from nemo_prefect.experiment import Experiment
from nemo_prefect.external_main import MODULE
from nemo_prefect.overrides import apply_overrides
from nemo_prefect.session import drive_inside
from nemo_prefect.worker.run import load_main

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import State
    from prefect.deployments.runner import RunnerDeployment

    from nemo_prefect.executors.base import Executor
    from nemo_prefect.layout import Layout

P = ParamSpec("P")

#: The parameter that every such flow has beside the function's own.
OVERRIDES = "overrides"


class ExperimentFlow(Flow[..., Any]):
    """A Prefect flow, each run of which is an experiment of its own with its own id. Made by `flow`.

    Called in Python it runs the experiment as `Experiment.run` does, and returns it; inside another Prefect flow it is a
    subflow, to be awaited.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from prefect.context import FlowRunContext

        if FlowRunContext.get() is not None:
            return super().__call__(*args, **kwargs)
        with quiet_validation():
            parameters = self.validate_parameters(inspect.signature(self.fn).bind(*args, **kwargs).arguments)
        experiment = self.experiment(**parameters)
        with experiment:
            experiment.run()
        return experiment

    def experiment(self, overrides: dict[str, Any] | None = None, id: str | None = None, **parameters: Any) -> Experiment:
        """The experiment that a run with these parameters would be, with its jobs, not yet run.

        Args:
            overrides: values for fields of the tasks, by path: ``{"train.optim.lr": 1e-4}``.
            id: the experiment's id; by default a new one.
            parameters: the function's own.

        Raises:
            SetValueError: an override names no field, or has a value that does not fit.
        """
        build = _for_jobs(self.fn.__wrapped__)  # type: ignore[attr-defined]
        experiment = Experiment(self.name, executor=self.fn.__executor__, id=id)  # type: ignore[attr-defined]
        with experiment.building():
            build(experiment, **parameters)
        apply_overrides(list(experiment.jobs), overrides or {})
        return experiment

    def to_deployment(self, name: str, **options: Any) -> RunnerDeployment:  # type: ignore[override]
        """A deployment of this flow, not yet on the server.

        Args:
            name: the deployment's name.
            options: ``cron``, ``interval`` (seconds or a timedelta), ``rrule``, ``parameters``, ``tags``, ``paused``,
                ``work_pool_name`` and what else Prefect's ``Flow.to_deployment`` takes.

        Raises:
            ConfigError: a schedule or a parameter is not valid.
        """
        return deploying.to_deployment(self, name, **options)

    def deploy(self, name: str, work_pool_name: str | None = None, **options: Any) -> UUID:  # type: ignore[override]
        """Put a deployment of this flow on the server, for a work pool whose workers see this flow's file.

        Args:
            name: the deployment's name.
            work_pool_name: the pool; by default the process pool ``local``, which is made where it is missing.
            options: as in `to_deployment`.

        Returns:
            The deployment's id.

        Raises:
            ConfigError: a schedule or a parameter is not valid, or there is no such work pool. Nothing was created then.
        """
        return deploying.deploy(self, name, work_pool_name, **options)

    def serve(self, name: str | None = None, **options: Any) -> None:  # type: ignore[override]
        """Run this flow's scheduled and requested runs from this process, until it is stopped. Options as in
        `to_deployment`, and Prefect's own ``limit``."""
        deploying.serve(self, name or self.name, **options)


@overload
def flow(fn: Callable[Concatenate[Experiment, P], Any]) -> ExperimentFlow: ...
@overload
def flow(
    fn: None = None, *, name: str | None = None, executor: Executor | str | None = None, **options: Any
) -> Callable[[Callable[Concatenate[Experiment, P], Any]], ExperimentFlow]: ...
def flow(fn: Any = None, *, name: str | None = None, executor: Executor | str | None = None, **options: Any) -> Any:
    """Make a Prefect flow of a function that adds jobs to an experiment.

    Example::

        @run.flow(name="pretrain-sweep")
        def pretrain_sweep(exp: run.Experiment, lr: float = 3e-4, seeds: list[int] = [0, 1, 2]):
            data = exp.add(run.Script("prepare.sh"), name="prepare")
            for seed in seeds:
                exp.add(run.Partial(train, lr=lr, seed=seed), name=f"train-{seed}", dependencies=[data])

    The function's first parameter is the experiment; the others are the flow's parameters, typed and with their defaults,
    validated by Prefect and shown as a form in the UI. Every flow has one more, ``overrides``: values for fields of the
    tasks by path, ``{"train-0.lr": 1e-4}``.

    Args:
        fn: the function.
        name: the flow's name and the experiments' title; by default the function's name.
        executor: where jobs run that name no executor of their own: an executor, or a block's slug, which is looked up when
            a run starts.
        options: what else Prefect's ``@flow`` takes: ``retries``, ``timeout_seconds``, ``description``, …

    Raises:
        ConfigError: the function does not take an experiment, or has a parameter named ``overrides``.
    """
    if fn is None:
        return functools.partial(flow, name=name, executor=executor, **options)
    if getattr(sys.modules.get(MODULE), "__loading__", False):
        return fn  # the file is imported for its functions, by a job or by `_for_jobs`
    body = _body(fn)
    body.__executor__ = executor  # type: ignore[attr-defined]
    options.setdefault("persist_result", False)
    return ExperimentFlow(body, name=name, **options)


def _for_jobs(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` as jobs can follow it. Where Prefect made a module of the flow's file, under a name that nobody else can import,
    the file is imported once more as launching scripts are: its source then travels with the experiment.

    Raises:
        ConfigError: the file does not define the function when it is imported.
    """
    module = sys.modules.get(fn.__module__)
    spec = getattr(module, "__spec__", None)
    if spec is None or not _is_script(spec):
        return fn
    file = os.path.abspath(str(spec.origin))
    if getattr(sys.modules.get(MODULE), "__file__", None) != file:
        sys.modules.pop(MODULE, None)
    found = load_main(file)  # type: ignore[no-untyped-call]
    for name in fn.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is None:
        raise ConfigError(
            f"{spec.origin} does not define {fn.__qualname__} when it is imported.",
            hint='Put what the file itself runs below `if __name__ == "__main__":`.',
        )
    return found  # type: ignore[no-any-return]


def _is_script(spec: ModuleSpec) -> bool:
    """Whether the module is a single file that was given, as only Prefect's loader does it, a package's search path."""
    return spec.submodule_search_locations is not None and os.path.basename(str(spec.origin)) != "__init__.py"


def _body(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The coroutine function that Prefect runs: `fn`'s parameters without the first, and ``overrides``."""
    try:
        signature = inspect.signature(fn, eval_str=True)
    except NameError:
        signature = inspect.signature(fn)
    parameters = list(signature.parameters.values())
    if not parameters or parameters[0].kind not in (parameters[0].POSITIONAL_ONLY, parameters[0].POSITIONAL_OR_KEYWORD):
        raise ConfigError(
            f"{fn.__qualname__} takes no experiment to add jobs to.",
            hint="Give it a first parameter: def name(exp: run.Experiment, ...).",
        )
    if OVERRIDES in signature.parameters:
        raise ConfigError(f"{fn.__qualname__} has a parameter named {OVERRIDES!r}.", hint="Every flow has it; rename yours.")

    @functools.wraps(fn)
    async def body(*args: Any, **kwargs: Any) -> State[Any]:
        from prefect.context import FlowRunContext

        bound = inspect.signature(body).bind(*args, **kwargs)
        parameters = {**bound.kwargs, **dict(zip(bound.signature.parameters, bound.args, strict=False))}

        current: Any = FlowRunContext.get().flow  # type: ignore[union-attr]

        def write(exp_id: str, layout: Layout) -> None:
            layout.write(current.experiment(id=exp_id, **parameters).spec())

        return await drive_inside(current.name, None, write)

    more = inspect.Parameter(OVERRIDES, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=dict[str, Any] | None)
    kept = parameters[1:]
    at = next((i for i, p in enumerate(kept) if p.kind is p.VAR_KEYWORD), len(kept))
    body.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*kept[:at], more, *kept[at:]], return_annotation=inspect.Signature.empty
    )
    return body
