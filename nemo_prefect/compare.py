"""What differs between two runs: configuration, code, how the jobs ended, how long they took, their latest metrics."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_prefect.exit_record import FILE as EXIT
from nemo_prefect.exit_record import read_json
from nemo_prefect.history import open_history
from nemo_prefect.history.local import LocalHistory
from nemo_prefect.progress import FILE as PROGRESS
from nemo_prefect.progress import read_progress

if TYPE_CHECKING:
    from nemo_prefect.experiment import Experiment


@dataclass(frozen=True)
class JobRun:
    """How a job went: its state, the seconds that its latest attempt ran, its latest metrics."""

    state: str
    seconds: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other. ``str()`` of it is a report, `to_dict` the same as data.

    Attributes:
        ids: the two experiments' ids, the older side first.
        config: what differs in their configuration, a line each.
        code: what differs in their code: the commits, and a diff of what was not committed.
        jobs: for each job its two runs; None where an experiment has no such job.
    """

    ids: tuple[str, str]
    config: tuple[str, ...]
    code: tuple[str, ...]
    jobs: dict[str, tuple[JobRun | None, JobRun | None]]

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for ``--json``."""

        def plain(one: JobRun | None) -> Any:
            return None if one is None else {"state": one.state, "seconds": one.seconds, "metrics": one.metrics}

        jobs = {name: [plain(a), plain(b)] for name, (a, b) in self.jobs.items()}
        return {"ids": list(self.ids), "config": list(self.config), "code": list(self.code), "jobs": jobs}

    def __str__(self) -> str:
        lines = [f"{self.ids[0]} -> {self.ids[1]}", "", "Configuration:"]
        lines += [f"  {line}" for line in self.config or ("no differences",)]
        lines += ["", "Code:", *(f"  {line}" for line in self.code or ("no differences",)), "", "Jobs:"]
        for name, (a, b) in self.jobs.items():
            lines.append(f"  {name}: {_brief(a)} -> {_brief(b)}")
            before, after = (a.metrics if a else {}), (b.metrics if b else {})
            lines += [f"    {m}: {before.get(m, '-')} -> {after.get(m, '-')}" for m in {**before, **after}]
        return "\n".join(lines)


def compare(old: Experiment, new: Experiment) -> Comparison:
    """Compare two experiments that ran.

    Raises:
        NotFoundError: one of them never ran on this machine.
    """
    first, second = _runs(old), _runs(new)
    names = {**first, **second}
    changes = [str(change) for change in new.diff(old).changes if change.path.startswith("jobs")]
    return Comparison(
        ids=(old.id, new.id),
        config=tuple(changes),
        code=tuple(_code(_origin(old), _origin(new))),
        jobs={name: (first.get(name), second.get(name)) for name in names},
    )


def _runs(exp: Experiment) -> dict[str, JobRun]:
    history = open_history(exp.id, exp._base_dir)
    runs = {}
    for view in history.views():
        directory = Path(view.ref.directory) if view.ref and isinstance(history, LocalHistory) else None
        record = read_json(directory / EXIT) if directory else None
        seconds = round(record["end"] - record["start"], 1) if record and record.get("end") and record.get("start") else None
        reported = read_progress(directory / "artifacts" / PROGRESS) if directory else None
        runs[view.id] = JobRun(view.state.describe(), seconds, dict(reported.metrics) if reported else {})
    return runs


def _origin(exp: Experiment) -> dict[str, Any]:
    from nemo_prefect.provenance import FILE

    try:
        git: dict[str, Any] = json.loads((exp.directory / FILE).read_text()).get("git") or {}
    except (OSError, ValueError):
        return {}
    return git


def _code(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    lines = []
    if old.get("commit") != new.get("commit"):
        lines.append(f"commit {old.get('commit', 'unknown')} -> {new.get('commit', 'unknown')}")
    before, after = old.get("diff", "").splitlines(), new.get("diff", "").splitlines()
    if before != after:
        lines += difflib.unified_diff(before, after, "uncommitted before", "uncommitted after", lineterm="")
    return lines


def _brief(one: JobRun | None) -> str:
    if one is None:
        return "not there"
    return one.state + (f", {one.seconds:g} s" if one.seconds is not None else "")
