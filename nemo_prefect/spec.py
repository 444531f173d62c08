"""`ExperimentSpec`: the frozen form of an experiment, everything that running it takes.

It is plain data and round-trips through JSON, so that a detached runner, a retry and a reader on another day all see the
same experiment. Building one checks it: an unknown dependency or a cycle never gets further than here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nemo_prefect.errors import DependencyError

VERSION = 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskSpec(_Frozen):
    """One command: a script, or a Python call written down by `nemo_prefect.payload`."""

    kind: Literal["script", "partial"]
    name: str
    script: dict[str, Any] = Field(default_factory=dict, description="The fields of a Script.")
    payload: dict[str, Any] = Field(default_factory=dict, description="What the worker builds and calls.")
    config: str = Field(default="", description="The Partial in Fiddle's JSON, compressed; for reading it back.")


class ExecutorSpec(_Frozen):
    """An executor: its registered name and its fields, or the block that they came from."""

    name: str
    config: dict[str, Any] = Field(default_factory=dict)
    block: str | None = Field(default=None, description="The block's slug, such as slurm-executor/a100.")

    @property
    def packs(self) -> bool:
        """Whether the job's code is packed: whether it has another packager than the one that packs nothing."""
        return "packager" in self.config

    def unpacked(self) -> ExecutorSpec:
        """The same without its packager."""
        return self.model_copy(update={"config": {k: v for k, v in self.config.items() if k != "packager"}})


class JobSpec(_Frozen):
    """One job, or a group of them that starts and fails as one."""

    id: str
    name: str
    tasks: tuple[TaskSpec, ...]
    executors: tuple[ExecutorSpec, ...]
    dependencies: tuple[str, ...] = ()
    group: bool = False
    tail_logs: bool = False
    plugins: tuple[str, ...] = ()

    def executor_of(self, member: int) -> ExecutorSpec:
        """The executor of one of the group's members (of the job itself: member 0)."""
        return self.executors[member if len(self.executors) > 1 else 0]


class ExperimentSpec(_Frozen):
    """An experiment: its jobs, in the order in which they were added, and where it lives.

    Raises:
        DependencyError: a dependency names no job, or the dependencies form a cycle. (Pydantic passes it through.)
    """

    version: int = VERSION
    id: str
    title: str
    directory: str
    cwd: str = Field(default="", description="Where it was launched: the working directory of local jobs.")
    jobs: tuple[JobSpec, ...]
    created: float = Field(default=0.0, description="Seconds since 1970.")
    provenance: dict[str, Any] = Field(default_factory=dict)
    serialize_metadata_for_scripts: bool = True

    @model_validator(mode="after")
    def _check(self) -> ExperimentSpec:
        check_graph({job.id: job.dependencies for job in self.jobs})
        return self

    def unpacked(self) -> ExperimentSpec:
        """The same without packagers: for jobs that run where the code is."""
        jobs = [
            job.model_copy(update={"executors": tuple(executor.unpacked() for executor in job.executors)})
            for job in self.jobs
        ]
        return self.model_copy(update={"jobs": tuple(jobs)})

    def job(self, job_id: str) -> JobSpec | None:
        """The job of that id, or None."""
        return next((job for job in self.jobs if job.id == job_id), None)


def check_graph(graph: dict[str, Iterable[str]]) -> None:
    """Refuse a graph (job id to the ids that it waits for) that could never run.

    Raises:
        DependencyError: an id is unknown, or there is a cycle, which the message spells out.
    """
    for job_id, dependencies in graph.items():
        for dependency in dependencies:
            if dependency not in graph:
                raise DependencyError(
                    f"Dependency {dependency} not found.",
                    hint=f"{job_id!r} can depend on: {', '.join(k for k in graph if k != job_id) or 'no job so far'}.",
                )
    done: set[str] = set()
    for start in graph:
        path: list[str] = []
        stack = [(start, iter(graph[start]))]
        while stack:
            job_id, rest = stack[-1]
            if not path or path[-1] != job_id:
                path.append(job_id)
            following = next((d for d in rest if d not in done), None)
            if following is None:
                stack.pop()
                path.pop()
                done.add(job_id)
            elif following in path:
                cycle = " -> ".join([*path[path.index(following) :], following])
                raise DependencyError(f"The dependencies form a cycle: {cycle}.", hint="Remove one of these edges.")
            else:
                stack.append((following, iter(graph[following])))
