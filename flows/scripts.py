"""Shell scripts as jobs: inline ones, files with arguments, another interpreter, and an order between them.

Run it with ``python flows/scripts.py``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nemo_prefect as run

COUNT = """#!/usr/bin/env bash
for word in "$@"; do echo "$word has ${#word} letters"; done
"""

SUMMARY = """
import os, pathlib
lines = pathlib.Path(os.environ["WORK"], "counts.txt").read_text().splitlines()
print(len(lines), "words counted")
"""


def main() -> None:
    """Count the letters of some words, then summarise."""
    with tempfile.TemporaryDirectory() as directory, run.Experiment("scripts") as exp:
        work = Path(directory)
        file = work / "count.sh"
        file.write_text(COUNT)

        hello = exp.add(
            run.Script(inline='echo "hello from $WHERE"'), run.LocalExecutor(env_vars={"WHERE": "a job"}), name="hello"
        )
        count = exp.add(run.Script(str(file), args=["node", "two words"]), name="count", dependencies=[hello])
        keep = run.Script(inline=f"bash {file} alpha beta > {work}/counts.txt")
        kept = exp.add(keep, name="keep", dependencies=[count])
        summary = run.Script(inline=SUMMARY, entrypoint="python", env={"WORK": directory})
        exp.add(summary, name="summary", dependencies=[kept])
        exp.run(tail_logs=True)


if __name__ == "__main__":
    main()
