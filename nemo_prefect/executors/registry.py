"""Finds executors by name: ours and those of any installed package (entry-point group ``nemo_prefect.executors``)."""

from __future__ import annotations

import difflib
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from nemo_prefect.errors import ConfigError, NotFoundError
from nemo_prefect.executors.base import ASSIGNED, Executor
from nemo_prefect.spec import ExecutorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

GROUP = "nemo_prefect.executors"


@lru_cache(maxsize=1)
def _entry_points() -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


@cache
def executor_class(name: str) -> type[Executor]:
    """The executor class registered as `name`.

    Raises:
        ConfigError: there is none, or what is registered does not keep the contract.
    """
    if name == "local":
        from nemo_prefect.executors.local import LocalExecutor

        return LocalExecutor
    point = _entry_points().get(name)
    if point is None:
        near = difflib.get_close_matches(name, _entry_points(), 1)
        raise ConfigError(
            f"There is no executor named {name!r}.",
            hint=f"Did you mean {near[0]!r}?" if near else f"Installed: {', '.join(sorted(_entry_points()))}.",
        )
    cls = point.load()
    _check_contract(name, cls)
    return cls  # type: ignore[no-any-return]


def executor_names() -> list[str]:
    """The names of all installed executors."""
    return sorted({"local", *_entry_points()})


def _check_contract(name: str, cls: object) -> None:
    if not (isinstance(cls, type) and issubclass(cls, Executor)):
        raise ConfigError(f"The executor {name!r} is {cls!r}, no Executor class.", hint="Fix its entry point.")
    if cls.executor_name != name or cls.__abstractmethods__:
        missing = ", ".join(sorted(cls.__abstractmethods__)) or f"executor_name = {name!r}"
        raise ConfigError(f"The executor {name!r} does not keep the contract.", hint=f"It lacks: {missing}.")


def executor_to_spec(executor: Executor) -> ExecutorSpec:
    """An executor as data. Secret fields are written in the clear: a spec is kept in files that only the user reads."""
    written = executor.model_dump(mode="json", context={"include_secrets": True})
    # Blocks bring a serializer of their own, which knows no exclude_defaults.
    config = {
        name: written[name]
        for name, info in type(executor).model_fields.items()
        if name not in ASSIGNED and getattr(executor, name) != info.get_default(call_default_factory=True)
    }
    document = getattr(executor, "_block_document_name", None)
    block = f"{type(executor).get_block_type_slug()}/{document}" if document else None
    return ExecutorSpec(name=executor.executor_name, config=config, block=block)


def executor_from_spec(spec: ExecutorSpec) -> Executor:
    """The executor that `executor_to_spec` wrote down."""
    return executor_class(spec.name).model_validate(spec.config)


def refresh(spec: ExecutorSpec) -> ExecutorSpec:
    """`spec` as its block is on the server now, so that an operator's change counts; one without a block as it is.

    Raises:
        NotFoundError: the block is gone.
    """
    return executor_to_spec(load_executor(spec.block)) if spec.block else spec


def load_executor(slug: str) -> Executor:
    """The executor block saved as `slug` (``slurm-executor/a100``) on the server.

    Raises:
        NotFoundError: there is no such block.
        ConfigError: it is a block of another kind.
    """
    import asyncio

    from prefect.blocks.core import Block

    from nemo_prefect._async import run_sync
    from nemo_prefect.server import connected

    async def load() -> Block:
        return await Block.aload(slug)

    with connected():
        try:
            block = run_sync(load())
        except asyncio.CancelledError:
            raise
        except ValueError as error:
            raise NotFoundError(
                f"There is no block {slug!r}.",
                hint="List them with `prefect block ls`; a slug reads TYPE/NAME, such as local-executor/default.",
            ) from error
    if not isinstance(block, Executor):
        raise ConfigError(f"The block {slug!r} is no executor.", hint="Name one whose type ends in -executor.")
    return block
