from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_prefect.errors import DependencyError
from nemo_prefect.spec import ExecutorSpec, ExperimentSpec, JobSpec, TaskSpec, check_graph


def job(name: str, *dependencies: str) -> JobSpec:
    task = TaskSpec(kind="script", name=name, script={"inline": "true"})
    return JobSpec(id=name, name=name, tasks=(task,), executors=(ExecutorSpec(name="local"),), dependencies=dependencies)


def spec(*jobs: JobSpec) -> ExperimentSpec:
    return ExperimentSpec(id="t_1", title="t", directory="/d", jobs=jobs)


def test_it_round_trips_and_is_frozen() -> None:
    one = spec(job("a"), job("b", "a"))
    assert ExperimentSpec.model_validate_json(one.model_dump_json()) == one
    with pytest.raises(ValueError, match="frozen"):
        one.title = "other"  # type: ignore[misc]


def test_an_unknown_dependency_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"Dependency c not found\..*can depend on: a") as caught:
        spec(job("a"), job("b", "c"))
    assert caught.value is not None


def test_a_cycle_is_spelled_out() -> None:
    with pytest.raises(DependencyError, match="a -> c -> b -> a"):
        check_graph({"a": ["c"], "b": ["a"], "c": ["b"]})
    with pytest.raises(DependencyError, match="a -> a"):
        check_graph({"a": ["a"]})


@given(st.integers(2, 60), st.randoms(use_true_random=False))
def test_a_graph_whose_edges_point_back_is_no_cycle(size: int, random: object) -> None:
    graph = {str(i): [str(random.randrange(i)) for _ in range(3)] if i else [] for i in range(size)}  # type: ignore[attr-defined]
    check_graph(graph)
    graph["0"] = [str(size - 1)]
    reaches, frontier = set(), {str(size - 1)}
    while frontier:
        reaches |= frontier
        frontier = {d for f in frontier for d in graph[f]} - reaches
    if "0" in reaches:
        with pytest.raises(DependencyError, match="cycle"):
            check_graph(graph)


def test_a_long_chain_is_checked_quickly() -> None:
    check_graph({str(i): [str(i + 1)] if i < 5000 else [] for i in range(5001)})
