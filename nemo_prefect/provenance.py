"""Where an experiment came from: the commit and what differed from it, the interpreter, the installed packages.

Gathered once, when the experiment is first driven, and kept in its directory.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

FILE = "provenance.json"
#: Bytes of a diff that are kept.
MAX_DIFF = 200_000
#: Seconds that git may take.
GIT_TIMEOUT = 20.0


def provenance(directory: Path, cwd: str) -> dict[str, Any]:
    """The provenance of the experiment in `directory`: as it was noted there, or gathered now.

    Args:
        directory: the experiment's directory.
        cwd: where it was launched.
    """
    file = directory / FILE
    try:
        known: dict[str, Any] = json.loads(file.read_text())
        return known
    except (OSError, ValueError):
        pass
    found = {
        "git": _git(cwd),
        "cwd": cwd,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "packages": _packages(),
    }
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        json.dump(found, out)
    temporary.replace(file)
    return found


def _packages() -> dict[str, str]:
    from importlib.metadata import distributions

    found = {str(d.metadata["Name"]): d.version for d in distributions() if d.metadata["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _git(cwd: str) -> dict[str, Any]:
    """The commit, and the difference of tracked files from it; nothing outside of a repository."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", cwd or ".", *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=GIT_TIMEOUT,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
        return done.stdout[:MAX_DIFF].decode("utf-8", errors="replace")

    try:
        commit = git("rev-parse", "HEAD").strip()
        branch = git("rev-parse", "--abbrev-ref", "HEAD").strip()
        return {"commit": commit, "branch": branch, "diff": git("diff", "--no-ext-diff", "--no-color", "HEAD")}
    except (OSError, subprocess.SubprocessError):
        return {}
