"""Who drives an experiment: this process, or a detached runner that takes over.

Exactly one process drives an experiment at a time: it holds a lock on ``runner.lock`` in the experiment's directory.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from nemo_prefect._async import run_sync
from nemo_prefect.errors import ServerError, UsageError
from nemo_prefect.home import experiments_dir
from nemo_prefect.layout import Layout
from nemo_prefect.spec import ExperimentSpec
from nemo_prefect.states import JobState, JobStatus, overall

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun, State

    from nemo_prefect.engine import Engine
    from nemo_prefect.records import Observer
    from nemo_prefect.server import Connection

logger = logging.getLogger("nemo_prefect")

TAG = "nemo-prefect"
#: Seconds in which a second Ctrl-C means "cancel".
SECOND_CTRL_C = 3.0
#: Seconds for which a server that is away at the end is waited for.
SERVER_AWAY = 30.0
#: Seconds that a detached runner may take to own the experiment.
RUNNER_TIMEOUT = 120.0


class Screen(Protocol):
    """What the session says to whoever launched the experiment."""

    def on_link(self, link: str) -> None:
        """The page of the run."""

    def on_interrupt(self) -> None:
        """The first Ctrl-C was seen."""

    def on_cancel(self) -> None:
        """The second one was seen."""


@dataclass(frozen=True)
class Outcome:
    """How an experiment ended, job by job; `released` where it goes on without this process."""

    states: dict[str, JobState]
    released: bool = False
    cancelled: bool = False

    @property
    def status(self) -> JobStatus:
        """The state of the whole experiment."""
        status = overall(self.states.values())
        return JobStatus.CANCELLED if self.cancelled and status is JobStatus.SUCCEEDED else status


def run_attached(
    spec: ExperimentSpec,
    connection: Connection,
    *,
    observer: Observer | None = None,
    screen: Screen | None = None,
    rerun_failed: bool = False,
    on_ready: Callable[[], None] | None = None,
) -> Outcome:
    """Drive the experiment in this process until it ends, or until this process is asked to end.

    Args:
        spec: the experiment; its directory is written.
        connection: the server, to which Prefect's client points already.
        observer: who is told what happens to jobs.
        screen: who is told the rest.
        rerun_failed: begin a new attempt at jobs that failed earlier.
        on_ready: called once this process owns the experiment.

    Raises:
        UsageError: another process drives it.
    """
    from prefect.exceptions import TerminationSignal

    from nemo_prefect import _prefect

    layout = Layout(spec.directory)
    engines: list[Engine] = []
    with lock(layout), _prefect.quiet_console():
        try:
            run_sync(_run(spec, layout, connection, engines, observer, screen, rerun_failed, on_ready))
        except BaseException as error:
            if not engines or not engines[0].released:
                raise
            if not isinstance(error, (_prefect.Abort, KeyboardInterrupt, TerminationSignal)):
                logger.exception("The experiment is handed over after an error.")
        engine = engines[0]
        states = {job_id: record.state for job_id, record in engine.records.items()}
        if not engine.released:
            layout.done_file.touch(mode=0o600)
        return Outcome(states, released=engine.released, cancelled=engine.cancelled)


async def _run(
    spec: ExperimentSpec,
    layout: Layout,
    connection: Connection,
    engines: list[Engine],
    observer: Observer | None,
    screen: Screen | None,
    rerun_failed: bool,
    on_ready: Callable[[], None] | None,
) -> None:
    import httpx
    from prefect.flow_engine import run_flow_async

    from nemo_prefect import _prefect
    from nemo_prefect.compiler import compile_flow, summary
    from nemo_prefect.engine import Engine

    engine = Engine(spec, observer, rerun_failed=rerun_failed, keep_jobs=True)
    engines.append(engine)
    flow = compile_flow(spec, engine)
    parameters = {"experiment": summary(spec)}
    async with _prefect.one_client() as client:
        try:
            flow_run = await _flow_run(client, flow, spec, layout, parameters)
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        layout.write_run(flow_run_id=str(flow_run.id), api_url=connection.api_url)
        if screen:
            screen.on_link(connection.flow_run_link(flow_run.id))
        if on_ready:
            on_ready()
        with _interrupts(engine, screen):
            try:
                await run_flow_async(flow, flow_run=flow_run, parameters=parameters, return_type="state")
            except httpx.HTTPError as error:
                if engine.final is None:
                    _prefect.discard_unsent()
                    raise _unreachable(error) from error
                await _tell_at_last(client, flow_run.id, engine.final)


def _unreachable(error: Exception) -> ServerError:
    return ServerError(
        f"The Prefect server does not answer as it should ({error!r}).",
        hint="Look at it with `nemo-prefect doctor`. Jobs that were started go on; resume() adopts them.",
    )


async def _tell_at_last(client: PrefectClient, flow_run_id: UUID, final: State[Any]) -> None:
    """Put the final state of an experiment that has ended on a server that was away when it did. What the jobs did is known
    by now, and is what counts: where the server stays away, that is only said."""
    import httpx

    from nemo_prefect import _prefect

    deadline = time.monotonic() + SERVER_AWAY
    while True:
        try:
            await client.set_flow_run_state(flow_run_id, final, force=True)
            return
        except httpx.HTTPError as error:
            if time.monotonic() > deadline:
                logger.warning("The Prefect server was not told how the experiment ended: it does not answer (%r).", error)
                _prefect.discard_unsent()
                return
            await asyncio.sleep(1.0)


async def _flow_run(client: Any, flow: Any, spec: ExperimentSpec, layout: Layout, parameters: dict[str, Any]) -> FlowRun:
    """The experiment's flow run: the one it has, made Pending again, or a new one."""
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Pending

    known = layout.read_run().get("flow_run_id")
    if known:
        try:
            await client.set_flow_run_state(UUID(known), Pending(message="Taken up again."), force=True)
            return await client.read_flow_run(UUID(known))  # type: ignore[no-any-return]
        except ObjectNotFound:
            pass  # deleted, or another server is used now: the jobs' own records still tell what has been done
    return await client.create_flow_run(  # type: ignore[no-any-return]
        flow, name=spec.id, parameters=parameters, tags=[TAG], state=Pending()
    )


async def drive_inside(title: str, base_dir: str | None, write: Callable[[str, Layout], None]) -> State[Any]:
    """Run an experiment inside a flow run that somebody else started, as an experiment of its own.

    Its id follows from the flow run, so that a retry of the flow run goes on with the same experiment.

    Args:
        title: the experiment's title.
        base_dir: where experiments are kept, or None for ``$NEMORUN_HOME``.
        write: called with the experiment's id and its directory, to write it there, unless a try before this one did.
    """
    from prefect.context import FlowRunContext

    from nemo_prefect import _prefect
    from nemo_prefect.engine import Engine

    flow_run = FlowRunContext.get().flow_run  # type: ignore[union-attr]
    moment = flow_run.created or flow_run.expected_start_time  # type: ignore[union-attr]
    made = int(moment.timestamp() * 1e6) * 1000 if moment else time.time_ns()
    layout = _own_layout(experiments_dir(base_dir) / title, made, flow_run.id)  # type: ignore[union-attr]
    own_id = layout.root.name
    again = layout.root.exists()
    if not again:
        await asyncio.to_thread(write, own_id, layout)
    async with _prefect.one_client() as client:  # so that it is found, like any other, by its id
        tags = sorted({*flow_run.tags, TAG})  # type: ignore[union-attr]
        await client.update_flow_run(flow_run.id, name=own_id, tags=tags)  # type: ignore[union-attr]
    with lock(layout):
        layout.write_run(flow_run_id=str(flow_run.id), api_url="")  # type: ignore[union-attr]
        layout.done_file.unlink(missing_ok=True)
        # A flow run that is run again does what is left to do, as resume() does.
        state = await Engine(layout.read(), rerun_failed=again).drive()
        layout.done_file.touch(mode=0o600)
        return state


def _own_layout(titled: Path, made: int, flow_run_id: UUID) -> Layout:
    """The directory of a flow run's experiment. Two runs can have been made in one moment: another run's experiment is never
    taken for this one's, since its jobs have run, and would count as done.

    Args:
        titled: the directory of the title.
        made: when the flow run was made, in nanoseconds since 1970.
        flow_run_id: its id.
    """
    made += flow_run_id.int % 1000  # the server counts microseconds
    while (layout := Layout(titled / f"{titled.name}_{made}")).read_run().get("flow_run_id", str(flow_run_id)) != str(
        flow_run_id
    ):
        made += 1000
    return layout


@contextmanager
def _interrupts(engine: Engine, screen: Screen | None) -> Iterator[None]:
    """Ctrl-C: the first hands the experiment over after three seconds, a second one before that cancels it. A closed
    terminal hands it over at once. (TERM reaches the engine as a cancellation of its coroutine.)"""
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timers: list[asyncio.TimerHandle] = []

    def interrupt() -> None:
        if not timers:
            timers.append(loop.call_later(SECOND_CTRL_C, engine.release))
            if screen:
                screen.on_interrupt()
        elif not engine.released and not engine.cancelled:
            timers[0].cancel()
            if screen:
                screen.on_cancel()
            engine.cancel()

    before = signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, interrupt)
    loop.add_signal_handler(signal.SIGHUP, engine.release)
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        loop.remove_signal_handler(signal.SIGINT)
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGINT, before)


@contextmanager
def lock(layout: Layout) -> Iterator[None]:
    """Own the experiment.

    Raises:
        UsageError: another process owns it.
    """
    descriptor = os.open(layout.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = driver(layout) or {}
            raise UsageError(
                f"Another process drives this experiment already (process {owner.get('pid')} on {owner.get('host')}).",
                hint="Watch it with `nemo-prefect experiment status`, or cancel it.",
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        os.close(descriptor)


def driver(layout: Layout) -> dict[str, Any] | None:
    """The process that drives the experiment (``pid``, ``host``), or None where none does."""
    try:
        descriptor = os.open(layout.lock_file, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        written = os.read(descriptor, 4096)
        owner: dict[str, Any] = json.loads(written) if written else {}
        return owner
    finally:
        os.close(descriptor)
    return None


def spawn_runner(layout: Layout, *, rerun_failed: bool = False) -> None:
    """Start a detached runner for the experiment; returns once it owns it.

    Raises:
        ServerError: it does not come up; the message shows the end of its log.
    """
    log = layout.root / "runner.log"
    arguments = [
        sys.executable,
        "-m",
        "nemo_prefect.runner",
        str(layout.root),
        *(["--rerun-failed"] if rerun_failed else []),
    ]
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as out:
        process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, start_new_session=True
        )
    process.stdin.close()  # type: ignore[union-attr]
    timer = threading.Timer(RUNNER_TIMEOUT, process.kill)
    timer.start()
    try:
        ready = process.stdout.readline()  # type: ignore[union-attr]
    finally:
        timer.cancel()
        process.stdout.close()  # type: ignore[union-attr]
    if ready.strip() != b"ready":
        process.wait()
        said = log.read_text(errors="replace").strip().splitlines()[-8:]
        raise ServerError(
            "The detached runner did not come up:\n  " + "\n  ".join(said),
            hint=f"Its log is {log}. Jobs that were started go on; take the experiment up again with resume().",
        )
    process.returncode = 0  # it is meant to outlive this process: no warning that it still runs
