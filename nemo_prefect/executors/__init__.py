"""The executors: Prefect blocks that know how to run a job somewhere.

Importing this module registers the blocks (it is the package's ``prefect.collections`` entry point).
"""

from nemo_prefect.executors.base import Executor, JobRequest, RenderedJob
from nemo_prefect.executors.docker import DockerExecutor
from nemo_prefect.executors.kubernetes import KubernetesExecutor
from nemo_prefect.executors.local import LocalExecutor
from nemo_prefect.executors.registry import executor_class, executor_from_spec, executor_to_spec, load_executor
from nemo_prefect.executors.slurm import SlurmExecutor, SlurmJobDetails

__all__ = [
    "DockerExecutor",
    "Executor",
    "JobRequest",
    "KubernetesExecutor",
    "LocalExecutor",
    "RenderedJob",
    "SlurmExecutor",
    "SlurmJobDetails",
    "executor_class",
    "executor_from_spec",
    "executor_to_spec",
    "load_executor",
]
