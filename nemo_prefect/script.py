"""`Script`: a task that is a shell script or a program, from a file or inline."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_prefect.errors import ConfigError

#: Where containers see the job's directory, as in NeMo-Run.
RUNDIR_NAME = "nemo_run"
SCRIPTS_DIR = "scripts"


@dataclass
class Script:
    """A script to run as a job: a file, or text given inline.

    Args:
        path: the script's file, relative to the job's working directory or absolute.
        inline: the script's text; it wins over `path` where both are given.
        args: arguments passed to a script from a file (not to an inline one).
        env: environment variables of this task, on top of the executor's.
        entrypoint: the program that runs the script, ``bash`` by default. An empty one runs `path` by itself.
        m: run `path` as a module, ``python -m path``; only where `entrypoint` is a Python.
        metadata: free-form data kept with the task; it does not reach the job.

    Raises:
        ConfigError: neither `path` nor `inline` is given, or `m` is used with something that is not Python.
    """

    path: str = ""
    inline: str = ""
    args: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    entrypoint: str = "bash"
    m: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path and not self.inline:
            raise ConfigError("A Script needs a path or inline text.", hint="Use run.Script('train.sh') or inline='...'.")
        if self.m and "python" not in Path(self.entrypoint).name:
            raise ConfigError(
                f"Script(m=True) runs a Python module, but its entrypoint is {self.entrypoint!r}.",
                hint="Set entrypoint='python'.",
            )

    def get_name(self) -> str:
        """The default name of a job that runs this script: the file's name, or the start of the inline text."""
        if self.inline:
            return re.sub(r"[^a-zA-Z0-9]+", "_", self.inline.strip()[:10])
        return Path(self.path).name

    def to_command(
        self,
        with_entrypoint: bool = False,
        filename: str | None = None,
        is_local: bool = False,
        substitute_rundir_path: str | None = None,
    ) -> list[str]:
        """The script as the words of a shell command line, as NeMo-Run gives it. (Executors do not use it: they run
        `command`, which needs no quoting.)

        Args:
            with_entrypoint: put the entrypoint in front.
            filename: write inline text to this file (mode 755) and name it; else it becomes ``-c "<text>"``.
            is_local: name that file by its own path, not by where a container will see it.
            substitute_rundir_path: replace ``/nemo_run`` in the text by this directory (no container, no mount).
        """
        if self.inline and filename:
            text = "#!/usr/bin/bash\n" + self.inline
            if substitute_rundir_path:
                text = text.replace(f"/{RUNDIR_NAME}", substitute_rundir_path)
            file = Path(filename)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o755)
            command = [filename if is_local else f"/{RUNDIR_NAME}/{SCRIPTS_DIR}/{file.name}"]
        elif self.inline:
            escaped = self.inline.replace('"', '\\"')
            command = ["-c", f'"{escaped}"']
        else:
            command = [*(["-m"] if self.m else []), self.path, *self.args]
        return [self.entrypoint, *command] if with_entrypoint and self.entrypoint else command

    def command(self, inline_file: str) -> list[str]:
        """The argument vector that runs this script; `inline_file` is where its inline text was written to."""
        entrypoint = [self.entrypoint] if self.entrypoint else []
        if self.inline:
            return [*entrypoint, inline_file]
        return [*entrypoint, *(["-m"] if self.m else []), self.path, *self.args]

    def to_config(self) -> Any:
        """This script as a Fiddle ``Config``."""
        from nemo_prefect.config import to_config

        return to_config(self)
