"""The job's files: on an engine of this machine they are mounted, on another one copied in and out."""

from __future__ import annotations

import fcntl
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_prefect.executors.base import WORKER_DIR, JobRequest
from nemo_prefect.executors.docker.plan import RUN_DIR
from nemo_prefect.external_main import FILE as MAIN

if TYPE_CHECKING:
    from docker import DockerClient

#: Files of ours, which never come back from a container.
_OURS = {"stdout.log", "stderr.log", "exit.json", "logs.json", "task.json", "script.sh", "code", "code.tar.gz", "lock"}
#: Files of more bytes than this are kept on disk while they travel.
_IN_MEMORY = 16 << 20


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Be the only one, of all processes and threads, who does something about the attempt with this directory."""
    directory.mkdir(parents=True, exist_ok=True)
    file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def unpack(archive: str, directory: Path) -> None:
    """Put packed code where the job will run. It is the user's own: links that lead elsewhere are kept."""
    shutil.rmtree(directory, ignore_errors=True)  # of a launch that was interrupted
    with tarfile.open(archive) as packed:
        packed.extraction_filter = tarfile.fully_trusted_filter
        packed.extractall(directory)


def copy_in(client: DockerClient, container: str, request: JobRequest, directory: Path, code: bool) -> None:
    """Put a job's files into a container that has not been started, under the paths that they have here.

    Args:
        client: the engine's.
        container: its name.
        request: the job.
        directory: the attempt's directory, or a member's.
        code: whether `directory` holds packed code.
    """
    job_dir = request.directory.parent
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as packed:
        with tarfile.open(fileobj=packed, mode="w", dereference=False) as archive:

            def add(path: Path, only: bool = False) -> None:
                if path.exists():
                    archive.add(path, str(path).lstrip("/"), recursive=not only, filter=_readable)

            def link(path: str, target: str) -> None:
                entry = tarfile.TarInfo(path.lstrip("/"))
                entry.type, entry.linkname = tarfile.SYMTYPE, target
                archive.addfile(entry)

            for directory_only in (request.experiment_dir, job_dir):
                add(directory_only, only=True)
            add(request.experiment_dir / WORKER_DIR)
            add(request.experiment_dir / MAIN)
            for path in sorted(job_dir.rglob("*")):  # tasks and scripts, of members too; not the other attempts
                if path.parts[len(job_dir.parts)].startswith("attempt-") or path.name == "code.tar.gz":
                    continue
                add(path, only=True)
            add(request.directory, only=True)
            add(directory / "artifacts", only=True)
            if directory != request.directory:
                add(request.directory / "artifacts", only=True)
            link(RUN_DIR, str(job_dir))
            if code:
                add(directory / "code")
                link(f"{job_dir}/code", str(directory / "code"))
        packed.seek(0)
        client.api.put_archive(container, "/", packed)


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """In the container everybody may read and write them, whoever the job runs as: nobody else is there."""
    entry.mode |= 0o777 if entry.isdir() else (0o755 if entry.mode & 0o100 else 0o644)
    entry.uid = entry.gid = 0
    return entry


def copy_out(client: DockerClient, container: str, job_dir: Path) -> None:
    """Bring what the job wrote to its directory in a container that has ended; files of ours are left out."""
    chunks, _ = client.api.get_archive(container, f"{job_dir}/.")
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as packed:
        for chunk in chunks:
            packed.write(chunk)
        packed.seek(0)
        with tarfile.open(fileobj=packed) as archive:
            for entry in archive:
                parts = Path(entry.name).parts
                if not parts or _OURS & set(parts) or entry.issym() or entry.islnk():
                    continue
                try:
                    archive.extract(entry, job_dir, set_attrs=False, filter="data")
                except tarfile.FilterError:
                    continue  # a device, a path that leads elsewhere
