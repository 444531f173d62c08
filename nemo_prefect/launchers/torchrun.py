"""`Torchrun`: starts a task's processes with ``torch.distributed.run``."""

from __future__ import annotations

import re

from pydantic import Field

from nemo_prefect.launchers.base import Launcher

_PYTHON = re.compile(r"python[0-9.]*\Z")


class Torchrun(Launcher):
    """Starts one process a slot with ``torch.distributed.run`` (torchrun), and keeps their output apart.

    Each rank's output is also in files of its own, below ``ranks/`` in the attempt's directory; in the job's log every line
    says which rank wrote it.
    """

    rdzv_backend: str = Field(default="c10d", description="How the processes find each other.")
    rdzv_port: int = Field(default=29500, description="The port of the rendezvous, where there is more than one node.")
    rdzv_id: int | None = Field(default=None, description="Names the rendezvous; by default the submission's key does.")

    def wrap(self, argv: list[str], *, nnodes: int, nproc_per_node: int, directory: str, key: str) -> list[str]:
        program, *rest = argv
        is_python = _PYTHON.search(program) is not None
        torchrun = [
            program if is_python else "python",
            *("-m", "torch.distributed.run"),
            *("--nnodes", str(nnodes)),
            *("--nproc-per-node", str(nproc_per_node)),
            *("--rdzv-backend", self.rdzv_backend),
            # One node: any free port, so that jobs side by side do not meet.
            *("--rdzv-endpoint", "localhost:0"),
            *("--rdzv-id", str(self.rdzv_id) if self.rdzv_id is not None else key),
            *("--tee", "3"),
            *("--log-dir", f"{directory}/ranks"),
        ]
        command = rest if is_python else ["--no-python", *argv]
        return [*self.get_nsys_prefix(directory), *torchrun, *command]
