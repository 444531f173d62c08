"""Jobs on Slurm.

`executor` holds the contract, `fields` what users set; `options` and `script` say what runs, `submission` hands it in,
`watch` follows it, with the words of `states`.
"""

from __future__ import annotations

from nemo_prefect.executors.slurm.executor import SlurmExecutor
from nemo_prefect.executors.slurm.fields import SlurmJobDetails

__all__ = ["SlurmExecutor", "SlurmJobDetails"]
