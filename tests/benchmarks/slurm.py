"""Measures submission and draining on the Slurm cluster at hand: ``python tests/benchmarks/slurm.py``.

Fifty jobs of ``true`` in one experiment, to the same under NeMo-Run and to a loop of ``sbatch`` that waits until the queue
is empty, each measured inside its process after the import, alternately; with ``--sweep`` also 1,000 points as one array.
Needs an account ``research`` (or ``SLURM_ACCOUNT``). ``NEMO_RUN_PYTHON`` names an interpreter that has NeMo-Run; without it
that side is left out.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ACCOUNT = os.environ.get("SLURM_ACCOUNT", "research")
JOBS, ROUNDS, POINTS = 50, 3, 1000

OURS = """
import json, resource, sys, time
import nemo_prefect as run
from nemo_prefect.executors.slurm import executor as module
run.Experiment, run.Script, run.SlurmExecutor

if __name__ == "__main__":
    count, how = int(sys.argv[1]), sys.argv[2]
    began = time.perf_counter()
    with run.Experiment("bench", executor=run.SlurmExecutor(account={account!r}, submit_as=how)) as exp:
        for n in range(count):
            exp.add(run.Script(inline="true"), name=f"job-{{n}}")
        exp.run()
    seconds = time.perf_counter() - began
    cluster = module._clusters["local"]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT", json.dumps({{"seconds": seconds, "queries": cluster.queries, "MB": memory}}))
"""

THEIRS = """
import json, sys, time
import nemo_run as run

if __name__ == "__main__":
    began = time.perf_counter()
    executor = run.SlurmExecutor(account={account!r}, tunnel=run.LocalTunnel(job_dir=sys.argv[2]), packager=run.Packager())
    with run.Experiment("bench", executor=executor) as exp:
        for n in range(int(sys.argv[1])):
            exp.add(run.Script(inline="true"), name=f"job-{{n}}")
        exp.run()
    print("RESULT", json.dumps({{"seconds": time.perf_counter() - began}}))
"""

BARE = """
import json, subprocess, sys, time

began = time.perf_counter()
for n in range(int(sys.argv[1])):
    subprocess.run(["sbatch", "--parsable", "-A", {account!r}, "-J", "bare", "-o", "/dev/null", "--wrap", "srun true"],
                   check=True, stdout=subprocess.DEVNULL)
while subprocess.run(["squeue", "--me", "-h", "-n", "bare"], check=True, capture_output=True).stdout:
    time.sleep(0.2)
print("RESULT", json.dumps({{"seconds": time.perf_counter() - began}}))
"""


def measure(python: str, source: str, *arguments: str, work: Path) -> dict[str, float]:
    """Run a program and give what it printed after RESULT."""
    file = work / "program.py"
    file.write_text(source.format(account=ACCOUNT))
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "NEMO"))}
    env |= {"PREFECT_HOME": str(work / "prefect"), "NEMORUN_HOME": str(work / "nemo")}
    env["PATH"] = f"{Path(python).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run([python, str(file), *arguments], cwd=work, env=env, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if done.returncode or not lines:
        raise SystemExit(f"{python} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    result: dict[str, float] = json.loads(lines[-1].removeprefix("RESULT"))
    return result


def main() -> None:
    """Measure all, and print a line each."""
    theirs = os.environ.get("NEMO_RUN_PYTHON", "")
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        try:
            measure(sys.executable, OURS, "1", "jobs", work=work)  # starts the server
            rounds = []
            for _ in range(ROUNDS):
                each = {
                    "jobs": measure(sys.executable, OURS, str(JOBS), "jobs", work=work)["seconds"],
                    "array": measure(sys.executable, OURS, str(JOBS), "array", work=work)["seconds"],
                    "sbatch": measure(sys.executable, BARE, str(JOBS), work=work)["seconds"],
                }
                if theirs:
                    each["NeMo-Run"] = measure(theirs, THEIRS, str(JOBS), str(work / "nemo" / "experiments"), work=work)[
                        "seconds"
                    ]
                rounds.append(each)
            medians = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
            for name, seconds in medians.items():
                print(f"{JOBS} jobs, {name:10} {seconds:7.2f} s, median of {ROUNDS}")
            for other in list(medians)[2:]:
                print(f"to {other}: {medians['jobs'] / medians[other]:.2f} as jobs", end=", ")
                print(f"{medians['array'] / medians[other]:.2f} as an array")
            if "--sweep" in sys.argv:
                sweep = measure(sys.executable, OURS, str(POINTS), "array", work=work)
                print(f"{POINTS} points as an array: {sweep['seconds']:.0f} s", end=", ")
                print(f"{sweep['queries']:.0f} queries, {sweep['MB']:.0f} MB")
        finally:
            env = {**os.environ, "PREFECT_HOME": str(work / "prefect")}
            subprocess.run([sys.executable, "-m", "nemo_prefect", "server", "stop"], env=env, check=False)


if __name__ == "__main__":
    main()
