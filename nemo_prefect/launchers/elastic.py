"""What torchrun and the launchers built on it have in common."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import ClassVar

from pydantic import Field

from nemo_prefect.launchers.base import Launcher
from nemo_prefect.launchers.macros import ExecutorMacros

_PYTHON = re.compile(r"python[0-9.]*t?")


class ElasticLauncher(Launcher):
    """Starts `nproc_per_node` ranks on each node, which find each other, and keeps their output apart.

    Each rank's output is also in files of its own, below ``ranks/`` in the attempt's directory; in the job's log every line
    says which rank wrote it.
    """

    #: Arguments that make a Python interpreter this launcher.
    program: ClassVar[tuple[str, ...]]
    one_per_node: ClassVar[bool] = True

    rdzv_backend: str = Field(default="c10d", description="How the ranks find each other.")
    rdzv_port: int = Field(default=29500, description="Port of the rendezvous on the head node; one node picks a free one.")
    rdzv_id: int | None = Field(default=None, description="Names the rendezvous; by default the submission's key does.")

    def options(self) -> list[str]:
        """Arguments of the launcher beyond those of torchrun."""
        return []

    def start(self, argv: list[str], *, nnodes: int, nproc_per_node: int, directory: str, key: str) -> list[str]:
        program, *rest = argv
        is_python = _PYTHON.fullmatch(PurePosixPath(program).name) is not None
        return [
            program if is_python else "python",
            *self.program,
            *self.options(),
            *("--nnodes", str(nnodes)),
            *("--nproc-per-node", str(nproc_per_node)),
            *("--rdzv-backend", self.rdzv_backend),
            *self._meeting_point(nnodes),
            *("--rdzv-id", str(self.rdzv_id) if self.rdzv_id is not None else key),
            *("--tee", "3"),
            *("--log-dir", f"{directory}/ranks"),
            # The launcher starts Python itself, with the interpreter that it runs under.
            *(rest if is_python else ["--no-python", *argv]),
        ]

    def _meeting_point(self, nnodes: int) -> list[str]:
        if nnodes > 1:
            head, rank = f"$${ExecutorMacros.HEAD_NODE_IP_VAR}", f"$${ExecutorMacros.NODE_RANK_VAR}"
            return ["--rdzv-endpoint", f"{head}:{self.rdzv_port}", "--node-rank", rank]
        # Port 0 is any free one, so that jobs side by side do not meet. A static rendezvous has to be told one.
        return ["--rdzv-endpoint", f"localhost:{self.rdzv_port if self.rdzv_backend == 'static' else 0}"]
