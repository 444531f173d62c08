"""Training on a Slurm cluster: prepare on one node, train data-parallel on two, sweep over seeds as one array, compare.

Run it on a login node: ``python flows/slurm_training.py``. ``SLURM_ACCOUNT`` and ``SLURM_PARTITION`` say what is charged
and where it runs. With PyTorch installed the training is a ``torchrun`` over two nodes; it needs no GPU and downloads
nothing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
from pathlib import Path

import nemo_prefect as run


def prepare(out: str, samples: int) -> None:
    """Write points of a noisy line, y = 3 x + 1."""
    rng = random.Random(0)
    points = [(x, 3 * x + 1 + rng.gauss(0, 0.1)) for x in (rng.uniform(-1, 1) for _ in range(samples))]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(points))
    print(f"{samples} points")


def train(data: str, out: str, steps: int = 200, lr: float = 0.1) -> None:
    """Fit the line on every rank's share of the points, with gradients averaged over all ranks."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    points = torch.tensor(json.loads(Path(data).read_text()))[rank::world]
    weights = torch.zeros(2, requires_grad=True)
    for step in range(steps):
        loss = ((points[:, 0] * weights[0] + weights[1] - points[:, 1]) ** 2).mean()
        (gradient,) = torch.autograd.grad(loss, weights)
        dist.all_reduce(gradient)
        with torch.no_grad():
            weights -= lr * gradient / world
        if rank == 0 and step % 50 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    if rank == 0:
        Path(out).write_text(json.dumps({"name": f"{world} ranks", "slope": weights[0].item(), "offset": weights[1].item()}))
    dist.destroy_process_group()


def fit(data: str, out: str, seed: int, steps: int = 2000, lr: float = 0.05) -> None:
    """Fit the line by stochastic gradient descent, in plain Python."""
    rng = random.Random(seed)
    points = json.loads(Path(data).read_text())
    slope = offset = 0.0
    for _ in range(steps):
        x, y = rng.choice(points)
        error = slope * x + offset - y
        slope, offset = slope - lr * error * x, offset - lr * error
    Path(out).write_text(json.dumps({"name": f"seed {seed}", "slope": slope, "offset": offset}))
    print(f"seed {seed}: y = {slope:.2f} x + {offset:.2f}")


def compare(work: str) -> None:
    """Publish every result as a table on the run's page."""
    rows = [json.loads(path.read_text()) for path in sorted(Path(work).glob("fit-*.json"))]
    Path(os.environ["NEMO_PREFECT_ARTIFACTS"], "fits.json").write_text(json.dumps(rows))
    for row in rows:
        print(row)


def main() -> None:
    """Describe the experiment and run it."""
    one_node = run.SlurmExecutor(
        account=os.environ.get("SLURM_ACCOUNT", "research"),
        partition=os.environ.get("SLURM_PARTITION"),
        time="00:10:00",
        retries=1,
    )
    two_nodes = one_node.clone()
    two_nodes.nodes, two_nodes.ntasks_per_node = 2, 2
    two_nodes.launcher = run.Torchrun(rdzv_port=random.SystemRandom().randint(20000, 30000))
    sweep = one_node.clone()
    sweep.submit_as = "array"

    with run.Experiment("slurm-training", executor=one_node) as exp:
        work = exp.directory / "work"
        data = str(work / "points.json")
        first = exp.add(run.Partial(prepare, out=data, samples=2000), name="prepare")
        fits = []
        if importlib.util.find_spec("torch"):
            parallel = run.Partial(train, data=data, out=str(work / "fit-parallel.json"))
            fits.append(exp.add(parallel, two_nodes, name="train", dependencies=[first], tail_logs=True))
        for seed in range(4):
            task = run.Partial(fit, data=data, out=str(work / f"fit-{seed}.json"), seed=seed)
            fits.append(exp.add(task, sweep, name=f"seed-{seed}", dependencies=[first]))
        exp.add(run.Partial(compare, work=str(work)), name="compare", dependencies=fits, tail_logs=True)
        exp.run()


if __name__ == "__main__":
    main()
