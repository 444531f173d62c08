"""Train in containers: make a data set, train on it with several learning rates at once, compare.

Run it with ``python flows/docker_training.py [IMAGE]`` where a Docker engine runs. Any image with Python will do; the
default is ``python:3.11-slim``. The image needs nothing else: not this package, not Prefect.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
from pathlib import Path

import nemo_prefect as run


def prepare(out: str, points: int = 2000, seed: int = 0) -> None:
    """Write points of two overlapping classes, a quarter of them to test on."""
    draw = random.Random(seed)
    rows = []
    for _ in range(points):
        label = draw.random() < 0.5
        centre = 1.0 if label else -1.0
        rows.append([draw.gauss(centre, 1.0), draw.gauss(-centre, 1.5), int(label)])
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps({"train": rows[points // 4 :], "test": rows[: points // 4]}))
    print(f"{points} points in {out}")


def predict(weights: list[float], x: float, y: float) -> float:
    """The probability of the second class."""
    return 1.0 / (1.0 + math.exp(-(weights[0] * x + weights[1] * y + weights[2])))


def train(data: str, out: str, lr: float, epochs: int = 5) -> None:
    """Logistic regression by stochastic gradient descent; writes how it did on the test set."""
    sets = json.loads(Path(data).read_text())
    weights = [0.0, 0.0, 0.0]
    for epoch in range(1, epochs + 1):
        loss = 0.0
        for x, y, label in sets["train"]:
            error = predict(weights, x, y) - label
            loss += error * error
            weights = [w - lr * error * v for w, v in zip(weights, (x, y, 1.0))]  # noqa: B905 - Python 3.8 has no strict
        print(f"epoch {epoch}: squared error {loss / len(sets['train']):.4f}", flush=True)
    right = sum((predict(weights, x, y) > 0.5) == bool(label) for x, y, label in sets["test"])
    Path(out).write_text(json.dumps({"lr": lr, "accuracy": round(right / len(sets["test"]), 4)}))


def compare(results: list[str]) -> None:
    """Put the results side by side, best first; the table appears on the run's page."""
    rows = sorted((json.loads(Path(file).read_text()) for file in results), key=lambda row: -row["accuracy"])
    Path(os.environ["NEMO_PREFECT_ARTIFACTS"], "results.json").write_text(json.dumps(rows))
    print("best:", rows[0])


def main() -> None:
    """Describe the experiment and run it."""
    image = sys.argv[1] if len(sys.argv) > 1 else "python:3.11-slim"
    executor = run.DockerExecutor(container_image=image, memory="256m", cpus=1, retries=1)
    with run.Experiment("docker-training", executor=executor) as exp:
        work = exp.directory / "work"  # containers see the experiment's directory under its own path
        data = str(work / "points.json")
        first = exp.add(run.Partial(prepare, out=data), name="prepare")
        rates = (0.3, 0.01, 0.0001)
        results = [str(work / f"lr-{lr}.json") for lr in rates]
        models = [
            exp.add(run.Partial(train, data=data, out=out, lr=lr), name=f"train-{lr}", dependencies=[first])
            for lr, out in zip(rates, results, strict=True)
        ]
        exp.add(run.Partial(compare, results=results), name="compare", dependencies=models, tail_logs=True)
        exp.run()


if __name__ == "__main__":
    main()
