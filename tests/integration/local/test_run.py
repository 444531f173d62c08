"""Experiments through the public API, on this machine, with a real server."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterTaskRunId
from prefect.client.schemas.sorting import LogSort, TaskRunSort

import nemo_prefect as run
from nemo_prefect.errors import ExperimentFailed
from nemo_prefect.server import connected

pytestmark = pytest.mark.usefixtures("server", "home")


def on_server(exp: run.Experiment, settle: float = 10.0) -> dict[str, Any]:
    """The experiment's flow run, task runs, graph and logs, once the server has them all."""

    async def read() -> dict[str, Any]:
        async with get_client() as client:
            flow_run_id = exp._history().flow_run_id
            flow_run = await client.read_flow_run(flow_run_id)  # type: ignore[arg-type]
            runs = await client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id])), sort=TaskRunSort.NAME_ASC, limit=200
            )
            graph = (await client._client.get(f"/flow_runs/{flow_run_id}/graph-v2")).json()
            logs = {}
            for task_run in runs:
                where = LogFilter(task_run_id=LogFilterTaskRunId(any_=[task_run.id]))
                logs[task_run.name] = [
                    log.message
                    for offset in (0, 200)
                    for log in await client.read_logs(where, limit=200, offset=offset, sort=LogSort.TIMESTAMP_ASC)
                ]
            return {"flow_run": flow_run, "runs": {r.name: r for r in runs}, "graph": graph, "logs": logs}

    with connected():
        deadline = time.monotonic() + settle
        while True:
            seen = asyncio.run(read())
            # Task runs and logs reach the server in batches, a second or two after they happen.
            settled = all(r.state.is_final() or r.state_name == "NotReady" for r in seen["runs"].values())
            recorded = len(seen["runs"]) == len(seen["graph"]["nodes"]) == len(exp.jobs)
            if recorded and settled and all(seen["logs"].values()):
                return seen
            assert time.monotonic() < deadline, seen["runs"]
            time.sleep(0.3)


def test_jobs_run_in_order_and_the_server_shows_it() -> None:
    with run.Experiment("diamond") as exp:
        a = exp.add(run.Script(inline="echo hello from a"), name="a")
        b = exp.add(run.Script(inline="echo b"), name="b", dependencies=[a])
        c = exp.add(run.Script(inline="echo c >&2"), name="c", dependencies=[a])
        exp.add(run.Script(inline="echo d"), name="d", dependencies=[b, c])
        exp.run()
    status = exp.status(return_dict=True)
    assert status is not None
    assert {job: s["status"] for job, s in status.items()} == dict.fromkeys("abcd", "SUCCEEDED")
    assert set(status["a"]) >= {"name", "status", "executor", "job_id", "handle", "local_dir"}
    assert status["a"]["handle"].startswith("local://nemo_prefect/")

    seen = on_server(exp)
    assert seen["flow_run"].name == exp.id
    assert seen["flow_run"].state_name == "Completed"
    nodes = {node["label"]: node for _, node in seen["graph"]["nodes"]}
    ids = {node["id"]: label for label, node in nodes.items()}
    assert set(nodes) == set("abcd")
    assert {ids[p["id"]] for p in nodes["d"]["parents"]} == {"b", "c"}
    assert "hello from a" in seen["logs"]["a"]
    assert "c" in seen["logs"]["c"]


def test_a_failure_is_an_error_that_names_it() -> None:
    with run.Experiment("failing", enable_goodbye_message=False) as exp:
        bad = exp.add(run.Script(inline="echo about to break; echo why >&2; exit 3"), name="bad")
        exp.add(run.Script(inline="echo never"), name="after", dependencies=[bad])
        exp.add(run.Script(inline="sleep 0.3; echo fine"), name="beside")
        with pytest.raises(ExperimentFailed, match=r"bad: FAILED \(exit code 3\)") as caught:
            exp.run()
    assert [job.job_id for job in caught.value.jobs] == ["bad"]
    assert caught.value.jobs[0].last_lines == ("why",)
    assert isinstance(caught.value, RuntimeError)
    status = exp.status(return_dict=True)
    assert status is not None
    assert {k: v["status"] for k, v in status.items()} == {"bad": "FAILED", "after": "UNSUBMITTED", "beside": "SUCCEEDED"}
    assert status["bad"]["exit_code"] == 3
    seen = on_server(exp)
    assert seen["flow_run"].state_name == "Failed"
    assert {name: r.state_name for name, r in seen["runs"].items()} == {
        "bad": "Failed", "after": "NotReady", "beside": "Completed",
    }  # fmt: skip


def test_a_failed_experiment_is_a_failed_program(script: Any) -> None:
    done = script(
        """
        import nemo_prefect as run
        with run.Experiment("exit-code") as exp:
            exp.add(run.Script(inline="exit 5"), name="bad")
            exp.run()
        """,
        check=False,
    )
    assert done.returncode == 1
    assert "bad: FAILED (exit code 5)" in done.stderr


def test_a_dependent_starts_as_soon_as_its_own_dependencies_ended(tmp_path: Path) -> None:
    stamp = "date +%s.%N > {}"
    with run.Experiment("edges") as exp:
        quick = exp.add(run.Script(inline="true"), name="quick")
        exp.add(run.Script(inline="sleep 3; " + stamp.format(tmp_path / "slow")), name="slow")
        exp.add(run.Script(inline=stamp.format(tmp_path / "next")), name="next", dependencies=[quick])
        exp.run()
    assert float((tmp_path / "next").read_text()) < float((tmp_path / "slow").read_text()) - 1


def test_sequential(tmp_path: Path) -> None:
    with run.Experiment("sequential") as exp:
        for name in "abc":
            exp.add(run.Script(inline=f"echo {name} >> {tmp_path}/order"), name=name)
        exp.run(sequential=True)
    assert (tmp_path / "order").read_text().split() == ["a", "b", "c"]


def test_retries_are_new_attempts(tmp_path: Path) -> None:
    executor = run.LocalExecutor(retries=2)
    with run.Experiment("retries") as exp:
        flaky = f"echo try >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) = 3 ]"
        exp.add(run.Script(inline=flaky), executor, name="flaky")
        exp.run()
    assert (tmp_path / "tries").read_text().count("try") == 3
    assert sorted(p.name for p in (exp.directory / "flaky").glob("attempt-*")) == ["attempt-1", "attempt-2", "attempt-3"]


def test_retries_end(tmp_path: Path) -> None:
    with run.Experiment("retries-end") as exp:
        exp.add(run.Script(inline=f"echo try >> {tmp_path}/tries; exit 4"), run.LocalExecutor(retries=1), name="bad")
        with pytest.raises(ExperimentFailed, match="exit code 4"):
            exp.run()
    assert (tmp_path / "tries").read_text().count("try") == 2


def test_environment_and_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    executor = run.LocalExecutor(env_vars={"WHO": "executor", "ODD": 'a "b" $c'})
    with run.Experiment("env") as exp:
        exp.add(run.Script(inline='pwd > where; echo "$WHO $ODD" > env', env={"WHO": "task"}), executor, name="env")
        exp.run()
    assert (tmp_path / "where").read_text().strip() == str(tmp_path)
    assert (tmp_path / "env").read_text() == 'task a "b" $c\n'


def test_a_group_starts_and_fails_as_one() -> None:
    with run.Experiment("group") as exp:
        members = [run.Script(inline="echo zero; sleep 60"), run.Script(inline="echo one; sleep 0.5; exit 6")]
        exp.add(members, name="pair")
        began = time.monotonic()
        with pytest.raises(ExperimentFailed, match=r"pair/1: FAILED \(exit code 6\)"):
            exp.run()
    assert time.monotonic() - began < 30
    status = exp.status(return_dict=True)
    assert status is not None
    assert {k: v["status"] for k, v in status.items()} == {"pair": "FAILED", "pair/0": "CANCELLED", "pair/1": "FAILED"}
    seen = on_server(exp)
    assert set(seen["runs"]) == {"pair"}
    assert {"[0] zero", "[1] one"} <= set(seen["logs"]["pair"])


def test_logs_of_one_job_and_of_a_regex(capsys: pytest.CaptureFixture[str]) -> None:
    with run.Experiment("logs") as exp:
        exp.add(run.Script(inline="seq 1 12"), name="count")
        exp.run()
    capsys.readouterr()
    exp.logs("count", regex="1$")
    assert capsys.readouterr().err == "count/0 1\ncount/0 11\n"


def test_a_flood_of_output_reaches_the_files_whole_and_the_server_in_part() -> None:
    with run.Experiment("flood") as exp:
        exp.add(run.Script(inline="seq 1 30000"), name="flood")
        began = time.monotonic()
        exp.run()
    assert time.monotonic() - began < 60
    assert (exp.directory / "flood/attempt-1/stdout.log").read_text().split() == [str(i) for i in range(1, 30001)]
    logs = on_server(exp)["logs"]["flood"]
    assert logs[:200] == [str(i) for i in range(1, 201)]
    assert re.fullmatch(r"\d+ lines are not shown here; all are in .*/flood/attempt-1", logs[200])


def test_the_flow_of_an_experiment_is_an_experiment_each_time(home: Path) -> None:
    with run.Experiment("as-flow") as exp:
        exp.add(run.Script(inline="echo $NEMO_PREFECT_EXPERIMENT_ID"), name="who")
        flow = exp.to_flow()
    assert flow.name == "as-flow"
    with connected():
        for _ in range(2):
            assert asyncio.run(flow(return_state=True)).is_completed()
    ids = run.Experiment.catalog("as-flow")
    assert len(ids) == 2
    assert exp.id not in ids


def test_direct_runs_here(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    with run.Experiment("direct") as exp:
        exp.add(run.Script(inline="echo in this process"), name="one")
        exp.run(direct=True)
    assert "in this process" in capsys.readouterr().out
    assert "in this process" in (exp.directory / "log_one_direct_run.out").read_text()


def test_dryrun_shows_everything_and_leaves_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with run.Experiment("dry", executor=run.LocalExecutor(env_vars={"A": "it's"})) as exp:
        exp.add(run.Script(inline="echo hi", args=[]), name="first")
        exp.add(run.Script("/bin/echo", args=["a b"], entrypoint=""), name="second", dependencies=["first"])
        exp.dryrun()
        out = capsys.readouterr().out
        assert "export A='it'\"'\"'s'" in out
        assert "/bin/echo 'a b'" in out
        assert "second on Local after first" in out
        assert not list(home.rglob("*"))
        exp.run()
    assert exp.jobs["second"].state == "SUCCEEDED"


def test_reset_runs_it_again_with_edited_tasks(home: Path) -> None:
    with run.Experiment("again") as exp:
        a = exp.add(run.Script(inline="echo old"), name="a")
        exp.add(run.Script(inline="true"), name="b", dependencies=[a])
        exp.run()
    again = run.Experiment.from_id(exp.id)
    again.tasks[0].inline = "echo new"
    with again.reset():
        assert again.id != exp.id
        again.run()
    assert again.jobs["b"].dependencies == ["a"]
    assert (again.directory / "a/attempt-1/stdout.log").read_text() == "new\n"
    assert run.Experiment.catalog("again") == [exp.id, again.id]
    assert run.Experiment.from_title("again").id == again.id


DEFINES = """
import sys
import nemo_prefect as run

SCALE = 3

def scaled(n: int) -> None:
    print("scaled", SCALE * n)

with run.Experiment("unguarded") as exp:
    exp.add(run.Partial(scaled, n=2), name="scaled")
    exp.run()
"""


def test_functions_of_a_script_run_even_without_a_main_guard_and_again_after_reset(script: Any, tmp_path: Path) -> None:
    script(DEFINES)
    exp = run.Experiment.from_title("unguarded")
    assert (exp.directory / "scaled/attempt-1/stdout.log").read_text() == "scaled 6\n"
    assert run.Experiment.catalog("unguarded") == [exp.id], "a job launched the experiment again"
    exp.tasks[0].n = 5
    with exp.reset():
        exp.run()
    assert (exp.directory / "scaled/attempt-1/stdout.log").read_text() == "scaled 15\n"


def test_looking_at_an_experiment_does_not_run_its_script(script: Any, tmp_path: Path) -> None:
    script(DEFINES + f"\nopen({str(tmp_path / 'ran')!r}, 'a').write('x')\n")
    exp = run.Experiment.from_title("unguarded")
    exp.status(return_dict=True)
    exp.logs("scaled")
    assert (tmp_path / "ran").read_text() == "x"


def test_only_the_user_can_read_what_an_experiment_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with run.Experiment("private") as exp:
        exp.add(
            run.Script(inline="echo made > made; chmod 644 made"), run.LocalExecutor(env_vars={"TOKEN": "s3cret"}), name="a"
        )
        exp.run()
    assert exp.directory.stat().st_mode & 0o077 == 0
    holding = [p for p in exp.directory.rglob("*") if p.is_file() and "s3cret" in p.read_text(errors="replace")]
    assert holding
    assert not [p for p in holding if p.stat().st_mode & 0o077]
    seen = on_server(exp)
    assert "s3cret" not in str(seen["flow_run"].parameters) + str(seen["logs"]) + str(seen["graph"])


def test_many_jobs_run_side_by_side() -> None:
    with run.Experiment("many", enable_goodbye_message=False, skip_status_at_exit=True) as exp:
        first = exp.add(run.Script(inline="true"), name="first")
        middle = [exp.add(run.Script(inline="true"), name=f"job-{i}", dependencies=[first]) for i in range(60)]
        exp.add(run.Script(inline="true"), name="last", dependencies=middle)
        exp.run()
    status = exp.status(return_dict=True)
    assert status is not None
    assert {v["status"] for v in status.values()} == {"SUCCEEDED"}
    assert len(status) == 62
