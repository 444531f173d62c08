"""Where a submitted job is: `JobRef`, and the `Attempt` that it answers to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class JobRef:
    """A submitted job, in its executor's own terms.

    Attributes:
        executor: the executor's name, as registered (``local``).
        cluster: which of its kind: a host, a Slurm cluster, a Docker engine, a Kubernetes context.
        native_id: the job's id there (a process id, a Slurm job id, a container id).
        key: the submission's key; it names one attempt at one job of one experiment.
        directory: the attempt's directory, where its logs and exit record are.
        details: what else the executor needs to tell this job from another one with the same id.
    """

    executor: str
    cluster: str
    native_id: str
    key: str
    directory: str
    details: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)

    @property
    def handle(self) -> str:
        """The job as NeMo-Run writes it, for people: ``local://nemo_prefect/<id>``. Nothing parses it."""
        return f"{self.executor}://nemo_prefect/{self.native_id}"


def submission_key(experiment_id: str, job_id: str, attempt: int) -> str:
    """The key of one attempt at one job: 12 hexadecimal digits, the same wherever it is computed."""
    return hashlib.sha256(f"{experiment_id}\0{job_id}\0{attempt}".encode()).hexdigest()[:12]
