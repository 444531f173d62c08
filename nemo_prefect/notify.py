"""Notifications: an automation on the Prefect server that sends one when runs of an experiment end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from nemo_prefect.errors import ConfigError, NotFoundError

#: The states of flow runs that each word means.
STATES = {
    "failed": ("Failed", "Crashed", "TimedOut"),
    "cancelled": ("Cancelled",),
    "succeeded": ("Completed",),
    "started": ("Running",),
}
BODY = """{{ flow.name }}: run {{ flow_run.name }} is {{ flow_run.state.name }}.
{{ flow_run.state.message }}
{{ flow_run|ui_url }}"""


async def notify(title: str, on: Sequence[str], block: str) -> str:
    """Make the automation, or bring the one that there is up to date. One a title and block.

    Args:
        title: the experiments' title.
        on: of `STATES`.
        block: the slug of a notification block, such as ``slack-webhook/team``.

    Returns:
        The automation's id.

    Raises:
        ConfigError: a word is none of `STATES`, or the block cannot notify.
        NotFoundError: there is no such block.
    """
    from prefect.blocks.core import Block
    from prefect.client.orchestration import get_client
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    unknown = [word for word in on if word not in STATES]
    if unknown or not on or isinstance(on, str):
        raise ConfigError(f"on={on!r} names no state to be notified of.", hint=f"Give a list of: {', '.join(STATES)}.")
    try:
        found: Any = await Block.aload(block)
    except ValueError as error:
        raise NotFoundError(
            f"There is no block {block!r}.", hint="List them with `prefect block ls`; a slug reads TYPE/NAME."
        ) from error
    if "notify" not in type(found).get_block_capabilities():
        raise ConfigError(f"The block {block!r} cannot notify.", hint="Name one such as slack-webhook/NAME.")
    automation = AutomationCore(
        name=f"nemo-prefect: {title} to {block}",
        description=f"Notifies {block} when a run of {title} is {', '.join(on)}.",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{state}" for word in on for state in STATES[word]},
            match=ResourceSpecification.model_validate({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification.model_validate(
                {"prefect.resource.role": "flow", "prefect.resource.name": title}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[SendNotification(block_document_id=found._block_document_id, subject=f"{title} on Prefect", body=BODY)],
    )
    async with get_client() as client:
        for known in await client.read_automations_by_name(automation.name):
            await client.update_automation(known.id, automation)
            return str(known.id)
        return str(await client.create_automation(automation))
