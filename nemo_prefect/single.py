"""The directory of a job that belongs to no experiment: that of an experiment with one job."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nemo_prefect.home import experiments_dir
from nemo_prefect.jobs import Job, check_task, job_to_spec, task_name
from nemo_prefect.layout import Layout, units_of
from nemo_prefect.shell import check_name, slug
from nemo_prefect.spec import ExperimentSpec

if TYPE_CHECKING:
    from nemo_prefect.executors.base import Executor, JobRequest


def one_job(executor: Executor, task: Any, name: str, cwd: str) -> JobRequest:
    """Write down `task` as a job on `executor`, and return what the executor is to be asked for.

    Raises:
        ConfigError: it is no task, or one that the executor could never run.
    """
    job_id = check_name("name of a job", name or slug(task_name(check_task(task))))
    exp_id = f"{job_id}_{time.time_ns()}"
    directory = experiments_dir(None) / job_id / exp_id
    own = executor.clone()
    own.assign(exp_id, str(directory), job_id, job_id)
    job = job_to_spec(Job(job_id, task, own))
    own.check_task(job.tasks[0])
    spec = ExperimentSpec(id=exp_id, title=job_id, directory=str(directory), cwd=cwd, jobs=(job,), created=time.time())
    layout = Layout(directory)
    layout.write(spec)
    ((unit, members),) = units_of(job).items()
    return layout.request(spec, job, unit, members, 1)
