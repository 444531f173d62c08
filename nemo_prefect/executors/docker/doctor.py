"""What the engine at hand is like and has: ``nemo-prefect doctor docker``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from nemo_prefect.doctor import Finding
from nemo_prefect.errors import ConfigError, ExecutorError
from nemo_prefect.executors.docker.client import address, connect, talking
from nemo_prefect.executors.docker.plan import KEY_LABEL


def examine() -> Iterator[Finding]:
    """Look at the engine that ``DOCKER_HOST`` names."""
    try:
        with closing(connect(None)) as client, talking("The engine cannot be asked about itself"):
            info: dict[str, Any] = client.info()
            ours = client.api.containers(all=True, filters={"label": [KEY_LABEL]})
    except (ConfigError, ExecutorError) as error:
        yield Finding("error", "engine", error.message, error.hint)
        return
    yield from report(info, ours)


def report(info: dict[str, Any], ours: list[dict[str, Any]]) -> Iterator[Finding]:
    """What the engine's answers mean for jobs.

    Args:
        info: what the engine says of itself.
        ours: the containers of jobs that are on it.
    """
    memory = f"{info['MemTotal'] / (1 << 30):.1f} GiB"
    yield Finding("ok", "engine", f"{info['ServerVersion']} at {address(None)}: {info['NCPU']} CPUs, {memory}.")
    if not info.get("MemoryLimit"):
        yield Finding("warning", "memory", "The engine cannot limit memory.", "Its machine's kernel has to: see its manual.")
    if "nvidia" in info.get("Runtimes", {}):
        yield Finding("ok", "GPUs", "The engine has NVIDIA's runtime.")
    else:
        hint = "For num_gpus, install NVIDIA's container toolkit on its machine."
        yield Finding("ok", "GPUs", f"The engine has no runtime of NVIDIA's. {hint}")
    if info.get("LiveRestoreEnabled"):
        yield Finding("ok", "restarts", "Jobs outlive a restart of the engine.")
    else:
        hint = "Set live-restore in its daemon.json to keep them."
        yield Finding("warning", "restarts", "A restart of the engine ends the jobs on it.", hint)
    running = sum(1 for c in ours if c["State"] == "running")
    said = f"{running} of our containers run, {len(ours) - running} wait for their experiment to be resumed or looked at."
    yield Finding("ok", "containers", said if ours else "None of ours are on it.")
