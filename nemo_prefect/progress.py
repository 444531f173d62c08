"""What a running job reports of itself: how far it is, and its latest metrics.

A job says it with ``nemo_prefect.worker.report(step, total, loss=…)`` (in an image without this package:
``from nemo_prefect_worker import report``, which every Python call finds), or by writing
``{"step": 3, "total": 10, "metrics": {"loss": 0.1}}`` to ``$NEMO_PREFECT_ARTIFACTS/progress.json`` itself.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = "progress.json"
#: Larger files are no progress.
MAX_BYTES = 100_000
#: More metrics are not shown.
MAX_METRICS = 50


@dataclass(frozen=True)
class Reported:
    """The latest report of a job."""

    step: float
    total: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def percent(self) -> float:
        """How far it is: 0 to 100; 0 where it does not say of how much."""
        return min(100.0, max(0.0, 100.0 * self.step / self.total)) if self.total else 0.0

    def describe(self) -> str:
        """The report in one line."""
        steps = f"step {self.step:g}" + (f" of {self.total:g}" if self.total else "")
        shown = [f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in list(self.metrics.items())[:MAX_METRICS]]
        return ", ".join([steps, *shown])


def read_progress(file: Path) -> Reported | None:
    """The latest report, or None where there is none, or it is not one."""
    try:
        if file.stat().st_size > MAX_BYTES:
            return None
        data = json.loads(file.read_text())
        step, total, metrics = float(data["step"]), data.get("total"), data.get("metrics") or {}
        known = {str(k): v for k, v in metrics.items() if isinstance(v, (int, float, str, bool))}
        if not math.isfinite(step):
            return None
        return Reported(step, float(total) if total else None, known)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
