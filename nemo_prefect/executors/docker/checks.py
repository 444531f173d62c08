"""Refuses what an engine would refuse, when an executor is made and not when its job starts."""

from __future__ import annotations

import re
from typing import Any

from nemo_prefect.errors import ConfigError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)b?", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_ULIMIT = re.compile(r"([a-z]+):(-?\d+)(?::(-?\d+))?")
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
#: In `volumes`, the start of a path in the job's directory, as in NeMo-Run.
JOB_DIR = "/$nemo_run"
#: Arguments of the client that the executor gives itself, and what to use in their place.
_OURS = {
    "name": "Names hold the key by which a job is found again",
    "image": "Use container_image",
    "command": "It is the task's",
    "environment": "Use env_vars",
    "volumes": "Use volumes",
    "detach": "Containers always run in the background",
    "stdin_open": "Jobs have no input",
    "tty": "A terminal would mix standard output and standard error",
    "remove": "A container is removed once its logs and its exit code are safe",
    "auto_remove": "A container is removed once its logs and its exit code are safe",
    "restart_policy": "Use retries",
    "network": "Use network",
    "network_mode": "Use network",
    "networking_config": "Use network",
    "stdout": "Logs are always kept",
    "stderr": "Logs are always kept",
    "stream": "Logs are always followed",
}
#: Fields of the executor by the argument that they become.
_FIELDS = {
    "device_requests": "num_gpus",
    "healthcheck": "healthcheck",
    "ipc_mode": "ipc_mode",
    "mem_limit": "memory",
    "nano_cpus": "cpus",
    "platform": "platform",
    "privileged": "privileged",
    "runtime": "runtime",
    "shm_size": "shm_size",
    "ulimits": "ulimits",
    "user": "user",
}


def size(value: str) -> int:
    """Bytes of a size such as ``512m`` or ``1.5g``.

    Raises:
        ConfigError: it is none.
    """
    found = _SIZE.fullmatch(value.strip())
    if not found or float(found[1]) == 0:
        raise ConfigError(f"{value!r} is no size.", hint="Write a number and a unit, such as 512m or 16g.")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def ulimit(value: str) -> dict[str, Any]:
    """A ``name:soft[:hard]`` as the engine takes it.

    Raises:
        ConfigError: it is none.
    """
    found = _ULIMIT.fullmatch(value)
    if not found:
        raise ConfigError(f"{value!r} is no ulimit.", hint="Write name:soft or name:soft:hard, such as memlock:-1:-1.")
    soft, hard = int(found[2]), int(found[3] or found[2])
    if hard != -1 and not -1 < soft <= hard:
        raise ConfigError(f"The ulimit {value!r} has a soft limit over the hard one.", hint="Write name:soft:hard.")
    return {"name": found[1], "soft": soft, "hard": hard}


def volume(value: str) -> str:
    """A ``source:target[:mode]``.

    Raises:
        ConfigError: it is none, or its source or target is a relative path.
    """
    source, _, rest = value.partition(":")
    target, _, mode = rest.partition(":")
    if not source or not target or ":" in mode:
        raise ConfigError(f"{value!r} is no volume.", hint="Write /host/path:/container/path, and :ro to only read.")
    if not target.startswith("/"):
        raise ConfigError(f"The volume {value!r} has the relative target {target!r}.", hint="Give its path from / on.")
    if not source.startswith("/") and not _VOLUME_NAME.fullmatch(source):
        raise ConfigError(
            f"The volume {value!r} has the relative source {source!r}.",
            hint="Give a path from / on, or the name of a volume.",
        )
    return value


def additional(value: dict[str, Any], taken: dict[str, Any]) -> None:
    """Refuse further arguments that say the same as, or the opposite of, what the executor says.

    Args:
        value: the arguments.
        taken: the executor's fields that are set, by name.

    Raises:
        ConfigError: one of them cannot be given.
    """
    for name in value:
        if name in _OURS:
            raise ConfigError(f"additional_kwargs cannot hold {name!r}.", hint=f"{_OURS[name]}.")
        if taken.get(_FIELDS.get(name, "")):
            raise ConfigError(
                f"additional_kwargs[{name!r}] and {_FIELDS[name]} are both given.", hint="Give one of the two."
            )


def known(value: dict[str, Any]) -> None:
    """Refuse further arguments that the Docker client does not know.

    Raises:
        ConfigError: one of them is none.
    """
    from docker.models.containers import RUN_CREATE_KWARGS, RUN_HOST_CONFIG_KWARGS

    unknown = set(value) - {*RUN_CREATE_KWARGS, *RUN_HOST_CONFIG_KWARGS, "ports"}
    if unknown:
        raise ConfigError(
            f"additional_kwargs holds {', '.join(sorted(unknown))}, unknown to the Docker client.",
            hint="It takes the arguments of docker-py's containers.create.",
        )
