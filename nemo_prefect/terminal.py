"""What a person sees while an experiment runs: one line a job, and what to do next."""

from __future__ import annotations

import html
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from nemo_prefect.states import JobStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nemo_prefect.history import JobView
    from nemo_prefect.logs import LogLine
    from nemo_prefect.records import JobRecord
    from nemo_prefect.states import JobState

STYLES = {
    JobStatus.SUCCEEDED: "green",
    JobStatus.FAILED: "bold red",
    JobStatus.CANCELLED: "magenta",
    JobStatus.RUNNING: "cyan",
    JobStatus.PENDING: "yellow",
    JobStatus.SUBMITTED: "yellow",
    JobStatus.UNKNOWN: "yellow",
    JobStatus.UNSUBMITTED: "dim",
}
#: Lines of the live table; with more jobs, those that ended longest ago are left out.
MAX_ROWS = 24


class PatientConsole(Console):
    """A console whose closed pipe (``| head``) is no reason to end the program: rich's own would exit in mid-experiment."""

    def on_broken_pipe(self) -> None:
        """Say no more."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class DummyConsole:
    """Takes whatever a console is asked for and shows nothing: what ``clean_mode=True`` puts in the console's place."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        def nothing(*args: Any, **kwargs: Any) -> None: ...

        return nothing


class Terminal:
    """Shows an experiment on `console`: live where that is a terminal, a line for each change elsewhere.

    Args:
        experiment_id: the experiment.
        console: a rich Console, or a `DummyConsole`.
        tail: ids of jobs whose output is shown as they write it.
    """

    def __init__(self, experiment_id: str, console: Console | DummyConsole, tail: set[str]) -> None:
        self.console: Any = console
        self._id = experiment_id
        self._tail = tail
        self._records: dict[str, JobRecord] = {}
        self._live: Live | None = None

    def on_link(self, link: str) -> None:
        """The page of the run."""
        self.console.print(Text.assemble(("Experiment ", "bold"), (self._id, "bold cyan")))
        # Written whole, whatever the terminal's width, so that it can be clicked and copied.
        self.console.print(f"[bold]UI[/bold]  {escape(link)}", soft_wrap=True, highlight=False)

    def on_start(self, records: dict[str, JobRecord]) -> None:
        """The jobs."""
        self._records = records
        if isinstance(self.console, Console) and self.console.is_terminal and not self.console.is_jupyter:
            self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def on_change(self, record: JobRecord) -> None:
        """A job's state changed."""
        shown = record.state.status is not JobStatus.SUBMITTED
        if self._live is None and shown:
            self.console.print(self._line(record), soft_wrap=True, highlight=False)

    def on_line(self, record: JobRecord, unit: str, line: LogLine) -> None:
        """A job wrote a line."""
        if record.job.id in self._tail:
            self.console.print(Text.assemble((f"{unit} | ", "dim"), line.text), soft_wrap=True, highlight=False)

    def on_interrupt(self) -> None:
        """The first Ctrl-C."""
        self.console.print(
            "\n[yellow]Leaving the jobs to a runner in the background.[/yellow] Press Ctrl-C again within 3 seconds to "
            "cancel them instead."
        )

    def on_cancel(self) -> None:
        """The second Ctrl-C."""
        self.console.print("[magenta]Cancelling all jobs.[/magenta]")

    def close(self) -> None:
        """End the live display."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _line(self, record: JobRecord) -> Text:
        style = STYLES[record.state.status]
        return Text.assemble(
            (time.strftime("%H:%M:%S "), "dim"), (record.job.id, "bold"), " ", (record.state.describe(), style)
        )

    def _table(self) -> Group:
        table = Table.grid(padding=(0, 2))
        order = sorted(self._records.values(), key=lambda r: (r.state.status.is_terminal, r.ended or 0))
        shown = {r.job.id for r in order[:MAX_ROWS]}
        for record in self._records.values():
            if record.job.id in shown:
                style = STYLES[record.state.status]
                seconds = (record.ended or time.time()) - record.started if record.started else None
                table.add_row(
                    Text(record.job.id, "bold"),
                    Text(record.state.status.value, style),
                    Text(elapsed(seconds), "dim"),
                    Text(record.last_line[:200], "dim", overflow="ellipsis", no_wrap=True),
                )
        left = len(self._records) - len(shown)
        return Group(table, Text(f"… and {left} more", "dim")) if left else Group(table)


def elapsed(seconds: float | None) -> str:
    """A duration as ``1:02:03``."""
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def status_table(experiment_id: str, views: Sequence[JobView]) -> Group:
    """The jobs of an experiment with their states, executors, ids and directories."""
    table = Table(title=f"Experiment {experiment_id}", title_justify="left", title_style="bold")
    for column in ("Task", "Status", "Executor", "Job id"):
        table.add_column(column, overflow="fold")
    for view in views:
        table.add_row(
            Text(view.id, "bold"),
            state_text(view.state),
            view.executor,
            view.ref.native_id if view.ref else "",
        )
    local = os.path.commonpath([v.local_dir for v in views]) if views and all(v.local_dir for v in views) else ""
    # The path is given whole, whatever the terminal's width, so that it can be copied.
    return Group(table, Text(f"Directory: {local}", "dim", no_wrap=True, overflow="ignore")) if local else Group(table)


def status_html(experiment_id: str, views: Sequence[JobView]) -> str:
    """The jobs of an experiment as a table for a notebook."""
    rows = [(v.id, v.state.describe(), v.executor, v.ref.native_id if v.ref else "") for v in views]
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    head = "".join(f"<th>{name}</th>" for name in ("Task", "Status", "Executor", "Job id"))
    caption = f"<caption>Experiment {html.escape(experiment_id)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def state_text(state: JobState) -> Text:
    """A state in its colour."""
    return Text(state.describe(), STYLES[state.status])
