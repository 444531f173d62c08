"""Which experiments there are, and finding one by its id."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_prefect._async import run_sync
from nemo_prefect.errors import NotFoundError
from nemo_prefect.history.driver import asking
from nemo_prefect.history.local import LocalHistory
from nemo_prefect.history.server import ServerHistory
from nemo_prefect.home import experiments_dir, known_base_dirs
from nemo_prefect.layout import CONFIG, Layout
from nemo_prefect.session import TAG

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun


def titles(base_dir: str | None = None) -> list[str]:
    """The titles of all experiments on this machine, oldest first."""
    return list(dict.fromkeys(p.name for p in _directories(_roots(base_dir))))


def _roots(base_dir: str | None) -> list[Path]:
    """The directories in which to look: that of `base_dir`, or that of the home and all others that are known."""
    return [experiments_dir(base) for base in ([base_dir] if base_dir else [None, *known_base_dirs()])]


def ids(title: str, base_dir: str | None = None) -> list[str]:
    """The ids of the experiments of a title, oldest first: those on this machine, and those of a shared server."""
    return list(dict.fromkeys([*ids_on_disk(title, base_dir), *_shared_ids(title)]))


def _directories(parents: Iterable[Path]) -> list[Path]:
    found = [p for parent in parents if parent.is_dir() for p in parent.iterdir()]
    found = [p for p in found if p.is_dir() and not p.name.startswith(".")]
    return sorted(found, key=lambda p: (p.stat().st_ctime_ns, p.name))


def _shared_ids(title: str) -> list[str]:
    """Only a server that the user named can hold experiments of others; the embedded one has what the disk has."""
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:
        return []

    async def read() -> list[str]:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterTags
        from prefect.client.schemas.sorting import FlowRunSort

        async with get_client() as client:
            runs = await client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=[title])),
                flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[TAG])),
                sort=FlowRunSort.START_TIME_DESC,
                limit=200,
            )
        return [run.name for run in reversed(runs)]

    return run_sync(asking(read()))


def open_history(exp_id: str, base_dir: str | None = None) -> LocalHistory | ServerHistory:
    """The experiment of that id.

    Raises:
        NotFoundError: neither this machine nor the server has it; the message names the nearest id.
        ServerError: it is not on this machine, and the server does not answer.
    """
    title, _, stamp = exp_id.rpartition("_")
    roots = _roots(base_dir)
    for directory in (root / (title or stamp) / exp_id for root in roots):
        if (directory / CONFIG).exists():
            return LocalHistory(Layout(directory))
    for root in roots:
        for other in root.glob(f"*/{_glob(exp_id)}/{CONFIG}"):
            return LocalHistory(Layout(other.parent))
    from nemo_prefect.server import connected

    with connected(start=False) as connection:
        found = run_sync(asking(_flow_run_named(exp_id))) if connection else None
    if found is None:
        import difflib

        known = [i for t in titles(base_dir) for i in ids_on_disk(t, base_dir)]
        near = difflib.get_close_matches(exp_id, known, 1)
        raise NotFoundError(
            f"Experiment {exp_id} not found.",
            hint=f"Did you mean {near[0]}?" if near else "List them with `nemo-prefect experiment list`.",
        )
    summary = found.parameters.get("experiment") or {}
    if (
        summary.get("id") == exp_id and (Path(summary["directory"]) / CONFIG).is_file()
    ):  # an experiment with a base_dir of its own
        return LocalHistory(Layout(summary["directory"]))
    return ServerHistory(exp_id, found.id, summary)


def ids_on_disk(title: str, base_dir: str | None = None) -> list[str]:
    """The ids of the experiments of a title on this machine, oldest first."""
    return [p.name for p in _directories(root / title for root in _roots(base_dir)) if (p / CONFIG).exists()]


def _glob(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


async def _flow_run_named(exp_id: str) -> FlowRun | None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
    from prefect.client.schemas.sorting import FlowRunSort

    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[exp_id])), sort=FlowRunSort.START_TIME_DESC, limit=1
        )
    return runs[0] if runs else None
