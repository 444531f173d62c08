"""Files of jobs: to the cluster before they start, and back while they run, where it does not see our directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_prefect.errors import ExecutorError, SubmissionError, UnreachableError
from nemo_prefect.executors.base import JobRequest
from nemo_prefect.exit_record import FILE
from nemo_prefect.logs import STREAMS
from nemo_prefect.refs import JobRef
from nemo_prefect.transport import Tunnel
from nemo_prefect.transport.base import READ_LIMIT

_brought: set[tuple[str, str]] = set()
#: Of an experiment's directory, what is of no use to its jobs.
_STAYS = ("/*/attempt-*", "/*/*/attempt-*", "/ledger.jsonl", "/run.json", "/runner.*", "/_[A-Z]*")
#: A file in the attempt's directory here: the job had ended, and its artifacts were brought.
_COMPLETE = ".fetched"


async def bring(
    tunnel: Tunnel, request: JobRequest, there: JobRequest, files: Mapping[str, str], folders: Sequence[str]
) -> None:
    """Put a job's scripts where its batch host reads them, with everything else that it needs.

    Args:
        tunnel: the way to the cluster.
        request: the job.
        there: the job as it reads on the cluster.
        files: texts by their names in the attempt's directory.
        folders: directories to make there.

    Raises:
        SubmissionError: they could not be written.
    """
    try:
        for folder in folders:
            (request.directory / folder).mkdir(parents=True, exist_ok=True)
        request.directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            _write(request.directory / name, text)
    except OSError as error:
        raise SubmissionError(f"The job's scripts could not be written: {error}.", transient=True) from error
    if there.directory == request.directory:
        return
    try:
        place = (tunnel.key, str(there.experiment_dir))
        if place not in _brought:
            await tunnel.upload(request.experiment_dir, str(there.experiment_dir), exclude=_STAYS)
            _brought.add(place)
        await tunnel.upload(request.directory, str(there.directory), exclude=("*.log", "*.json", "lock"))
    except UnreachableError:
        raise
    except ExecutorError as error:
        raise SubmissionError(error.message, hint=error.hint, transient=error.transient) from error


async def put(tunnel: Tunnel, here: Path, there: str, files: Mapping[str, str]) -> None:
    """Write files into a directory of the experiment, here and on the cluster.

    Raises:
        SubmissionError: they could not be written.
    """
    try:
        here.mkdir(exist_ok=True)
        for name, text in files.items():
            _write(here / name, text)
            if there != str(here):
                await tunnel.write_file(f"{there}/{name}", text.encode(), 0o600)
    except OSError as error:
        raise SubmissionError(f"The job's scripts could not be written: {error}.", transient=True) from error
    except UnreachableError:
        raise
    except ExecutorError as error:
        raise SubmissionError(error.message, hint=error.hint, transient=error.transient) from error


def _write(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)


async def fetch(tunnel: Tunnel, ref: JobRef) -> None:
    """Bring what the job wrote since the last time."""
    remote = ref.details["remote"]
    if tunnel.is_local and remote == ref.directory:
        return
    names = [f"{part}{stream}.log" for part in ["", *(f"{p}/" for p in ref.details["parts"])] for stream in STREAMS]
    while True:
        sizes = {name: _size(Path(ref.directory, name)) for name in names}
        found = await tunnel.read_many({f"{remote}/{name}": size for name, size in sizes.items()})
        grown = {name: data for name in names if (data := found.get(f"{remote}/{name}"))}
        for name, data in grown.items():
            _append(Path(ref.directory, name), sizes[name], data)
        if all(len(data) < READ_LIMIT for data in grown.values()):  # (what is written meanwhile comes next time)
            break
    ends = [f"{part}{FILE}" for part in ["", *(f"{p}/" for p in ref.details["parts"])]]
    missing = [name for name in ends if not Path(ref.directory, name).exists()]
    records = await tunnel.read_many({f"{remote}/{name}": 0 for name in missing}) if missing else {}
    for name in missing:
        if data := records.get(f"{remote}/{name}"):
            place = Path(ref.directory, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = place.with_name(f".{FILE}.fetched")
            temporary.write_bytes(data)
            temporary.replace(place)
    complete = Path(ref.directory, _COMPLETE)
    own = [f"{index}/{FILE}" for index in ref.details["array"]] or [FILE]
    if not complete.exists() and all(Path(ref.directory, name).exists() for name in own):
        await tunnel.download(f"{remote}/artifacts", Path(ref.directory, "artifacts"))
        complete.touch()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _append(path: Path, offset: int, data: bytes) -> None:
    """Add what comes after `offset`, unless somebody else has done so meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as out:
        fcntl.flock(out, fcntl.LOCK_EX)
        if os.fstat(out.fileno()).st_size == offset:
            out.write(data)
