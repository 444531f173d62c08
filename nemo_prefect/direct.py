"""Running a task in this process: ``direct=True``, for debugging."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

from nemo_prefect.errors import ExperimentFailed, FailedJob
from nemo_prefect.script import Script

if TYPE_CHECKING:
    from nemo_prefect.executors.base import Executor


class _Tee(io.TextIOBase):
    def __init__(self, *outs: IO[str]) -> None:
        self._outs = outs

    def write(self, text: str) -> int:
        for out in self._outs:
            out.write(text)
        return len(text)

    def flush(self) -> None:
        for out in self._outs:
            if not out.closed:  # the collector flushes it once more, after the file was closed
                out.flush()


def run_directly(task: Any, executor: Executor | None = None, log: Path | None = None) -> None:
    """Run a Partial or Script here and now; what it raises is raised.

    Args:
        task: the task.
        executor: only its environment variables count.
        log: a file that its output goes to as well.

    Raises:
        ExperimentFailed: a script ended with another exit code than 0.
    """
    env = dict(executor.env_vars) if executor is not None else {}
    with contextlib.ExitStack() as stack:
        out: TextIO | Any = sys.stdout
        if log is not None:
            out = _Tee(sys.stdout, stack.enter_context(log.open("a")))
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(_Tee(sys.stderr, *out._outs[1:])))
        if isinstance(task, Script):
            _run_script(task, {**os.environ, **env, **task.env}, out)
            return
        import fiddle

        before = dict(os.environ)
        os.environ.update(env)
        try:
            fiddle.build(task)()
        finally:
            os.environ.clear()
            os.environ.update(before)


def _run_script(script: Script, env: dict[str, str], out: Any) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "script.sh"
        file.write_text(script.inline)
        file.chmod(0o700)
        command = script.command(str(file))
        with subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            for line in process.stdout or ():
                out.write(line)
    if process.returncode:
        name = script.get_name()
        raise ExperimentFailed(name, [FailedJob(name, f"FAILED (exit code {process.returncode})")])
