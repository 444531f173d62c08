"""A sweep: one base config, a job for each combination, and one job that compares what came out.

Run it with ``python flows/sweep.py``.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nemo_prefect as run


def train(out: str, lr: float = 0.1, momentum: float = 0.0, steps: int = 20) -> None:
    """Go down a parabola, and write how far from its lowest point the way ended."""
    x, speed = 10.0, 0.0
    for _ in range(steps):
        speed = momentum * speed - lr * 2 * x
        x += speed
    print(f"lr {lr}, momentum {momentum}: {abs(x):.6f}")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps({"lr": lr, "momentum": momentum, "distance": round(abs(x), 6)}))


# What a job writes into $NEMO_PREFECT_ARTIFACTS appears on the run's page: a list of objects as a table.
COMPARE = """
import json, os, pathlib
rows = [json.loads(path.read_text()) for path in pathlib.Path(os.environ["WORK"]).glob("*.json")]
rows.sort(key=lambda row: row["distance"])
pathlib.Path(os.environ["NEMO_PREFECT_ARTIFACTS"], "sweep.json").write_text(json.dumps(rows))
print("best:", rows[0])
"""


def main() -> None:
    """Describe the sweep and run it."""
    with run.Experiment("sweep") as exp:
        work = exp.directory / "work"
        base = run.Partial(train, out="", steps=30)
        jobs = []
        for lr, momentum in itertools.product((0.01, 0.1, 0.4), (0.0, 0.5)):
            task = base.clone()
            task.lr, task.momentum, task.out = lr, momentum, str(work / f"{lr}-{momentum}.json")
            jobs.append(exp.add(task, name=f"lr-{lr}-momentum-{momentum}"))
        compare = run.Script(inline=COMPARE, entrypoint="python", env={"WORK": str(work)})
        exp.add(compare, name="compare", dependencies=jobs, tail_logs=True)
        exp.run()


if __name__ == "__main__":
    main()
