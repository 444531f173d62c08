"""Train on Kubernetes: one model over several pods with PyTorch's DistributedDataParallel, and a report on this machine.

Run it with ``python flows/kubernetes_training.py --image IMAGE --nodes 2`` where a kubeconfig points to a cluster. The image
needs Python and PyTorch; not this package, and not Prefect. What the training writes to its artifacts comes back by itself.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import nemo_prefect as run


def train(steps: int = 60, lr: float = 0.1) -> None:
    """Fit a line through noisy points. Every rank has points of its own; the gradients are averaged over all of them."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(rank)
    x = torch.rand(256, 1)
    y = 3.0 * x - 1.0 + 0.05 * torch.randn(256, 1)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    losses = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 20 == 0:
            print(f"rank {rank} of {ranks}, step {step}: loss {loss.item():.4f}", flush=True)
    if rank == 0:
        weight, bias = (p.item() for p in model.module.parameters())
        row = {"ranks": ranks, "weight": round(weight, 3), "bias": round(bias, 3), "loss": round(losses[-1], 5)}
        Path(os.environ["NEMO_PREFECT_ARTIFACTS"], "metrics.json").write_text(json.dumps([row]))
    dist.destroy_process_group()


def report(metrics: str) -> None:
    """Say what came out of it."""
    (row,) = json.loads(Path(metrics).read_text())
    print(f"y = {row['weight']} x + {row['bias']}, learned by {row['ranks']} ranks")


def main() -> None:
    """Describe the experiment and run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", required=True, help="an image with Python and PyTorch")
    parser.add_argument("--nodes", type=int, default=2, help="pods")
    parser.add_argument("--gpus", type=int, default=None, help="GPUs of each pod")
    parser.add_argument("--packages", default="", help="a directory of the nodes with PyTorch in it, if the image has none")
    options = parser.parse_args()

    executor = run.KubernetesExecutor(
        image=options.image, num_nodes=options.nodes, gpus_per_node=options.gpus, launcher="torchrun"
    )
    if options.packages:
        executor.volumes = [{"name": "packages", "hostPath": {"path": options.packages}}]
        executor.volume_mounts = [{"name": "packages", "mountPath": options.packages, "readOnly": True}]
        executor.env_vars["PYTHONPATH"] = options.packages

    with run.Experiment("kubernetes-training") as exp:
        training = exp.add(run.Partial(train), executor, name="train", tail_logs=True)
        metrics = str(exp.directory / "train/attempt-1/artifacts/metrics.json")
        exp.add(run.Partial(report, metrics=metrics), name="report", dependencies=[training])
        exp.run()


if __name__ == "__main__":
    main()
