"""How a container, and how a job of several containers, ended: from what the engine says to exit records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from nemo_prefect.states import Cause

#: What the engine gives as the time of something that has not happened.
NEVER = "0001-01-01T00:00:00Z"


def was_started(inspected: Mapping[str, Any]) -> bool:
    """Whether this container ever ran: one that did must not be started a second time."""
    return bool(inspected["State"]["StartedAt"] != NEVER)


def has_ended(inspected: Mapping[str, Any]) -> bool:
    """Whether it ran and does not run any more."""
    return inspected["State"]["Status"] in ("exited", "dead")


def seconds(time: str) -> float:
    """Seconds since 1970 of the engine's time, 0 where it gives none."""
    if not time or time.startswith("0001-"):
        return 0.0
    whole, _, fraction = time.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{re.sub('[^0-9].*', '', fraction) or 0}")


def record(inspected: Mapping[str, Any] | None, cancelled: str | None) -> dict[str, Any]:
    """The exit record of one container.

    Args:
        inspected: what the engine says of it, or None where somebody removed it.
        cancelled: why it was asked to end by us, or None.
    """
    if inspected is None:
        return {"exit_code": None, "signal": None, "cancelled": False, "cause": Cause.LOST.value,
                "message": "its container was removed by somebody else"}  # fmt: skip
    state, memory = inspected["State"], inspected["HostConfig"].get("Memory") or 0
    code = state["ExitCode"]
    cause, message = Cause.NONE, (state.get("Error") or "").strip()
    if cancelled is not None:
        message = cancelled
    elif code and state.get("OOMKilled"):
        cause = Cause.OUT_OF_MEMORY
        message = f"it used more than its {memory >> 20} MiB" if memory else "its machine ran out of memory"
    elif code in (137, 143) and not message:
        number = code - 128
        message = f"ended by signal {number} that we did not send: somebody stopped it, or its engine was restarted"
    return {
        "exit_code": code,
        "signal": None,
        "cancelled": cancelled is not None,
        "start": seconds(state["StartedAt"]),
        "end": seconds(state["FinishedAt"]),
        "host": inspected["Config"].get("Hostname", ""),
        "cause": cause.value,
        "message": message,
    }


def first_failure(records: Sequence[Mapping[str, Any]]) -> int | None:
    """Which of a group's members failed first, or None where none did: a member that was ended did not."""
    failed = [i for i, r in enumerate(records) if not r["cancelled"] and (r["exit_code"] != 0 or r.get("cause"))]
    return min(failed, key=lambda i: records[i].get("end") or 0.0, default=None)


def combined(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The exit record of a group with these members' records."""
    if (index := first_failure(records)) is not None:
        chosen = records[index]
        said = f"member {index}" + (f": {chosen['message']}" if chosen["message"] else "")
        return {**chosen, "message": said}
    chosen = next((r for r in records if r["cancelled"]), records[0])
    ends = [r["end"] for r in records if r.get("end")]
    return {**chosen, "end": max(ends, default=0.0)}
