"""What containers a job is: plain data, from which both the call that creates one and the command line shown are made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nemo_prefect.executors.base import RenderedJob
from nemo_prefect.shell import join, slug

LABEL = "nemo-prefect"
KEY_LABEL = f"{LABEL}/key"

#: Where a container finds its job's directory, as in NeMo-Run.
RUN_DIR = "/nemo_run"
CODE_DIR = f"{RUN_DIR}/code"

#: Options of `docker run` that are not the argument's own name.
_FLAGS = {
    "domainname": "domainname",
    "extra_hosts": "add-host",
    "ipc_mode": "ipc",
    "mem_limit": "memory",
    "mem_reservation": "memory-reservation",
    "mem_swappiness": "memory-swappiness",
    "memswap_limit": "memory-swap",
    "pid_mode": "pid",
    "ports": "publish",
    "sysctls": "sysctl",
    "userns_mode": "userns",
    "uts_mode": "uts",
    "working_dir": "workdir",
    "devices": "device",
    "links": "link",
    "labels": "label",
    "volumes": "volume",
}


@dataclass(frozen=True)
class Container:
    """One container: the arguments with which the Docker client creates it.

    Attributes:
        name: its name; it holds the submission's key, so that the engine refuses a second one.
        image: its image.
        command: the argument vector.
        env: the environment.
        options: further arguments of the client's ``containers.create``.
        folders: directories that have to exist before it starts.
    """

    name: str
    image: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    folders: tuple[str, ...] = ()

    def arguments(self) -> dict[str, Any]:
        """All arguments of the client's ``containers.create``."""
        return {
            "name": self.name,
            "image": self.image,
            "command": list(self.command),
            "environment": dict(self.env),
            "detach": True,
            **self.options,
        }

    def rendered(self, command: tuple[str, ...] = ("run", "--detach")) -> RenderedJob:
        """The same as a command line. Values of the environment are given apart, so that they are in no process list.

        Args:
            command: what is done with it: ``run`` it, or only ``create`` it.
        """
        argv = ["docker", *command, "--name", self.name]
        for name, value in self.options.items():
            argv += _flags(name, value)
        for name in self.env:
            argv += ["--env", name]
        return RenderedJob(argv=(*argv, self.image, *self.command), env=self.env)


@dataclass(frozen=True)
class RenderedContainers(RenderedJob):
    """A job that takes more than one command: a group, or one whose files are copied.

    Attributes:
        network: the group's private network, or "".
        copied: the directory that is copied to the engine, or "".
        members: the containers.
        names: their names.
    """

    network: str = ""
    copied: str = ""
    members: tuple[RenderedJob, ...] = ()
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"docker network create {self.network}\n"] if self.network else []
        lines += [str(self.members[0])] if len(self.members) == 1 else [f"({member})\n" for member in self.members]
        if self.copied:
            lines += [f"# {self.copied} is copied into it, and back when it has ended.\n"]
            lines += [f"docker start {join([name])}\n" for name in self.names]
        return "".join(lines)


def _flags(name: str, value: Any) -> Iterator[str]:
    """An argument of the client as options of ``docker run``."""
    if name == "networking_config":
        for endpoint in value.values():
            for alias in endpoint["Aliases"]:
                yield from ("--network-alias", alias)
    elif name == "mounts":
        for mount in value:
            words = [f"{name.lower()}={mount[name]}" for name in ("Type", "Source", "Target")]
            yield from ("--mount", ",".join([*words, "readonly"] if mount.get("ReadOnly") else words))
    elif name == "device_requests":
        for request in value:
            yield from ("--gpus", "all" if request["count"] == -1 else str(request["count"]))
    elif name == "log_config":
        yield from ("--log-driver", value["type"])
        for key, item in value.get("config", {}).items():
            yield from ("--log-opt", f"{key}={item}")
    elif name == "nano_cpus":
        yield from ("--cpus", f"{value / 1e9:g}")
    elif name == "ulimits":
        for limit in value:
            yield from ("--ulimit", f"{limit['name']}={limit['soft']}:{limit['hard']}")
    elif name == "healthcheck":
        yield from _health(value)
    else:
        flag = "--" + _FLAGS.get(name, name.replace("_", "-"))
        if value is True:
            yield flag
        elif isinstance(value, Mapping):
            separator = ":" if name in ("extra_hosts", "ports", "tmpfs") else "="
            for key, item in value.items():
                yield from (flag, f"{key}{separator}{item}")
        elif isinstance(value, (list, tuple)):
            for item in value:
                yield from (flag, str(item))
        elif value is not None and value is not False:
            yield from (flag, str(value))


def _health(check: Mapping[str, Any]) -> Iterator[str]:
    test = check.get("test")
    if test:
        command = test if isinstance(test, str) else " ".join(test[1:] if test[0] in ("CMD", "CMD-SHELL") else test)
        yield from ("--health-cmd", command)
    for name in ("interval", "timeout", "start_period"):
        if check.get(name):
            yield from (f"--health-{name.replace('_', '-')}", f"{check[name]}ns")
    if check.get("retries"):
        yield from ("--health-retries", str(check["retries"]))


def container_name(job_id: str, key: str) -> str:
    """The name of a job's container, the start of that of a group's members, and the name of a group's network."""
    return f"nemo-{slug(job_id.replace('/', '-'), 60)}-{key}"


def host_name(job_id: str, member: int) -> str:
    """The name by which a group's members know each other."""
    name = re.sub(r"[^a-z0-9-]+", "-", job_id.lower()).strip("-")[:50].strip("-")
    return f"{name or 'member'}-{member}"
