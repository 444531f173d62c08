"""`Torchrun`: starts a task's processes with ``torch.distributed.run``."""

from __future__ import annotations

from typing import ClassVar

from nemo_prefect.launchers.elastic import ElasticLauncher


class Torchrun(ElasticLauncher):
    """Starts a task's processes with ``torch.distributed.run`` (torchrun). Fields as in NeMo-Run."""

    program: ClassVar[tuple[str, ...]] = ("-m", "torch.distributed.run")
