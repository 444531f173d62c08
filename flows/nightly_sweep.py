"""A sweep that runs every night: one function, a Prefect flow with the function's own parameters.

``python flows/nightly_sweep.py`` runs it once. ``nemo-prefect deploy flows/nightly_sweep.py:nightly_sweep --name nightly
--cron "0 3 * * *"`` puts it on the server; ``prefect deploy --all --prefect-file deployments/prefect.yaml`` does the same.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import nemo_prefect as run


def fit(lr: float, steps: int, seed: int) -> None:
    """Minimise (w - 3)² by gradient descent from a random start, and publish where it ended."""
    import random

    w = random.Random(seed).uniform(-10, 10)
    for _ in range(steps):
        w -= lr * 2 * (w - 3)
    print(f"lr {lr}, seed {seed}: w = {w:.4f}, loss = {(w - 3) ** 2:.2e}")
    table = Path(os.environ["NEMO_PREFECT_ARTIFACTS"]) / "metrics.json"
    table.write_text(json.dumps([{"lr": lr, "seed": seed, "w": round(w, 4), "loss": (w - 3) ** 2}]))


@run.flow(name="nightly-sweep")
def nightly_sweep(exp: run.Experiment, lr: float = 0.1, steps: int = 50, seeds: list[int] = [0, 1, 2]) -> None:  # noqa: B006
    """Fit a small model once for every seed."""
    data = exp.add(run.Script(inline="date -u"), name="stamp")
    for seed in seeds:
        exp.add(run.Partial(fit, lr=lr, steps=steps, seed=seed), name=f"fit-{seed}", dependencies=[data])


if __name__ == "__main__":
    nightly_sweep()
