"""Every error this package raises on purpose.

The tree (an arrow means "is a kind of")::

    NemoPrefectError
    ├── ConfigError ─────────────> ValueError, AssertionError    a task, executor or field is wrong
    │   ├── SerializationError ──> RuntimeError                  a task cannot travel to its job
    │   ├── DependencyError                                      unknown dependency or a cycle
    │   ├── UsageError                                           a call that makes no sense here
    │   ├── SetValueError                                        a config path that does not exist
    │   └── PackagingError ──────> RuntimeError                  the code could not be packed
    ├── NotFoundError ───────────> LookupError, ValueError, AssertionError    no such experiment, job or title
    ├── ServerError ─────────────> RuntimeError                  the Prefect server does not answer (transient)
    ├── ExecutorError ───────────> RuntimeError                  an executor could not do what was asked
    │   ├── SubmissionError                                      a job could not be started
    │   └── UnreachableError                                     no way to its machine: nothing was asked (transient)
    └── ExperimentFailed ────────> RuntimeError                  run() saw the experiment fail
        └── ExperimentCancelled                                  run() saw it cancelled

Each carries a ``hint``, one sentence that says what to do, and ``transient``: whether the same call may succeed later.
Where NeMo-Run raises ``AssertionError``, ``ValueError`` or ``RuntimeError`` at its users, the class here is one of those
as well, so that their ``except`` clauses keep working.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class NemoPrefectError(Exception):
    """Base of every error of this package.

    Args:
        message: what went wrong, in one sentence.
        hint: what to do about it, in one sentence.
    """

    transient: bool = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class ConfigError(NemoPrefectError, ValueError, AssertionError):
    """A task, an executor, a title or a field has a value that cannot work."""


class SerializationError(ConfigError, RuntimeError):
    """A task cannot be written down as data, so it could not travel to its job."""


class DependencyError(ConfigError):
    """A dependency names no job of the experiment, or the dependencies form a cycle."""


class UsageError(ConfigError):
    """A method was called where it makes no sense, for instance ``add`` outside the experiment's ``with`` block."""


class SetValueError(ConfigError):
    """A configuration has no such path, or the value cannot be put there."""


class PackagingError(ConfigError, RuntimeError):
    """The user's code could not be packed for its job."""


class NotFoundError(NemoPrefectError, LookupError, ValueError, AssertionError):
    """There is no experiment, job or title of that name."""


class ServerError(NemoPrefectError, RuntimeError):
    """The Prefect server could not be started or does not answer."""

    transient = True


class ExecutorError(NemoPrefectError, RuntimeError):
    """An executor could not do what it was asked to.

    Args:
        transient: whether asking again later may work (a dropped connection), or never will (an unknown partition).
    """

    def __init__(self, message: str, *, hint: str = "", transient: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient


class SubmissionError(ExecutorError):
    """A job could not be started."""


class UnreachableError(ExecutorError):
    """There is no connection to an executor's machine, and none could be made. Nothing was sent, so nothing has changed."""

    def __init__(self, message: str, *, hint: str = "", transient: bool = True) -> None:
        super().__init__(message, hint=hint, transient=transient)


@dataclass(frozen=True)
class FailedJob:
    """What is known of one job that did not succeed: its id, its final state in words, and its last log lines."""

    job_id: str
    state: str
    last_lines: Sequence[str] = ()


class ExperimentFailed(NemoPrefectError, RuntimeError):
    """``run()`` saw the experiment end with at least one job that did not succeed.

    Attributes:
        experiment_id: the experiment's id.
        jobs: one ``FailedJob`` for each job that failed itself; jobs that never started because of it are not listed.
    """

    verb = "failed"

    def __init__(self, experiment_id: str, jobs: Sequence[FailedJob], *, hint: str = "") -> None:
        self.experiment_id = experiment_id
        self.jobs = tuple(jobs)
        lines = [f"Experiment {experiment_id} {self.verb}."]
        for job in self.jobs:
            lines.append(f"  {job.job_id}: {job.state}")
            lines.extend(f"    | {line}" for line in job.last_lines)
        super().__init__("\n".join(lines), hint=hint)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}".strip()


class ExperimentCancelled(ExperimentFailed):
    """``run()`` saw the experiment end because it was cancelled."""

    verb = "was cancelled"
