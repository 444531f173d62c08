"""Jobs on Kubernetes: one ``batch/v1`` Job for each node of a job."""

from nemo_prefect.executors.kubernetes.executor import KubernetesExecutor

__all__ = ["KubernetesExecutor"]
