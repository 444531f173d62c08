"""What an experiment leaves on the server beside states and logs: the table of its jobs, and what the jobs made.

A job publishes an artifact by writing a file to the directory that ``$NEMO_PREFECT_ARTIFACTS`` names:
``NAME.json`` with a list of objects becomes a table, ``NAME.md`` becomes a page.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from nemo_prefect.shell import slug

if TYPE_CHECKING:
    from nemo_prefect.records import JobRecord

logger = logging.getLogger("nemo_prefect")
#: Larger files are left where they are.
MAX_BYTES = 500_000


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
            "attempts": record.attempt,
            "run time (s)": round((record.ended or time.time()) - record.started, 1) if record.started else "",
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


async def publish_files(directory: Path, job_id: str) -> None:
    """The artifacts that a job wrote to `directory`."""
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        key = artifact_key(f"{job_id}-{path.stem}")
        try:
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
