"""One experiment over four executors: prepared on this machine, split on Slurm, trained in Docker, evaluated on Kubernetes.

Run it with ``python flows/multi_executor_dag.py`` where all three are up and see the directory that the jobs hand their
files on in: the experiment's own by default, or ``--storage DIRECTORY`` on a file system that they share. The images need
Python and nothing else. The UI shows one graph.

    numbers (local) -> split (Slurm) -> train-0, train-1 (Docker) -> evaluate (Kubernetes) -> report (local)
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
from pathlib import Path

import nemo_prefect as run


def trail(storage: str, stage: str) -> None:
    """Note that a stage ran, and on which machine, for the report."""
    with open(os.path.join(storage, "trail.jsonl"), "a") as out:
        out.write(json.dumps({"stage": stage, "host": socket.gethostname()}) + "\n")


def numbers(storage: str, count: int = 1000) -> None:
    """Make points near the line y = 2 x + 1."""
    draw = random.Random(0)
    points = [(x := draw.uniform(-1, 1), 2 * x + 1 + draw.gauss(0, 0.1)) for _ in range(count)]
    Path(storage, "points.json").write_text(json.dumps(points))
    trail(storage, "numbers")


def split(storage: str, folds: int = 2) -> None:
    """Deal the points into folds to train on, and some to test on."""
    points = json.loads(Path(storage, "points.json").read_text())
    parts = [points[i :: folds + 1] for i in range(folds + 1)]
    for fold, part in enumerate(parts[:-1]):
        Path(storage, f"fold-{fold}.json").write_text(json.dumps(part))
    Path(storage, "test.json").write_text(json.dumps(parts[-1]))
    trail(storage, "split")


def train(storage: str, fold: int) -> None:
    """Fit a line to one fold by least squares."""
    points = json.loads(Path(storage, f"fold-{fold}.json").read_text())
    mean_x, mean_y = (sum(p[i] for p in points) / len(points) for i in (0, 1))
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    Path(storage, f"model-{fold}.json").write_text(json.dumps([slope, mean_y - slope * mean_x]))
    print(f"fold {fold}: y = {slope:.3f} x + {mean_y - slope * mean_x:.3f}")
    trail(storage, f"train-{fold}")


def evaluate(storage: str, folds: int = 2) -> None:
    """How far off the averaged model is on points that no fold had; the table appears on the run's page."""
    models = [json.loads(Path(storage, f"model-{fold}.json").read_text()) for fold in range(folds)]
    slope, bias = (sum(m[i] for m in models) / folds for i in (0, 1))
    points = json.loads(Path(storage, "test.json").read_text())
    error = sum((slope * x + bias - y) ** 2 for x, y in points) / len(points)
    row = {"slope": round(slope, 3), "bias": round(bias, 3), "squared error": round(error, 5)}
    Path(os.environ["NEMO_PREFECT_ARTIFACTS"], "result.json").write_text(json.dumps([row]))
    Path(storage, "result.json").write_text(json.dumps(row))
    trail(storage, "evaluate")


def report(storage: str) -> None:
    """Say what came out, and where each stage ran."""
    for line in Path(storage, "trail.jsonl").read_text().splitlines():
        print("{stage} on {host}".format(**json.loads(line)))
    print(json.loads(Path(storage, "result.json").read_text()))


def main() -> None:
    """Describe the experiment and run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", default="python:3.11-slim", help="the image of the containers and pods")
    parser.add_argument("--account", default="research", help="the Slurm account")
    parser.add_argument("--partition", default=None, help="the Slurm partition")
    parser.add_argument("--storage", default="", help="a directory that all of them see under this path")
    options = parser.parse_args()

    with run.Experiment("multi-executor") as exp:
        storage = options.storage or str(exp.directory / "storage")
        local = run.LocalExecutor()
        slurm = run.SlurmExecutor(account=options.account, partition=options.partition, time="00:05:00")
        docker = run.DockerExecutor(container_image=options.image, volumes=[f"{storage}:{storage}"])
        kubernetes = run.KubernetesExecutor(
            image=options.image,
            volumes=[{"name": "storage", "hostPath": {"path": storage, "type": "Directory"}}],
            volume_mounts=[{"name": "storage", "mountPath": storage}],
        )
        make = run.Script(inline=f'mkdir -p "{storage}"')
        folder = exp.add(make, local, name="storage")
        first = exp.add(run.Partial(numbers, storage=storage), local, name="numbers", dependencies=[folder])
        parts = exp.add(run.Partial(split, storage=storage), slurm, name="split", dependencies=[first])
        models = [
            exp.add(run.Partial(train, storage=storage, fold=fold), docker, name=f"train-{fold}", dependencies=[parts])
            for fold in (0, 1)
        ]
        tested = exp.add(run.Partial(evaluate, storage=storage), kubernetes, name="evaluate", dependencies=models)
        exp.add(run.Partial(report, storage=storage), local, name="report", dependencies=[tested], tail_logs=True)
        exp.run()


if __name__ == "__main__":
    main()
