"""Measures the figures of the README: ``make bench``. Prints ratios of wall times, medians of alternating runs.

It makes two environments of its own (this package without anything else; NeMo-Run), with bytecode compiled, below
``.venv/bench``, and a Prefect home of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / ".venv" / "bench"
NEMO_RUN = ["nemo_run==0.11.1", "leptonai==0.26.7"]

EXPERIMENT = """
import {module} as run
if __name__ == "__main__":
    with run.Experiment("bench", executor=run.LocalExecutor()) as exp:
        exp.add(run.Script(inline="echo hello"), name="hello")
        exp.run()
"""

STOCK = """
from prefect import flow, task
@task
def hello():
    print("hello")
@flow
def bench():
    hello()
bench()
"""


def environment(name: str, packages: list[str]) -> Path:
    """A virtual environment with `packages`, compiled; its Python."""
    python = ENVIRONMENTS / name / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENTS / name], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], check=True)
    subprocess.run([python, "-m", "compileall", "-q", ENVIRONMENTS / name / "lib"], check=False, stdout=subprocess.DEVNULL)
    return python


class Bench:
    """The two sides, each with its files and its homes in `work`."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.ours = environment("nemo-prefect", [str(ROOT)])
        self.theirs = environment("nemo-run", NEMO_RUN)
        (work / "ours.py").write_text(EXPERIMENT.format(module="nemo_prefect"))
        (work / "theirs.py").write_text(EXPERIMENT.format(module="nemo_run"))
        (work / "stock.py").write_text(STOCK)

    def time(self, python: Path, *arguments: str, home: str = "home") -> float:
        """Seconds of one process, from start to exit."""
        unwanted = ("PREFECT", "NEMO", "PYTHONDONTWRITEBYTECODE")
        env = {k: v for k, v in os.environ.items() if not k.startswith(unwanted)}
        # Prefect's temporary server cannot make a home whose parent does not exist.
        (self.work / home / "prefect").mkdir(parents=True, exist_ok=True)
        env |= {
            "PREFECT_HOME": str(self.work / home / "prefect"),
            "NEMORUN_HOME": str(self.work / home / "nemo"),
            "PATH": f"{python.parent}{os.pathsep}{env['PATH']}",
        }
        began = time.perf_counter()
        done = subprocess.run([python, *arguments], cwd=self.work, env=env, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(f"{python} {' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}")
        return seconds

    def fresh(self, file: str) -> float:
        """Seconds of one process with homes that do not exist yet. A server that it left running is stopped."""
        shutil.rmtree(self.work / "fresh", ignore_errors=True)
        seconds = self.time(self.ours, file, home="fresh")
        self.time(self.ours, "-m", "nemo_prefect", "server", "stop", home="fresh")
        return seconds


def ratio(a: Callable[[], float], b: Callable[[], float], rounds: int) -> dict[str, float]:
    """The ratio of the medians of `a` and `b`, run alternately."""
    pairs = [(a(), b()) for _ in range(rounds)]
    left, right = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    return {"ratio": round(left / right, 3), "seconds": round(left, 3), "other": round(right, 3), "rounds": rounds}


def main() -> None:
    """Measure all, and print a line each; as JSON with ``--json``."""
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory))
        bench.time(bench.ours, "ours.py")
        bench.time(bench.theirs, "theirs.py")
        try:
            importing = lambda python, name: lambda: bench.time(python, "-c", f"import {name}")  # noqa: E731
            ours = lambda: bench.time(bench.ours, "ours.py")  # noqa: E731
            results["import, to nemo_run's"] = ratio(
                importing(bench.ours, "nemo_prefect"), importing(bench.theirs, "nemo_run"), 9
            )
            results["cold process, to NeMo-Run"] = ratio(ours, lambda: bench.time(bench.theirs, "theirs.py"), 9)
            results["cold process, to a stock flow"] = ratio(
                ours, lambda: bench.time(bench.ours, "stock.py", home="stock"), 5
            )
        finally:
            bench.time(bench.ours, "-m", "nemo_prefect", "server", "stop")
        results["first run ever, to a stock flow's"] = ratio(
            lambda: bench.fresh("ours.py"), lambda: bench.fresh("stock.py"), 3
        )
    if "--json" in sys.argv:
        print(json.dumps(results, indent=2))
        return
    for name, r in results.items():
        print(f"{name:36} {r['ratio']:.2f}   ({r['seconds']:.2f} s to {r['other']:.2f} s, median of {r['rounds']})")


if __name__ == "__main__":
    main()
