"""Jobs as containers of a Docker engine."""

from nemo_prefect.executors.docker.executor import DockerExecutor

__all__ = ["DockerExecutor"]
