"""`FaultTolerance`: torchrun that watches its ranks' heartbeats, by NVIDIA's Resiliency Extension."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from nemo_prefect.launchers.elastic import ElasticLauncher

# The launcher by itself ends with exit code 0 where some ranks failed and others ended well (0.4.1: such a result is
# "unhealthy", and only "failed" ones count), so that a failed job would look like one that succeeded.
_PROGRAM = (
    "import nvidia_resiliency_ext.fault_tolerance.launcher as ft; "
    "ft.RunResult.is_failed = lambda result: bool(result.failures); "
    "ft.main()"
)


class FaultTolerance(ElasticLauncher):
    """Starts a task's processes with ``ft_launcher`` of nvidia-resiliency-ext (0.4 or later), which the job has to bring.

    It restarts hanging and failed ranks within an attempt; a whole attempt that failed is tried again as often as the
    executor's `retries` say. Fields as in NeMo-Run. The paths are given to the task in its environment, under the names
    that NeMo-Run's jobs find there.
    """

    program: ClassVar[tuple[str, ...]] = ("-c", _PROGRAM)

    cfg_path: str = Field(default="", description="YAML file with the launcher's own configuration.")
    finished_flag_file: str = Field(default="", description="File that the task makes when training is complete.")
    job_results_file: str = Field(default="", description="File that records how each attempt ended.")
    workload_check_interval: float | None = Field(default=None, description="Seconds between two looks at the ranks.")
    initial_rank_heartbeat_timeout: float | None = Field(
        default=None, description="Seconds that a rank may take until its first heartbeat."
    )
    rank_heartbeat_timeout: float | None = Field(default=None, description="Seconds between two heartbeats, at most.")
    rank_termination_signal: str | None = Field(default=None, description="Signal that ends a hanging rank: SIGKILL.")
    log_level: str | None = Field(default=None, description="How much the launcher logs: DEBUG, INFO, WARNING.")
    max_restarts: int | None = Field(default=None, description="How often the ranks are restarted within an attempt.")

    def options(self) -> list[str]:
        given = {
            "--ft-cfg-path": self.cfg_path or None,
            "--ft-workload_check_interval": self.workload_check_interval,
            "--ft-initial_rank_heartbeat_timeout": self.initial_rank_heartbeat_timeout,
            "--ft-rank_heartbeat_timeout": self.rank_heartbeat_timeout,
            "--ft-rank_termination_signal": self.rank_termination_signal,
            "--ft-log_level": self.log_level,
            "--max-restarts": self.max_restarts,
        }
        return [word for name, value in given.items() if value is not None for word in (name, str(value))]

    def environment(self) -> dict[str, str]:
        paths = {
            "FAULT_TOL_CFG_PATH": self.cfg_path,
            "FAULT_TOL_FINISHED_FLAG_FILE": self.finished_flag_file,
            "JOB_RESULTS_FILE": self.job_results_file,
        }
        return {name: path for name, path in paths.items() if path}
