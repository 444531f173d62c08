"""The launcher that starts the task as it is, and the base of those that do more."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from nemo_prefect.errors import ConfigError
from nemo_prefect.polymorphic import Polymorphic


class Launcher(Polymorphic):
    """Starts a task as it is, or under NVIDIA Nsight Systems.

    Fields as in NeMo-Run.
    """

    #: Whether it starts the processes of a node by itself, so that a scheduler starts it once on each node.
    one_per_node: ClassVar[bool] = False

    nsys_profile: bool = Field(default=False, description="Profile the task with nsys.")
    nsys_folder: str = Field(default="nsys_profile", description="Folder for profiles, below the attempt's directory.")
    nsys_filename: str = Field(default="profile_%p", description="Name of the profile; %p is the process id.")
    nsys_trace: list[str] = Field(default_factory=lambda: ["nvtx", "cuda"], description="What nsys traces.")
    nsys_extra_args: list[str] = Field(
        default_factory=lambda: [
            "--force-overwrite=true",
            "--capture-range=cudaProfilerApi",
            "--capture-range-end=stop",
            "--cuda-graph-trace=node",
            "--cuda-event-trace=false",
        ],
        description="More arguments for nsys.",
    )
    nsys_gpu_metrics: bool = Field(default=False, description="Also sample GPU metrics.")

    def get_nsys_prefix(self, profile_dir: str) -> list[str]:
        """The words that go before a command to profile it, none where `nsys_profile` is off.

        Args:
            profile_dir: the directory in which `nsys_folder` lies.
        """
        if not self.nsys_profile:
            return []
        metrics = ["--gpu-metrics-devices=all"] if self.nsys_gpu_metrics else []
        output = f"{profile_dir}/{self.nsys_folder}/{self.nsys_filename}"
        return ["nsys", "profile", "-s", "none", "-t", ",".join(self.nsys_trace), "-o", output,
                *self.nsys_extra_args, *metrics]  # fmt: skip

    def wrap(self, argv: list[str], *, nnodes: int, nproc_per_node: int, directory: str, key: str) -> list[str]:
        """The command that starts `argv` under this launcher, profiled if that was asked for.

        It may hold macros (see `ExecutorMacros`), which the executor fills in.

        Args:
            argv: the task's own command.
            nnodes: how many nodes the job spans.
            nproc_per_node: processes on each.
            directory: the attempt's directory.
            key: the submission's key, the same on every node of the job.
        """
        command = self.start(argv, nnodes=nnodes, nproc_per_node=nproc_per_node, directory=directory, key=key)
        return [*self.get_nsys_prefix(directory), *command]

    def start(self, argv: list[str], *, nnodes: int, nproc_per_node: int, directory: str, key: str) -> list[str]:
        """What `wrap` profiles; a launcher of another kind overrides this. The arguments are those of `wrap`."""
        return argv

    def environment(self) -> dict[str, str]:
        """What the job finds in its environment because of this launcher."""
        return {}

    def folders(self, directory: str) -> list[str]:
        """Directories that have to exist before the command starts: nsys makes none.

        Args:
            directory: the attempt's directory.
        """
        return [f"{directory}/{self.nsys_folder}"] if self.nsys_profile else []


def launcher_by_name(name: str) -> Launcher:
    """A launcher with its defaults, by the name that NeMo-Run's users give.

    Raises:
        ConfigError: there is none of that name.
    """
    from nemo_prefect.launchers.fault_tolerance import FaultTolerance
    from nemo_prefect.launchers.torchrun import Torchrun

    known: dict[str, type[Launcher]] = {"torchrun": Torchrun, "ft": FaultTolerance}
    if name not in known:
        raise ConfigError(f"There is no launcher named {name!r}.", hint=f"There are: {', '.join(known)}.")
    return known[name]()
