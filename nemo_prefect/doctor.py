"""``nemo-prefect doctor``: is everything here that experiments need, and if not, what to do."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from nemo_prefect.errors import ConfigError, NemoPrefectError
from nemo_prefect.home import get_nemorun_home

#: File systems on which SQLite's locks do not hold.
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "lustre", "gpfs", "cifs", "smb3", "beegfs", "ceph", "fuse.sshfs", "9p", "afs"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was seen, and what to do about it."""

    level: Literal["ok", "warning", "error"]
    subject: str
    said: str
    hint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


#: Who looks at clusters, by the executor's name.
CLUSTERS = {"docker": "nemo_prefect.executors.docker.doctor", "slurm": "nemo_prefect.executors.slurm.doctor"}


def examine(cluster: str = "") -> list[Finding]:
    """Look at everything. A check that itself fails is a finding too.

    Args:
        cluster: look at the cluster of this executor (``slurm``, ``docker``) instead, as it is seen from this machine.

    Raises:
        ConfigError: nobody looks at clusters of that kind.
    """
    if cluster and cluster not in CLUSTERS:
        raise ConfigError(f"There is nothing to look at for {cluster!r}.", hint=f"There is: {', '.join(CLUSTERS)}.")
    findings: list[Finding] = []
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (_python, _packages, _home, _server, _executors)
    if cluster:
        checks = (import_module(CLUSTERS[cluster]).examine,)
    for check in checks:
        try:
            findings += check()
        except (NemoPrefectError, OSError) as error:
            hint = getattr(error, "hint", "")
            findings.append(Finding("error", check.__name__.strip("_"), getattr(error, "message", str(error)), hint))
    return findings


def _python() -> Iterator[Finding]:
    yield Finding("ok", "Python", f"{platform.python_version()} at {sys.executable}.")


def _packages() -> Iterator[Finding]:
    """What is installed against what this package asks for: a later `pip install` may have moved it."""
    try:
        required = [Requirement(r) for r in distribution("nemo-prefect").requires or []]
    except PackageNotFoundError:
        yield Finding("error", "nemo-prefect", "is not installed as a package.", "pip install nemo-prefect")
        return
    for requirement in required:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            yield Finding("error", requirement.name, "is not installed.", f"pip install '{requirement}'")
            continue
        if requirement.specifier.contains(installed, prereleases=True):
            yield Finding("ok", requirement.name, f"{installed}.")
        else:
            yield Finding("error", requirement.name, f"{installed} does not work here.", f"pip install '{requirement}'")


def _home() -> Iterator[Finding]:
    home = Path(get_nemorun_home())
    nearest = next(p for p in (home, *home.parents) if p.exists())
    if not os.access(nearest, os.W_OK):
        yield Finding("error", "home", f"{home} cannot be written to.", "Set NEMORUN_HOME to a directory of yours.")
    elif (free := shutil.disk_usage(nearest).free) < 1 << 30:
        yield Finding("warning", "home", f"{home} has {free >> 20} MiB left.", "Set NEMORUN_HOME to a disk with room.")
    else:
        yield Finding("ok", "home", f"{home}, {free >> 30} GiB free.")


def _server() -> Iterator[Finding]:
    from nemo_prefect.server import EmbeddedServer, connection

    embedded = EmbeddedServer()
    found = connection(start=False)
    if found is None:
        yield Finding("ok", "server", "The embedded server does not run; the first experiment starts it.")
    else:
        yield Finding("ok", "server", f"{found.api_url} answers.")
    kind = file_system(embedded.home)
    if (found is None or found.record is not None) and kind in NETWORK_FILE_SYSTEMS:
        yield Finding(
            "warning",
            "database",
            f"{embedded.home} lies on {kind}, where SQLite loses data.",
            "Set PREFECT_HOME to a directory on a local disk, or PREFECT_API_URL to a shared server on PostgreSQL.",
        )


def _executors() -> Iterator[Finding]:
    from nemo_prefect.executors.registry import executor_class, executor_names

    for name in executor_names():
        try:
            yield Finding("ok", f"executor {name}", f"{executor_class(name).__name__}.")
        except (NemoPrefectError, ImportError) as error:
            yield Finding("error", f"executor {name}", str(error), "Update or remove the package that brings it.")


def file_system(path: Path) -> str:
    """The type of the file system that holds `path` (``ext4``, ``nfs4``), or "" where that cannot be told."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    real = str(path.expanduser().resolve())
    below = [(m[1], m[2]) for m in mounts if real == m[1] or real.startswith(m[1].rstrip("/") + "/")]
    return max(below, key=lambda m: len(m[0]), default=("", ""))[1]
