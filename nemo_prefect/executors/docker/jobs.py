"""Jobs on an engine: starting them once, telling how they are, ending them, bringing their output home, cleaning up.

Everything here blocks, and is safe to do twice and by several processes at once: whoever changes something holds the lock of
the attempt's directory, and whatever was interrupted is taken up by the next call. A job's containers are removed when their
output and exit records are in that directory, and never before.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_prefect.errors import ExecutorError, SubmissionError
from nemo_prefect.executors.base import JobRequest
from nemo_prefect.executors.docker import outcome
from nemo_prefect.executors.docker.client import talking
from nemo_prefect.executors.docker.files import copy_in, copy_out, locked, unpack
from nemo_prefect.executors.docker.mirror import mirror, write_json
from nemo_prefect.executors.docker.plan import KEY_LABEL, Container
from nemo_prefect.exit_record import FILE, read_exit, read_json
from nemo_prefect.refs import JobRef
from nemo_prefect.states import Cause, JobState, JobStatus

if TYPE_CHECKING:
    from docker import DockerClient

logger = logging.getLogger("nemo_prefect")

#: In an attempt's directory: its containers were started; it was asked to end; nothing of it is on the engine any more.
STARTED, ENDING, REMOVED = "started.json", "ending.json", "removed.json"
#: Exit codes of a container whose program could not be executed, or was not found.
NOT_STARTED = (126, 127)


@dataclass(frozen=True)
class Layout:
    """The containers of one job.

    Attributes:
        request: the job.
        containers: one, or one a member.
        network: the group's private network, or "".
        grouped: whether it is a group.
        shared: whether the engine mounts the files that lie here.
    """

    request: JobRequest
    containers: tuple[Container, ...]
    network: str
    grouped: bool
    shared: bool


class Jobs:
    """The jobs of one engine.

    Args:
        client: the engine's; the caller closes it.
    """

    def __init__(self, client: DockerClient) -> None:
        self.client = client

    # Starting --------------------------------------------------------------------------------------------------------

    def launch(self, layout: Layout, ref: JobRef) -> JobRef:
        """Create the containers, unless they are there, and start those that never ran.

        Raises:
            SubmissionError: the engine refuses; nothing is left of the job.
        """
        request = layout.request
        with locked(request.directory):
            if read_exit(request.directory) is not None:
                return ref
            there = [self._inspect(c.name, request.key) for c in layout.containers]
            ran = [found is not None and outcome.was_started(found) for found in there]
            if (request.directory / STARTED).exists() and None in there:
                return ref  # it ran, and is gone: starting it again would be a second run
            if not any(ran):
                self._prepare(layout)
            try:
                self._create(layout, there)
                write_json(request.directory / STARTED, {"at": time.time()})
                for container, ran_before in zip(layout.containers, ran, strict=True):
                    if not ran_before:
                        self._start(container)
            except ExecutorError as error:
                if not error.transient and not any(ran):
                    self._undo(layout)
                raise
        return ref

    def _prepare(self, layout: Layout) -> None:
        """Make the directories and unpack the code."""
        for index, container in enumerate(layout.containers):
            directory = _directory(layout.request.directory, layout.grouped, index)
            (directory / "artifacts").mkdir(parents=True, exist_ok=True)
            archive = layout.request.archives[index] if layout.request.archives else ""
            if archive:
                unpack(archive, directory / "code")
            for folder in container.folders:
                Path(folder).mkdir(parents=True, exist_ok=True)

    def _create(self, layout: Layout, there: Sequence[Mapping[str, Any] | None]) -> None:
        import docker.errors

        request = layout.request
        if layout.network and not self._networks(request.key):
            with self._refusing("The group's network cannot be created"):
                labels = {KEY_LABEL: request.key}
                self.client.networks.create(layout.network, driver="bridge", labels=labels, check_duplicate=True)
        for index, (container, found) in enumerate(zip(layout.containers, there, strict=True)):
            if found is None:
                try:
                    with self._refusing("The container cannot be created"):
                        self.client.containers.create(**container.arguments())
                except SubmissionError as error:
                    cause = error.__cause__
                    taken = isinstance(cause, docker.errors.APIError) and cause.status_code == 409
                    if not taken or self._inspect(container.name, request.key) is None:
                        raise
            if not layout.shared and (found is None or not outcome.was_started(found)):
                directory = _directory(request.directory, layout.grouped, index)
                with self._refusing("The job's files cannot be copied into the container"):
                    copy_in(self.client, container.name, request, directory, (directory / "code").is_dir())

    def _start(self, container: Container) -> None:
        """Start a container. A program that it does not have is the job's failure and not the engine's."""
        try:
            with self._refusing("The container cannot be started"):
                self.client.api.start(container.name)
        except SubmissionError:
            state = self._inspect(container.name)
            if state is None or state["State"]["ExitCode"] not in NOT_STARTED:
                raise

    def _undo(self, layout: Layout) -> None:
        """Leave nothing of a job that the engine refused."""
        with contextlib.suppress(ExecutorError):
            self._remove(layout.request.key)
            (layout.request.directory / STARTED).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _refusing(self, what: str) -> Any:
        """What the engine answers is a refusal; only where no answer came may the job have been started."""
        import docker.errors

        try:
            with talking(what):
                yield
        except ExecutorError as error:
            if isinstance(error.__cause__, docker.errors.APIError):
                raise SubmissionError(error.message, hint=_hint(error.message)) from error.__cause__
            raise
        except (TypeError, ValueError) as error:  # how the client refuses an argument
            raise SubmissionError(f"{what}: {error}") from error

    # Asking ----------------------------------------------------------------------------------------------------------

    def was_launched(self, ref: JobRef) -> bool:
        """Whether all containers of the job were started, whatever became of them."""
        directory = Path(ref.directory)
        if read_exit(directory) is not None:
            return True
        there = [self._inspect(name, ref.key) for name in ref.details["containers"]]
        if all(found is not None and (outcome.was_started(found) or _is_stillborn(found)) for found in there):
            return True
        return (directory / STARTED).exists() and None in there

    def poll(self, refs: Sequence[JobRef]) -> dict[JobRef, JobState]:
        """How the jobs are, with one query for all; what has ended is brought home and removed."""
        states = {ref: state for ref in refs if (state := read_exit(ref.directory)) is not None}
        left = [ref for ref in refs if ref not in states]
        if not left:
            return states
        with talking("The engine cannot be asked about its containers"):
            listed = self.client.api.containers(all=True, filters={"label": [KEY_LABEL]})
        by_name = {
            name.lstrip("/"): entry["State"] for entry in listed for name in entry["Names"] if entry["Labels"].get(KEY_LABEL)
        }
        for ref in left:
            states[ref] = self._state(ref, [by_name.get(name) for name in ref.details["containers"]])
        return states

    def _state(self, ref: JobRef, containers: Sequence[str | None]) -> JobState:
        """One job's state, from its containers' states (None: the container is gone)."""
        if all(c is None for c in containers):
            lost = JobState(JobStatus.UNKNOWN, Cause.LOST, message="its container is gone and left no exit record")
            return read_exit(ref.directory) or lost
        running = [c for c in containers if c in ("running", "paused", "restarting", "removing")]
        over = [c for c in containers if c in ("exited", "dead", None)]
        created = [c for c in containers if c == "created"]
        if not over and not created:
            return JobState(JobStatus.RUNNING)
        if running or created:
            with locked(Path(ref.directory)):
                self._end_rest(ref)
            if not (created and self._all_over(ref)):
                return JobState(JobStatus.RUNNING if running else JobStatus.PENDING)
        return self._finish(ref)

    def _all_over(self, ref: JobRef) -> bool:
        found = [self._inspect(name, ref.key) for name in ref.details["containers"]]
        return all(f is None or outcome.has_ended(f) or _is_stillborn(f) for f in found)

    def _finish(self, ref: JobRef) -> JobState:
        try:
            with locked(Path(ref.directory)):
                self._settle(ref)
        except ExecutorError as error:
            return JobState(JobStatus.UNKNOWN, message=f"it has ended, but {error.message}")
        return read_exit(ref.directory) or JobState(JobStatus.UNKNOWN, message="its exit record cannot be read")

    def _end_rest(self, ref: JobRef) -> None:
        """Where one member of a group failed, end the others: TERM at first, KILL once they had time."""
        directory = Path(ref.directory)
        found = [self._inspect(name, ref.key) for name in ref.details["containers"]]
        ending = read_json(directory / ENDING)
        if ending is None:
            over = {i: f for i, f in enumerate(found) if f is None or outcome.has_ended(f) or _is_stillborn(f)}
            records = {i: outcome.record(f, None) for i, f in over.items()}
            failed = {i: r for i, r in records.items() if r["exit_code"] != 0}
            if not failed:
                return
            first = min(failed, key=lambda i: failed[i].get("end") or 0.0)
            ending = {"at": time.time(), "why": f"member {first} failed", "members": _running(found)}
            write_json(directory / ENDING, ending)
            signal = "SIGTERM"
        elif time.time() - ending["at"] > ref.details["stop_timeout"]:
            signal = "SIGKILL"
        else:
            return
        for index in _running(found):
            with contextlib.suppress(ExecutorError), talking("A member cannot be ended"):
                self.client.api.kill(ref.details["containers"][index], signal)

    # Ending ----------------------------------------------------------------------------------------------------------

    def cancel(self, refs: Sequence[JobRef]) -> None:
        """End the jobs, and return once they ended."""
        mine = [ref for ref in refs if read_exit(ref.directory) is None]
        if not mine:
            return
        for ref in mine:
            with locked(Path(ref.directory)):
                found = [self._inspect(name, ref.key) for name in ref.details["containers"]]
                running = [i for i, f in enumerate(found) if f and not outcome.has_ended(f) and not _is_stillborn(f)]
                if running and not (Path(ref.directory) / ENDING).exists():
                    write_json(Path(ref.directory) / ENDING, {"at": time.time(), "why": "", "members": running})
        stops = [(ref.details["containers"][i], ref.details["stop_timeout"]) for ref in mine for i in _ending(ref)]
        with ThreadPoolExecutor(max_workers=16) as pool:
            list(pool.map(lambda stop: self._stop(*stop), stops))
        for ref in mine:
            self._finish(ref)

    def _stop(self, name: str, grace: float) -> None:
        import docker.errors

        with talking(f"The container {name} cannot be stopped"), contextlib.suppress(docker.errors.NotFound):
            self.client.api.stop(name, timeout=int(grace))

    # Bringing home ---------------------------------------------------------------------------------------------------

    def fetch(self, ref: JobRef) -> None:
        """Bring the output that the job wrote since the last time, and, once it has ended, everything else."""
        directory = Path(ref.directory)
        if (directory / REMOVED).exists():
            return
        with locked(directory):
            found = [self._inspect(name, ref.key) for name in ref.details["containers"]]
            if all(f is None or outcome.has_ended(f) or _is_stillborn(f) for f in found):
                if any(found) or read_exit(directory) is not None:
                    self._settle(ref)
                return
            for index, inspected in enumerate(found):
                if inspected is not None and outcome.was_started(inspected):
                    self._mirror(ref, index)

    def _mirror(self, ref: JobRef, index: int) -> None:
        try:
            with talking("its output cannot be read"):
                directory = _directory(Path(ref.directory), ref.details["grouped"], index)
                mirror(self.client, ref.details["containers"][index], directory)
        except ExecutorError as error:
            if "does not support reading" not in error.message:  # a log driver that was asked for: it goes elsewhere
                raise

    def _settle(self, ref: JobRef) -> None:
        """Bring home what an ended job left, write down how it ended, and remove it from the engine."""
        directory, grouped = Path(ref.directory), ref.details["grouped"]
        if not (directory / FILE).exists():
            ending = read_json(directory / ENDING) or {"why": "", "members": []}
            records = []
            for index, name in enumerate(ref.details["containers"]):
                inspected = self._settled_inspect(name, ref.key)
                if inspected is not None and outcome.was_started(inspected):
                    self._mirror(ref, index)
                    if not ref.details["shared"]:
                        self._copy_out(name, directory.parent)
                asked = ending["why"] if index in ending["members"] else None
                if inspected is not None and not outcome.has_ended(inspected) and not _is_stillborn(inspected):
                    asked = ending["why"]  # it was cancelled before it started
                record = outcome.record(inspected, _said(asked))
                record |= {"key": ref.key, "attempt": ref.details["attempt"]}
                records.append(record)
                if grouped:
                    member = _directory(directory, grouped, index)
                    member.mkdir(parents=True, exist_ok=True)
                    write_json(member / FILE, record)
                if inspected is not None and _is_stillborn(inspected):
                    _directory(directory, grouped, index).joinpath("stderr.log").write_text(record["message"] + "\n")
            write_json(directory / FILE, outcome.combined(records) if grouped else records[0])
        self._remove(ref.key)
        write_json(directory / REMOVED, {"at": time.time()})
        for index in range(len(ref.details["containers"])):
            shutil.rmtree(_directory(directory, grouped, index) / "code", ignore_errors=True)

    def _copy_out(self, name: str, job_dir: Path) -> None:
        import docker.errors

        with talking("what it wrote cannot be copied"), contextlib.suppress(docker.errors.NotFound):  # it removed all
            copy_out(self.client, name, job_dir)

    def _settled_inspect(self, name: str, key: str) -> dict[str, Any] | None:
        """What the engine says of an ended container; word that memory ran out can come a moment after its end."""
        found = self._inspect(name, key)
        killed = found is not None and found["State"]["ExitCode"] == 137 and not found["State"]["OOMKilled"]
        if killed and found and found["HostConfig"].get("Memory"):
            time.sleep(0.3)
            found = self._inspect(name, key)
        return found

    def _remove(self, key: str) -> None:
        """Remove everything that carries this key."""
        import docker.errors

        with talking("its container cannot be removed"):
            for entry in self.client.api.containers(all=True, filters={"label": [f"{KEY_LABEL}={key}"]}):
                try:
                    self.client.api.remove_container(entry["Id"], v=True, force=True)
                except docker.errors.APIError as error:
                    if error.status_code not in (404, 409):  # another process is removing it
                        raise
            for network in self._networks(key):
                with contextlib.suppress(docker.errors.NotFound):
                    self.client.api.remove_network(network)

    def _networks(self, key: str) -> list[str]:
        with talking("The engine cannot be asked about its networks"):
            return [n["Id"] for n in self.client.api.networks(filters={"label": [f"{KEY_LABEL}={key}"]})]

    def _inspect(self, name: str, key: str | None = None) -> dict[str, Any] | None:
        """What the engine says of a container of ours, or None where there is none."""
        import docker.errors

        try:
            with talking("The engine cannot be asked about a container"):
                found: dict[str, Any] = self.client.api.inspect_container(name)
        except ExecutorError as error:
            if isinstance(error.__cause__, docker.errors.NotFound):
                return None
            raise
        labels = found["Config"].get("Labels") or {}
        return found if key is None or labels.get(KEY_LABEL) == key else None


def _directory(attempt: Path, grouped: bool, index: int) -> Path:
    """Where a container's output and exit record go."""
    return attempt / str(index) if grouped else attempt


def _is_stillborn(inspected: Mapping[str, Any]) -> bool:
    """Whether its program could not be started."""
    return inspected["State"]["Status"] == "created" and inspected["State"]["ExitCode"] in NOT_STARTED


def _running(found: Sequence[Mapping[str, Any] | None]) -> list[int]:
    return [i for i, f in enumerate(found) if f is not None and f["State"]["Status"] in ("running", "paused", "restarting")]


def _ending(ref: JobRef) -> list[int]:
    """The members that were asked to end."""
    ending = read_json(Path(ref.directory) / ENDING) or {"members": []}
    return list(ending["members"])


def _said(why: str | None) -> str | None:
    return None if why is None else (f"ended because {why}" if why else "")


def _hint(said: str) -> str:
    if "could not select device driver" in said:
        return "The engine has no GPU support: install NVIDIA's container toolkit, or leave out num_gpus."
    if "non-overlapping IPv4 address pool" in said:
        return "The engine has no addresses for another network: remove unused ones, or widen default-address-pools."
    if "unknown or invalid runtime name" in said.lower() or "Unknown runtime" in said:
        return "`docker info` lists the engine's runtimes."
    return ""
