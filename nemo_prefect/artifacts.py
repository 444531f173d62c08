"""What an experiment leaves on the server beside states and logs: the table of its jobs, and what the jobs made.

A job publishes an artifact by writing a file to the directory that ``$NEMO_PREFECT_ARTIFACTS`` names:
``NAME.json`` with a list of objects becomes a table, ``NAME.md`` becomes a page.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from prefect.artifacts import acreate_markdown_artifact, acreate_progress_artifact, acreate_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from nemo_prefect.masking import Mask
from nemo_prefect.progress import FILE as PROGRESS
from nemo_prefect.progress import read_progress
from nemo_prefect.provenance import provenance
from nemo_prefect.shell import slug

if TYPE_CHECKING:
    from nemo_prefect.layout import Layout
    from nemo_prefect.records import JobRecord
    from nemo_prefect.spec import ExperimentSpec

logger = logging.getLogger("nemo_prefect")
#: Larger files are left where they are.
MAX_BYTES = 500_000
#: Of more jobs neither scripts nor progress are shown.
MAX_JOBS = 100


async def publish_summary(title: str, records: Sequence[JobRecord], published: UUID | None) -> UUID | None:
    """The table of the experiment's jobs: made once, then kept up to date.

    Args:
        title: the experiment's title.
        records: the jobs.
        published: what the first call returned, or None.

    Returns:
        The artifact's id, or `published` where the server did not take it.
    """
    rows = [
        {
            "job": record.job.id,
            "state": record.state.describe(),
            "cause": record.state.cause.value,
            "attempts": record.attempt,
            "queue time (s)": _seconds(record.started, record.running or record.ended),
            "run time (s)": _seconds(record.running, record.ended),
            "GPU hours": _gpu_hours(record),
            "executor": record.job.executors[0].name,
            "handle": ", ".join(ref.handle for ref in record.refs.values()),
            "directory": next((str(Path(ref.directory).parent) for ref in record.refs.values()), ""),
        }
        for record in records
    ]
    try:
        if published is None:
            return await acreate_table_artifact(rows, key=artifact_key(f"{title}-jobs"), description=f"Jobs of {title}")
        async with get_client() as client:
            await client.update_artifact(published, ArtifactUpdate(data=json.dumps(rows)))
    except Exception as error:  # noqa: BLE001 - a table that cannot be shown must not end an experiment
        logger.warning("The table of the jobs of %s could not be published: %s", title, error)
    return published


def _seconds(begin: float | None, end: float | None) -> float | str:
    return round(max(0.0, (end or time.time()) - begin), 1) if begin else ""


def _gpu_hours(record: JobRecord) -> float | str:
    """Of the latest attempt, while it ran."""
    if record.running is None or not record.gpus:
        return ""
    return round(((record.ended or time.time()) - record.running) / 3600 * record.gpus, 3)


async def publish_details(spec: ExperimentSpec, layout: Layout) -> None:
    """The experiment's config, the script of each job and where it came from, as pages of the run. Secrets are masked.

    Args:
        spec: the experiment.
        layout: its directory.
    """
    try:
        pages = await asyncio.to_thread(_pages, spec, layout)
        for what, text in pages.items():
            shown = text if len(text) <= MAX_BYTES else text[:MAX_BYTES] + "\n```\n\nThe rest is in the directory."
            await acreate_markdown_artifact(
                shown, key=artifact_key(f"{spec.title}-{what}"), description=f"{what} of {spec.id}"
            )
    except Exception as error:  # noqa: BLE001 - as above
        logger.warning("The details of %s could not be published: %s", spec.title, error)


def _pages(spec: ExperimentSpec, layout: Layout) -> dict[str, str]:
    from nemo_prefect.layout import units_of

    mask = Mask(spec)
    origin = provenance(layout.root, spec.cwd)
    scripts, config = [f"Directory: `{spec.directory}`\n"], {}
    for job in spec.jobs[:MAX_JOBS]:
        for unit, members in units_of(job).items():
            request = layout.request(spec, job, unit, members, 1)
            executor = request.executors[0]
            logs = layout.attempt_dir(unit, 1)
            scripts.append(f"## {unit}\n\n{executor.info()}. Logs: `{logs}/stdout.log`, `{logs}/stderr.log`\n")
            scripts.append(_fenced(mask.text(str(executor.render(request))), "bash"))
        config[job.id] = {
            "dependencies": list(job.dependencies),
            "executors": [{"type": e.name, "block": e.block, **mask.data(e.config)} for e in job.executors],
            "tasks": [mask.data(t.script or t.payload) for t in job.tasks],
        }
    if len(spec.jobs) > MAX_JOBS:
        scripts.append(f"{len(spec.jobs) - MAX_JOBS} more jobs are not shown here.")
    git, packages = origin.get("git") or {}, origin.get("packages") or {}
    changed = ", with changes" if git.get("diff") else ""
    lines = [
        f"- command: `{' '.join(mask.arguments(map(str, spec.provenance.get('argv', []))))}`",
        f"- launched by {spec.provenance.get('user', '')} on {spec.provenance.get('host', '')} in `{spec.cwd}`",
        f"- Python {origin['python']} (`{origin['executable']}`), {origin['platform']}",
        f"- git: {git['commit']} ({git['branch']}){changed}" if git else "- no git repository",
    ]
    if git.get("diff"):
        lines += ["", "## Changes", "", _fenced(mask.text(git["diff"]), "diff")]
    lines += ["", "## Packages", "", _fenced("\n".join(f"{n}=={v}" for n, v in packages.items()), "")]
    return {
        "scripts": "\n".join(scripts),
        "config": _fenced(json.dumps(config, indent=1, default=str), "json"),
        "provenance": "\n".join(lines),
    }


def _fenced(text: str, language: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


class Progress:
    """What jobs report of themselves (`nemo_prefect.worker.report`), as progress artifacts that are kept up to date."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[UUID, str]] = {}

    async def publish(self, records: Sequence[JobRecord]) -> None:
        """Bring what has changed to the server: of `MAX_JOBS` jobs at most."""
        for record in records:
            for unit, ref in list(record.refs.items()):
                try:
                    await self._one(unit, Path(ref.directory) / "artifacts" / PROGRESS)
                except Exception as error:  # noqa: BLE001 - as above
                    logger.warning("The progress of %s could not be published: %s", unit, error)

    async def _one(self, unit: str, file: Path) -> None:
        found = read_progress(file)
        if found is None:
            return
        percent, text = found.percent, found.describe()
        known = self._known.get(unit)
        if known is None:
            if len(self._known) < MAX_JOBS:
                key = artifact_key(f"{unit}-progress")
                made = await acreate_progress_artifact(percent, key=key, description=f"{unit}: {text}")
                self._known[unit] = (made, text)
        elif known[1] != text:
            self._known[unit] = (known[0], text)
            async with get_client() as client:
                update = ArtifactUpdate(data=percent, description=f"{unit}: {text}")
                await client.update_artifact(known[0], update)


async def publish_files(directory: Path, job_id: str) -> None:
    """The artifacts that a job wrote to `directory`."""
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        key = artifact_key(f"{job_id}-{path.stem}")
        try:
            if path.name == PROGRESS:
                continue
            if path.stat().st_size > MAX_BYTES:
                logger.warning("%s is larger than %d bytes and is not published.", path, MAX_BYTES)
            elif path.suffix == ".json":
                await acreate_table_artifact(json.loads(path.read_text()), key=key, description=f"{path.stem} of {job_id}")
            elif path.suffix == ".md":
                await acreate_markdown_artifact(path.read_text(), key=key, description=f"{path.stem} of {job_id}")
        except Exception as error:  # noqa: BLE001 - as above
            logger.warning("%s could not be published: %s", path, error)


def artifact_key(name: str) -> str:
    """A key as Prefect takes them: lower-case letters, digits and dashes."""
    return slug(name.lower().replace("_", "-").replace(".", "-").replace("/", "-"))
