"""The conformance suite: what every executor must do, whatever it runs jobs on.

A package that brings an executor subclasses it in its tests::

    class TestMine(ConformanceSuite):
        @pytest.fixture
        def executor(self):
            return MyExecutor()
"""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path
from typing import Any

from nemo_prefect.executors.base import Executor, JobRequest
from nemo_prefect.executors.registry import executor_class, executor_from_spec, executor_to_spec
from nemo_prefect.jobs import task_to_spec
from nemo_prefect.layout import Layout
from nemo_prefect.refs import JobRef, submission_key
from nemo_prefect.script import Script
from nemo_prefect.shell import join
from nemo_prefect.spec import ExperimentSpec, JobSpec
from nemo_prefect.states import Cause, JobState, JobStatus


def check(claim: bool, otherwise: object) -> None:
    """Fail the test, saying what was seen, unless `claim` holds."""
    if not claim:
        raise AssertionError(otherwise)


class ConformanceSuite:
    """Tests of one executor. Subclasses bring a fixture ``executor``; all run real jobs.

    Attributes:
        timeout: seconds that a trivial job may take from launch to end.
    """

    timeout: float = 60.0

    # What tests share ------------------------------------------------------------------------------------------------

    def request_for(self, executor: Executor, script: Script, tmp_path: Path, attempt: int = 1) -> JobRequest:
        """A request to run `script`, with its experiment written below `tmp_path`."""
        exp_id = f"conformance_{uuid.uuid4().hex[:8]}"
        job = JobSpec(id="job", name="job", tasks=(task_to_spec(script),), executors=(executor_to_spec(executor),))
        spec = ExperimentSpec(
            id=exp_id, title="conformance", directory=str(tmp_path / exp_id), cwd=str(tmp_path), jobs=(job,)
        )
        layout = Layout(spec.directory)
        layout.write(spec)
        request = layout.request(spec, job, "job", range(1), attempt)
        (request.directory / "artifacts").mkdir(parents=True)
        check(request.key == submission_key(exp_id, "job", attempt), request.key)
        return request

    async def wait(self, executor: Executor, ref: JobRef, *statuses: JobStatus) -> JobState:
        """Poll until the job is in one of `statuses` (by default: has ended)."""
        deadline = time.monotonic() + self.timeout
        while True:
            state = (await executor.poll([ref]))[ref]
            if state.status in statuses or (not statuses and state.status.is_terminal):
                return state
            check(time.monotonic() < deadline, f"still {state.describe()} after {self.timeout} s")
            await asyncio.sleep(0.05)

    async def output(self, executor: Executor, ref: JobRef) -> list[str]:
        """All that the job wrote to stdout."""
        return [line.text async for line in executor.logs(ref, follow=True) if line.stream == "stdout"]

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine to its end."""
        return asyncio.run(coroutine)

    # The contract ----------------------------------------------------------------------------------------------------

    def test_is_registered_under_its_name(self, executor: Executor) -> None:
        check(executor_class(executor.executor_name) is type(executor), executor.executor_name)

    def test_survives_json(self, executor: Executor) -> None:
        executor.env_vars["ODD"] = "a \"b\" 'c' $d\n\té"
        again = executor_from_spec(
            type(executor_to_spec(executor)).model_validate_json(executor_to_spec(executor).model_dump_json())
        )
        check(again.model_dump() == executor.model_dump(), again)

    def test_a_clone_is_independent(self, executor: Executor) -> None:
        executor.clone().env_vars["ONLY_IN_CLONE"] = "1"
        check("ONLY_IN_CLONE" not in executor.env_vars, executor.env_vars)

    def test_rendering_touches_nothing(self, executor: Executor, tmp_path: Path) -> None:
        request = self.request_for(executor, Script(inline="true"), tmp_path)
        before, files = executor.model_dump(), sorted(tmp_path.rglob("*"))
        check(str(executor.render(request)) == str(executor.render(request)), "two renderings differ")
        check(executor.model_dump() == before and sorted(tmp_path.rglob("*")) == files, "rendering changed something")

    def test_success(self, executor: Executor, tmp_path: Path) -> None:
        async def story() -> None:
            ref = await executor.launch(self.request_for(executor, Script(inline="echo out; echo err >&2"), tmp_path))
            state = await self.wait(executor, ref)
            check((state.status, state.exit_code) == (JobStatus.SUCCEEDED, 0), state)
            check("out" in await self.output(executor, ref), "its output is missing")

        self.run(story())

    def test_exit_code(self, executor: Executor, tmp_path: Path) -> None:
        async def story() -> None:
            ref = await executor.launch(self.request_for(executor, Script(inline="exit 7"), tmp_path))
            state = await self.wait(executor, ref)
            check((state.status, state.exit_code) == (JobStatus.FAILED, 7), state)

        self.run(story())

    def test_a_program_that_does_not_exist_fails(self, executor: Executor, tmp_path: Path) -> None:
        async def story() -> None:
            ref = await executor.launch(
                self.request_for(executor, Script(inline="x", entrypoint="/no/such/program"), tmp_path)
            )
            state = await self.wait(executor, ref)
            check(state.status is JobStatus.FAILED, state)

        self.run(story())

    def test_environment_and_odd_values_arrive_unchanged(self, executor: Executor, tmp_path: Path) -> None:
        odd = 'it\'s "quoted" $HOME `date` \\ * é\nsecond line'

        async def story() -> None:
            executor.env_vars["FROM_EXECUTOR"] = odd
            show = 'printf "%s\\n" "$FROM_EXECUTOR" "$FROM_TASK" "$NEMO_PREFECT_JOB_ID"'
            ref = await executor.launch(self.request_for(executor, Script(inline=show, env={"FROM_TASK": odd}), tmp_path))
            check((await self.wait(executor, ref)).status is JobStatus.SUCCEEDED, "it failed")
            check(await self.output(executor, ref) == [*odd.split("\n"), *odd.split("\n"), "job"], "values changed")

        self.run(story())

    def test_a_second_launch_of_the_same_key_runs_the_task_once(self, executor: Executor, tmp_path: Path) -> None:
        async def story() -> None:
            marks = tmp_path / "marks"
            request = self.request_for(executor, Script(inline=f"echo run >> {join([str(marks)])}; sleep 1"), tmp_path)
            first = await executor.launch(request)
            second = await executor.launch(request)
            await self.wait(executor, first)
            await self.wait(executor, second)
            check(marks.read_text() == "run\n", marks.read_text())

        self.run(story())

    def test_find_gives_what_launch_left_and_nothing_else(self, executor: Executor, tmp_path: Path) -> None:
        async def story() -> None:
            request = self.request_for(executor, Script(inline="true"), tmp_path)
            check(await executor.find(request) is None, "found before it was launched")
            ref = await executor.launch(request)
            check(await executor.find(request) == ref, "not found while it runs")
            await self.wait(executor, ref)
            check(await executor.find(request) == ref, "not found after it ended")

        self.run(story())

    def test_cancel_ends_the_whole_job(self, executor: Executor, tmp_path: Path) -> None:
        async def story() -> None:
            beat = tmp_path / "beat"
            stubborn = f"trap '' TERM; while true; do date +%s%N > {join([str(beat)])}; sleep 0.1; done"
            request = self.request_for(
                executor, Script(inline=f"({stubborn}) & setsid bash -c {join([stubborn])}"), tmp_path
            )
            ref = await executor.launch(request)
            await self.wait(executor, ref, JobStatus.RUNNING)
            while not beat.exists():
                await asyncio.sleep(0.05)
            await executor.cancel([ref])
            state = await self.wait(executor, ref)
            check((state.status, state.cause) == (JobStatus.CANCELLED, Cause.CANCELLED), state)
            last = beat.read_text()
            await asyncio.sleep(0.5)
            check(beat.read_text() == last, "something of it still runs")
            await executor.cancel([ref])  # once more does nothing
            check((await executor.poll([ref]))[ref] == state, "the second cancel changed its state")

        self.run(story())

    def test_logs_can_be_read_from_an_offset(self, executor: Executor, tmp_path: Path) -> None:
        async def story() -> None:
            ref = await executor.launch(self.request_for(executor, Script(inline="seq 1 5"), tmp_path))
            await self.wait(executor, ref)
            lines = [line async for line in executor.logs(ref) if line.stream == "stdout"]
            check([line.text for line in lines] == ["1", "2", "3", "4", "5"], lines)
            rest = [line.text async for line in executor.logs(ref, offsets={"stdout": lines[2].offset})]
            check(rest == ["4", "5"], rest)

        self.run(story())

    def test_an_answer_covers_all_jobs_asked_for(self, executor: Executor, tmp_path: Path) -> None:
        async def story() -> None:
            refs = [
                await executor.launch(self.request_for(executor, Script(inline=f"exit {code}"), tmp_path)) for code in (0, 3)
            ]
            for ref in refs:
                await self.wait(executor, ref)
            states = await executor.poll(refs)
            check([states[ref].exit_code for ref in refs] == [0, 3], states)

        self.run(story())
