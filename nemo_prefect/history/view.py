"""What a reader sees of a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nemo_prefect.errors import NotFoundError
from nemo_prefect.refs import JobRef
from nemo_prefect.states import JobState

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class JobView:
    """What a reader sees of a job, or of one member of a group."""

    id: str
    state: JobState
    executor: str
    handle: str = ""
    local_dir: str = ""
    ref: JobRef | None = None

    def to_dict(self) -> dict[str, Any]:
        """As NeMo-Run's ``status(return_dict=True)`` has it, and a little more."""
        return {
            "name": self.id,
            "status": self.state.status,
            "executor": self.executor,
            "job_id": self.ref.native_id if self.ref else "",
            "handle": self.handle,
            "local_dir": self.local_dir,
            "exit_code": self.state.exit_code,
            "cause": self.state.cause.value,
            "message": self.state.message,
        }


def no_such_job(exp_id: str, job_id: str, known: Sequence[str]) -> NotFoundError:
    """The error for a job id that the experiment does not have."""
    return NotFoundError(f"Job {job_id} not found.", hint=f"{exp_id} has: {', '.join(known) or 'no jobs'}.")
