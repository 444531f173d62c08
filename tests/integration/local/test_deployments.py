"""Experiments that run themselves: deployments, schedules, overrides, work pools, cancelling from the server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import AwaitingRetry, Cancelling

import nemo_prefect as run
from nemo_prefect._async import run_sync
from nemo_prefect.errors import ConfigError, NotFoundError
from nemo_prefect.server import Record, connected

ROOT = Path(__file__).parents[3]
#: States of runs that are more than planned.
BEGUN = [state for state in StateType if state is not StateType.SCHEDULED]
PREFECT = [sys.executable, "-m", "prefect"]

SWEEP = """
from __future__ import annotations
import time
import nemo_prefect as run

def train(lr: float, seed: int = 0) -> None:
    print(f"train lr={lr} seed={seed}")

def forever(mark: str) -> None:
    while True:
        open(mark, "w").write(str(time.time()))
        time.sleep(0.1)

@run.flow(name="deployed-sweep")
def sweep(exp: run.Experiment, lr: float = 3e-4, seeds: list[int] = [0, 1]):
    data = exp.add(run.Script(inline="echo prepared"), name="prepare")
    for seed in seeds:
        exp.add(run.Partial(train, lr=lr, seed=seed), name=f"train-{seed}", dependencies=[data])

@run.flow(name="deployed-forever")
def endless(exp: run.Experiment, mark: str):
    exp.add(run.Partial(forever, mark=mark), name="forever")

@run.flow(name="deployed-flaky")
def flaky(exp: run.Experiment, tries: str):
    first = exp.add(run.Script(inline=f"echo first >> {tries}"), name="first")
    exp.add(
        run.Script(inline=f"echo second >> {tries}; [ $(grep -c second {tries}) -ge 2 ]"),
        name="second",
        dependencies=[first],
    )

@run.flow(name="deployed-by-slug", executor="local-executor/deployed-test")
def by_slug(exp: run.Experiment):
    exp.add(run.Script(inline="echo level $LEVEL"), name="show")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, server: Record) -> Iterator[Path]:
    """A directory with the sweep in it, a process worker at work, and Prefect's commands pointed at the server."""
    place = tmp_path_factory.mktemp("deployed")
    (place / "my_sweep.py").write_text(SWEEP)
    sys.path.insert(0, str(place))
    with (place / "worker.log").open("w") as log:
        worker = subprocess.Popen(
            [*PREFECT, "worker", "start", "--pool", "local", "--type", "process"],
            cwd=place,
            env=environment(server),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    yield place
    worker.terminate()
    try:
        worker.wait(90)
    except subprocess.TimeoutExpired:  # it waits for what it started
        worker.kill()
        worker.wait()
    sys.path.remove(str(place))


def environment(server: Record) -> dict[str, str]:
    return {**os.environ, "PREFECT_API_URL": server.api_url, "PREFECT_API_AUTH_STRING": server.auth}


def prefect(server: Record, *arguments: str, check: bool = True, cwd: Path | None = None, **more: str) -> str:
    done = subprocess.run(
        [*PREFECT, *arguments], env={**environment(server), **more}, capture_output=True, text=True, cwd=cwd, timeout=120
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        assert done.returncode != 0, done.stdout
    return " ".join((done.stdout + done.stderr).split())


def runs_of(flow: str) -> list[FlowRun]:
    async def read() -> list[FlowRun]:
        async with get_client() as client:
            return await client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
                # Of a schedule the server holds a hundred runs ahead: those would fill the page.
                flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=BEGUN))),
                limit=50,
            )

    with connected():
        return run_sync(read())


def wait(what: Callable[[], Any], place: Path, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (seen := what()):
        assert time.monotonic() < deadline, (place / "worker.log").read_text()
        time.sleep(0.5)
    return seen


def ended(flow: str, count: int = 1) -> Callable[[], list[FlowRun]]:
    def look() -> list[FlowRun]:
        done = [r for r in runs_of(flow) if r.state is not None and r.state.is_final()]
        return done if len(done) >= count else []

    return look


def output(title: str, job: str) -> str:
    return log_of(run.Experiment.from_title(title), job)


def log_of(exp: run.Experiment, job: str) -> str:
    return (exp.directory / job / "attempt-1/stdout.log").read_text()


def test_a_deployment_run_with_parameters_and_overrides(place: Path, server: Record) -> None:
    from my_sweep import sweep  # type: ignore[import-not-found]

    sweep.deploy("nightly", cron="0 3 * * *", tags=["nightly"])
    prefect(server, "deployment", "run", "deployed-sweep/nightly", "-p", "lr=0.25",
            "-p", 'overrides={"train-1.seed": 7}')  # fmt: skip
    (flow_run,) = wait(ended("deployed-sweep"), place)
    assert flow_run.state.name == "Completed", flow_run.state
    assert flow_run.parameters["lr"] == 0.25
    (exp_id,) = run.Experiment.catalog("deployed-sweep")
    assert flow_run.name == exp_id
    assert "train lr=0.25 seed=0" in output("deployed-sweep", "train-0")
    assert "train lr=0.25 seed=7" in output("deployed-sweep", "train-1")


def test_an_unknown_override_fails_before_any_job_and_names_the_nearest(place: Path, server: Record) -> None:
    from my_sweep import sweep

    with pytest.raises(ValueError, match=r"Did you mean 'train-0\.seed'"):
        sweep.experiment(overrides={"train-0.sed": 1})
    sweep.deploy("typo")
    before = len(run.Experiment.catalog("deployed-sweep"))
    known = {r.id for r in runs_of("deployed-sweep")}
    prefect(server, "deployment", "run", "deployed-sweep/typo", "-p", 'overrides={"train-0.sed": 1}')
    (flow_run,) = wait(lambda: [r for r in ended("deployed-sweep")() if r.id not in known], place)
    assert flow_run.state.type.value == "FAILED"
    assert "Did you mean 'train-0.seed'" in (flow_run.state.message or "")
    assert len(run.Experiment.catalog("deployed-sweep")) == before


def test_a_deployed_experiment_is_run_with_overrides_that_the_server_checks(place: Path, server: Record) -> None:
    from my_sweep import train

    with run.Experiment("deployed-plain") as exp:
        exp.add(run.Partial(train, lr=0.1), name="work")
    exp.deploy("on-demand")
    refused = prefect(
        server, "deployment", "run", "deployed-plain/on-demand", "-p", 'overrides={"work.lr": "abc"}', check=False
    )
    assert "'abc' is not of type 'number'" in refused
    refused = prefect(
        server, "deployment", "run", "deployed-plain/on-demand", "-p", 'overrides={"work.lrr": 1}', check=False
    )
    assert "work.lrr" in refused
    assert runs_of("deployed-plain") == []
    for lr in ("9.5", "2.5"):
        prefect(server, "deployment", "run", "deployed-plain/on-demand", "-p", f'overrides={{"work.lr": {lr}}}')
    assert {r.state_name for r in wait(ended("deployed-plain", 2), place)} == {"Completed"}
    ids = run.Experiment.catalog("deployed-plain")
    assert len(set(ids)) == 2
    seen = [log_of(run.Experiment.from_id(exp_id), "work") for exp_id in ids]
    assert "lr=9.5" in "".join(seen)
    assert "lr=2.5" in "".join(seen)


def test_a_schedule_fires_by_itself(place: Path) -> None:
    with run.Experiment("deployed-often") as exp:
        exp.add(run.Script(inline="echo on schedule"), name="job")
    exp.deploy("often", interval=20)  # not so often that runs start faster than a busy machine ends them
    wait(ended("deployed-often", 2), place, 180)
    ids = run.Experiment.catalog("deployed-often")
    assert len(set(ids)) >= 2
    exp.deploy("often", interval=20, paused=True)


def test_a_run_cancelled_on_the_server_ends_its_job(place: Path, server: Record, tmp_path: Path) -> None:
    from my_sweep import endless

    endless.deploy("now")
    mark = tmp_path / "mark"
    prefect(server, "deployment", "run", "deployed-forever/now", "-p", f"mark={mark}")
    wait(mark.exists, place)
    (flow_run,) = runs_of("deployed-forever")

    async def cancel() -> None:
        async with get_client() as client:
            await client.set_flow_run_state(flow_run.id, Cancelling())

    with connected():
        run_sync(cancel())
    asked = time.time()
    wait(lambda: time.time() - float(mark.read_text() or asked) > 1.5, place, 60)
    (flow_run,) = wait(ended("deployed-forever"), place)
    assert flow_run.state.type.value == "CANCELLED"
    assert float(mark.read_text()) - asked < 10


def test_a_run_that_is_retried_on_the_server_runs_what_had_failed(place: Path, server: Record, tmp_path: Path) -> None:
    from my_sweep import flaky

    flaky.deploy("now")
    tries = tmp_path / "tries"
    prefect(server, "deployment", "run", "deployed-flaky/now", "-p", f"tries={tries}")
    (failed,) = wait(ended("deployed-flaky"), place)
    assert failed.state.type.value == "FAILED", failed.state

    async def retry() -> None:
        async with get_client() as client:
            await client.set_flow_run_state(failed.id, AwaitingRetry(), force=True)

    with connected():
        run_sync(retry())
    (done,) = wait(lambda: [r for r in runs_of("deployed-flaky") if r.state_name == "Completed"], place)
    assert (done.id, done.name) == (failed.id, failed.name)
    assert tries.read_text().split() == ["first", "second", "second"]
    assert run.Experiment.catalog("deployed-flaky") == [done.name]


def test_an_operator_changes_an_executor_without_touching_code(place: Path, server: Record) -> None:
    from my_sweep import by_slug

    with pytest.raises(NotFoundError, match="local-executor/deployed-test"):
        by_slug.deploy("slug")
    for count, level in enumerate(("low", "high"), 1):
        with connected():
            run.LocalExecutor(env_vars={"LEVEL": level}).save("deployed-test", overwrite=True)
        if count == 1:
            by_slug.deploy("slug")
        prefect(server, "deployment", "run", "deployed-by-slug/slug")
        wait(ended("deployed-by-slug", count), place)
        assert f"level {level}" in output("deployed-by-slug", "show")


def test_the_command_and_prefect_yaml_deploy_the_flows_of_a_checkout(place: Path, server: Record) -> None:
    command = [sys.executable, "-m", "nemo_prefect", "deploy", f"{ROOT / 'flows/nightly_sweep.py'}:nightly_sweep"]
    done = subprocess.run([*command, "--name", "by-command", "--cron", "0 3 * * *", "-p", "lr=0.2"],
                          env=environment(server), capture_output=True, text=True, timeout=120)  # fmt: skip
    assert "Deployed nightly-sweep/by-command" in done.stdout, done.stderr
    prefect(server, "--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml",
            cwd=ROOT, NEMO_PREFECT_FLOWS=str(ROOT))  # fmt: skip
    for name in ("by-command", "once"):
        prefect(server, "deployment", "run", f"nightly-sweep/{name}")
    assert {r.state_name for r in wait(ended("nightly-sweep", 2), place)} == {"Completed"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cron": "every day"}, "Invalid cron string"),
        ({"interval": -1}, "greater than 0"),
        ({"rrule": "SOMETIMES"}, "Invalid RRule"),
        ({"parameters": {"lr": "fast"}}, "lr: Input should be a valid number"),
        ({"parameters": {"lrr": 1.0}}, "no parameter lrr. It has: lr, seeds"),
        ({"work_pool_name": "nowhere"}, "no work pool 'nowhere'"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_created(place: Path, options: dict[str, Any], said: str) -> None:
    from my_sweep import sweep

    with pytest.raises(ConfigError, match=said):
        sweep.deploy("refused", **options)

    async def names() -> list[str]:
        async with get_client() as client:
            return [d.name for d in await client.read_deployments()]

    with connected():
        assert "refused" not in run_sync(names())


def test_a_block_that_is_missing_or_of_another_type_is_refused() -> None:
    with run.Experiment("slugs") as exp, pytest.raises(NotFoundError, match="local-executor/nowhere"):
        exp.add(run.Script(inline="true"), executor="local-executor/nowhere")
    from prefect.blocks.system import Secret

    with connected():
        Secret(value="x").save("not-an-executor", overwrite=True)
    with run.Experiment("slugs") as exp, pytest.raises(ConfigError, match="no executor"):
        exp.add(run.Script(inline="true"), executor="secret/not-an-executor")


def test_a_flow_called_in_python_runs_here() -> None:
    from my_sweep import sweep

    exp = sweep(seeds=[3])
    assert {k: v["status"] for k, v in exp.status(return_dict=True).items()} == {
        "prepare": "SUCCEEDED",
        "train-3": "SUCCEEDED",
    }
    with pytest.raises(Exception, match="lr"):
        sweep(lr="fast")
