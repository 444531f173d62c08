"""NeMo-Run's Experiment API as a workflow plugin on Prefect: ``import nemo_prefect as run``.

Names are imported when they are first used: importing the package imports neither Prefect nor Fiddle.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nemo_prefect._imports import collector_paused

if TYPE_CHECKING:
    from nemo_prefect import cli
    from nemo_prefect.api import dryrun_fn, run
    from nemo_prefect.cli.describe import help
    from nemo_prefect.cli.lazy import LazyEntrypoint, lazy_imports
    from nemo_prefect.config import Config, Partial, autoconvert
    from nemo_prefect.configurable import ConfigurableMixin
    from nemo_prefect.executors.base import Executor
    from nemo_prefect.executors.docker import DockerExecutor
    from nemo_prefect.executors.files import import_executor
    from nemo_prefect.executors.kubernetes import KubernetesExecutor
    from nemo_prefect.executors.local import LocalExecutor
    from nemo_prefect.executors.slurm import SlurmExecutor, SlurmJobDetails
    from nemo_prefect.experiment import Experiment
    from nemo_prefect.experiment_flow import flow
    from nemo_prefect.home import get_nemorun_home, set_nemorun_home
    from nemo_prefect.jobs import Job, JobGroup
    from nemo_prefect.launchers import ExecutorMacros, FaultTolerance, Launcher, Torchrun
    from nemo_prefect.packaging import GitArchivePackager, HybridPackager, Packager, PatternPackager
    from nemo_prefect.plugin import ExperimentPlugin, Plugin
    from nemo_prefect.script import Script
    from nemo_prefect.transport import LocalTunnel, SSHTunnel, Tunnel

__version__ = "0.1.0"
__package_name__ = "nemo_prefect"

_WHERE = {
    "Config": "config",
    "ConfigurableMixin": "configurable",
    "DockerExecutor": "executors.docker",
    "Executor": "executors.base",
    "ExecutorMacros": "launchers",
    "Experiment": "experiment",
    "ExperimentPlugin": "plugin",
    "FaultTolerance": "launchers",
    "GitArchivePackager": "packaging",
    "HybridPackager": "packaging",
    "Job": "jobs",
    "JobGroup": "jobs",
    "KubernetesExecutor": "executors.kubernetes",
    "Launcher": "launchers",
    "LazyEntrypoint": "cli.lazy",
    "LocalExecutor": "executors.local",
    "LocalTunnel": "transport",
    "Packager": "packaging",
    "Partial": "config",
    "PatternPackager": "packaging",
    "Plugin": "plugin",
    "SSHTunnel": "transport",
    "Script": "script",
    "SlurmExecutor": "executors.slurm",
    "SlurmJobDetails": "executors.slurm",
    "Torchrun": "launchers",
    "Tunnel": "transport",
    "autoconvert": "config",
    "dryrun_fn": "api",
    "flow": "experiment_flow",
    "get_nemorun_home": "home",
    "help": "cli.describe",
    "import_executor": "executors.files",
    "lazy_imports": "cli.lazy",
    "run": "api",
    "set_nemorun_home": "home",
}

__all__ = [
    "Config",
    "ConfigurableMixin",
    "DockerExecutor",
    "Executor",
    "ExecutorMacros",
    "Experiment",
    "ExperimentPlugin",
    "FaultTolerance",
    "GitArchivePackager",
    "HybridPackager",
    "Job",
    "JobGroup",
    "KubernetesExecutor",
    "Launcher",
    "LazyEntrypoint",
    "LocalExecutor",
    "LocalTunnel",
    "Packager",
    "Partial",
    "PatternPackager",
    "Plugin",
    "SSHTunnel",
    "Script",
    "SlurmExecutor",
    "SlurmJobDetails",
    "Torchrun",
    "Tunnel",
    "autoconvert",
    "cli",
    "dryrun_fn",
    "flow",
    "get_nemorun_home",
    "help",
    "import_executor",
    "lazy_imports",
    "run",
    "set_nemorun_home",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        with collector_paused():
            value = getattr(import_module(f"nemo_prefect.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    if name == "cli":
        return import_module("nemo_prefect.cli")
    raise AttributeError(f"module 'nemo_prefect' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
