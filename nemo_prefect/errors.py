"""Every error this package raises on purpose.

The tree (an arrow means "is a kind of")::

    NemoPrefectError
    ├── ConfigError ─────────────> ValueError, AssertionError    a task, executor or field is wrong
    │   ├── SerializationError ──> RuntimeError                  a task cannot travel to its job
    │   ├── DependencyError                                      unknown dependency or a cycle
    │   ├── UsageError                                           a call that makes no sense here
    │   ├── NotATaskError ───────> TypeError                     neither a Script nor a Partial
    │   ├── SetValueError                                        a config path that does not exist
    │   ├── PackagingError ──────> RuntimeError                  the code could not be packed
    │   └── CLIException                                         an argument of a command line is wrong
    │       ├── ArgumentParsingError                             it has not the form key=value
    │       ├── ArgumentValueError                               it names nothing that is there
    │       ├── UndefinedVariableError                           += and the like, where there is no value yet
    │       ├── OperationError                                   += and the like, on values that have none
    │       └── TypeParsingError                                 its value does not fit the parameter
    │           └── ParseError                                   (LiteralParseError, UnknownTypeError,
    │                                                            CollectionParseError: ListParseError, DictParseError)
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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


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


class NotATaskError(ConfigError, TypeError):
    """What should be run is neither a Script nor a configured call."""


class SetValueError(ConfigError):
    """A configuration has no such path, or the value cannot be put there."""


class PackagingError(ConfigError, RuntimeError):
    """The user's code could not be packed for its job."""


class CLIException(ConfigError):
    """An argument of a command line is wrong.

    Args:
        message: what is wrong with it.
        arg: the argument as it was typed.
        context: what else is known of it.
        hint: what to type instead; it names the nearest valid option where there is one.
    """

    def __init__(self, message: str, arg: str = "", context: Mapping[str, Any] | None = None, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.arg = arg
        self.context = dict(context or {})

    def user_friendly_message(self) -> str:
        """The message and its hint."""
        return str(self)

    def prefix(self, text: str) -> None:
        """Put `text` before the message: where the error is."""
        self.message = text + self.message
        self.args = (self.message,)


class ArgumentParsingError(CLIException):
    """An argument has not the form ``key=value``."""


class ArgumentValueError(CLIException):
    """An argument names a parameter, a factory, an option or a file that is not there."""


class UndefinedVariableError(CLIException):
    """``+=`` and the like, where there is no value yet."""


class OperationError(CLIException):
    """``+=`` and the like, on values that cannot be combined so."""


class TypeParsingError(CLIException):
    """A value does not fit what its parameter is annotated with."""


class ParseError(TypeParsingError):
    """A value does not fit its type.

    Args:
        value: the value as it was typed.
        expected_type: the annotation.
        reason: why it does not fit.
    """

    def __init__(self, value: str, expected_type: Any, reason: str, *, hint: str = "") -> None:
        name = getattr(expected_type, "__name__", None) if isinstance(expected_type, type) else None
        message = f"Failed to parse {value!r} as {name or str(expected_type).replace('typing.', '')}: {reason}"
        super().__init__(message, value, {"expected_type": expected_type}, hint=hint)
        self.value = value
        self.expected_type = expected_type
        self.reason = reason


class LiteralParseError(ParseError):
    """A value is none of those that a Literal or an Enum allows."""


class UnknownTypeError(ParseError):
    """There is no way to write a value of this type on a command line."""


class CollectionParseError(ParseError):
    """A value is no collection of the expected kind."""


class ListParseError(CollectionParseError):
    """A value is no list, tuple or set, or one of its members does not fit."""


class DictParseError(CollectionParseError):
    """A value is no dict, or one of its members does not fit."""


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
