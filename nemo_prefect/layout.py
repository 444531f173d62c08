"""Where everything lies in an experiment's directory, and writing it there.

::

    <home>/experiments/<title>/<id>/
      _CONFIG  _TASKS  _VERSION  _DONE      the experiment and its tasks, as in NeMo-Run; _DONE when it has ended
      __main__.py                           the script that launched it
      run.json  ledger.jsonl  runner.lock   its flow run, every submission, and who drives it
      worker/                               what runs inside the jobs
      <job>/task.json  <job>/script.sh      a job's Python call or inline script
      <job>/code.tar.gz                     its code, where its executor has a packager, and where that came from
      <job>/attempt-1/                      stdout.log  stderr.log  exit.json  artifacts/
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemo_prefect import worker
from nemo_prefect.errors import ConfigError, NotFoundError
from nemo_prefect.executors.base import WORKER_DIR, JobRequest
from nemo_prefect.executors.registry import executor_class, executor_from_spec
from nemo_prefect.external_main import FILE as MAIN
from nemo_prefect.external_main import source_for
from nemo_prefect.home import remember_base_dir
from nemo_prefect.refs import submission_key
from nemo_prefect.shell import slug
from nemo_prefect.spec import ExperimentSpec, JobSpec

CONFIG, TASKS, VERSION_FILE, DONE = "_CONFIG", "_TASKS", "_VERSION", "_DONE"
CODE = "code"


class Layout:
    """The directory of one experiment."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.root = Path(directory)
        self.run_file = self.root / "run.json"
        self.lock_file = self.root / "runner.lock"
        self.done_file = self.root / DONE

    def job_dir(self, job_id: str) -> Path:
        """The directory of a job; ``group/0`` is that of a group's first member."""
        return self.root.joinpath(*(slug(part) for part in job_id.split("/")))

    def attempt_dir(self, job_id: str, attempt: int) -> Path:
        """The directory of one attempt at a job."""
        return self.job_dir(job_id) / f"attempt-{attempt}"

    def request(self, spec: ExperimentSpec, job: JobSpec, unit: str, members: range, attempt: int) -> JobRequest:
        """What an executor is asked for.

        Args:
            spec: the experiment.
            job: the job.
            unit: the id of what is submitted: the job's own, or ``group/0`` for one member.
            members: which of the job's tasks it holds.
            attempt: 1 for the first.
        """
        tasks = tuple(job.tasks[i] for i in members)
        stems = [self.job_dir(member_id(job, i)) for i in members]
        return JobRequest(
            key=submission_key(spec.id, unit, attempt),
            experiment_id=spec.id,
            job_id=unit,
            attempt=attempt,
            tasks=tasks,
            experiment_dir=self.root,
            directory=self.attempt_dir(unit, attempt),
            cwd=spec.cwd,
            scripts=tuple(str(s / "script.sh") if t.script.get("inline") else "" for t, s in zip(tasks, stems, strict=True)),
            payloads=tuple(str(s / "task.json") if t.payload else "" for t, s in zip(tasks, stems, strict=True)),
            archives=tuple(
                str(s / f"{CODE}.tar.gz") if job.executor_of(i).packs else "" for i, s in zip(members, stems, strict=True)
            ),
            executors=tuple(executor_from_spec(job.executor_of(i)) for i in members),
        )

    def write(self, spec: ExperimentSpec) -> None:
        """Write the experiment; it is there whole or not at all.

        Raises:
            ConfigError: there is an experiment of that id already, or the directory cannot be written to.
            PackagingError: a job's code cannot be packed.
        """
        self._put(spec, lambda staging: staging._write(spec))

    def write_copy(self, spec: ExperimentSpec, stored: Layout) -> None:
        """Write `spec`, a run of the experiment that is stored in `stored`: with its code and its launching script as they
        were then, and the tasks as `spec` has them. It is there whole or not at all.

        Raises:
            ConfigError: as in `write`.
            NotFoundError: there is nothing stored.
        """
        before = stored.read()
        self._put(spec, lambda staging: staging._copy(spec, stored, before))

    def _put(self, spec: ExperimentSpec, write: Callable[[Layout], None]) -> None:
        staging = Layout(self.root.parent / f".{self.root.name}.{os.getpid()}.tmp")
        try:
            staging.root.mkdir(parents=True, mode=0o700)
            try:
                write(staging)
                os.rename(staging.root, self.root)
                remember_base_dir(self.root.parents[2])
            except BaseException:
                shutil.rmtree(staging.root, ignore_errors=True)
                raise
        except OSError as error:
            if self.root.exists():
                raise ConfigError(f"There is an experiment {spec.id} already.", hint="Leave out its id.") from error
            raise ConfigError(
                f"The experiment cannot be written to {self.root.parent}: {error.strerror or error}.",
                hint="Set NEMORUN_HOME (or base_dir) to a directory on a disk with room that you may write to.",
            ) from error

    def _write(self, spec: ExperimentSpec) -> None:
        from nemo_prefect import __version__

        shutil.copytree(
            Path(worker.__file__).parent,
            self.root / WORKER_DIR,
            ignore=shutil.ignore_patterns("__pycache__", "__init__.py"),
        )
        _private(self.root / CONFIG, spec.model_dump_json(indent=1))
        _private(self.root / TASKS, _tasks(spec))
        _private(self.root / VERSION_FILE, __version__ + "\n")
        payloads = json.dumps([task.payload for job in spec.jobs for task in job.tasks])
        if (main := source_for(payloads)) is not None:
            _private(self.root / MAIN, main)
        for job in spec.jobs:
            for index, task in enumerate(job.tasks):
                directory = self.job_dir(member_id(job, index))
                directory.mkdir(parents=True, exist_ok=True)
                if task.payload:
                    where = {"main": os.path.relpath(self.root / MAIN, directory), "sys_path": import_path()}
                    _private(directory / "task.json", json.dumps({**task.payload, **where}))
                executor = job.executor_of(index)
                if executor.packs:
                    executor_from_spec(executor).packager.package(Path(spec.cwd), str(directory), CODE)
                if inline := task.script.get("inline"):
                    _inline(directory, inline)

    def _copy(self, spec: ExperimentSpec, stored: Layout, before: ExperimentSpec) -> None:
        shutil.copytree(stored.root, self.root, dirs_exist_ok=True, symlinks=True)
        _private(self.root / CONFIG, spec.model_dump_json(indent=1))
        _private(self.root / TASKS, _tasks(spec))
        for job, old in zip(spec.jobs, before.jobs, strict=True):
            for index, (task, old_task) in enumerate(zip(job.tasks, old.tasks, strict=True)):
                if task == old_task:
                    continue
                directory = self.job_dir(member_id(job, index))
                if task.payload:
                    kept = json.loads((directory / "task.json").read_text())
                    where = {name: kept[name] for name in ("main", "sys_path") if name in kept}
                    _private(directory / "task.json", json.dumps({**task.payload, **where}))
                if inline := task.script.get("inline"):
                    _inline(directory, inline)

    def read(self) -> ExperimentSpec:
        """The experiment as `write` wrote it.

        Raises:
            NotFoundError: there is none, or it was written by a newer version.
        """
        try:
            return ExperimentSpec.model_validate_json((self.root / CONFIG).read_text())
        except FileNotFoundError as error:
            raise NotFoundError(f"There is no experiment in {self.root}.", hint="Check its id and NEMORUN_HOME.") from error
        except ValueError as error:
            raise NotFoundError(
                f"The experiment in {self.root} cannot be read by this version.", hint="Update nemo-prefect."
            ) from error

    def read_run(self) -> dict[str, Any]:
        """What `write_run` wrote, or nothing."""
        try:
            data: dict[str, Any] = json.loads(self.run_file.read_text())
        except FileNotFoundError:
            return {}
        return data

    def write_run(self, **data: Any) -> None:
        """Note the experiment's flow run."""
        temporary = self.run_file.with_suffix(f".{os.getpid()}.tmp")
        _private(temporary, json.dumps(data))
        temporary.replace(self.run_file)


def member_id(job: JobSpec, index: int) -> str:
    """The id of one of a group's members; of a single job its own."""
    return f"{job.id}/{index}" if job.group else job.id


def units_of(job: JobSpec) -> dict[str, range]:
    """What is submitted for a job, by id, with which of its tasks each holds: the job itself, or each member of a group
    whose executor takes them one by one."""
    if not job.group or executor_class(job.executors[0].name).supports_groups:
        return {job.id: range(len(job.tasks))}
    return {member_id(job, i): range(i, i + 1) for i in range(len(job.tasks))}


def import_path() -> list[str]:
    """The directories from which this program imports its own modules: what the installation brings is left out."""
    installed = (sys.prefix, sys.base_prefix)
    return [os.path.abspath(p) for p in sys.path if not os.path.abspath(p).startswith(installed)]


def _tasks(spec: ExperimentSpec) -> str:
    return json.dumps({job.id: [t.config or t.script for t in job.tasks] for job in spec.jobs})


def _inline(directory: Path, text: str) -> None:
    shebang = "" if text.startswith("#!") else "#!/usr/bin/env bash\n"
    _private(directory / "script.sh", shebang + text + "\n", mode=0o700)


def _private(path: Path, text: str, mode: int = 0o600) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as out:
        out.write(text)
