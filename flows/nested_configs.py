"""A function with nested configs: a model in parts, whose parts are changed one by one before it runs.

Run it with ``python flows/nested_configs.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import nemo_prefect as run


@dataclass
class Optimizer:
    """Steepest descent."""

    lr: float = 0.1
    decay: float = 0.0


@dataclass
class Model:
    """A parabola, whose lowest point is looked for."""

    minimum: float = 3.0
    start: float = 0.0
    optimizer: Optimizer = field(default_factory=Optimizer)


def train(model: Model, steps: int = 10) -> None:
    """Go down the parabola for some steps."""
    x, lr = model.start, model.optimizer.lr
    for step in range(steps):
        x -= lr * 2 * (x - model.minimum)
        lr *= 1 - model.optimizer.decay
        print(f"step {step}: x = {x:.4f}")


@run.autoconvert
def far_away(start: float = 100.0) -> Model:
    """A model whose way is long. Calling it gives its config, not the model."""
    return Model(start=start, optimizer=Optimizer(lr=0.3, decay=0.01))


class Faster(run.Plugin):
    """Doubles the learning rate of whatever it is given, and says so to the job."""

    def setup(self, task: run.Partial[None], executor: run.Executor) -> None:
        """Change copies of the task and its executor."""
        task.walk(lr=lambda part: part.lr * 2)
        executor.env_vars["FASTER"] = "1"


def main() -> None:
    """Run it as configured, changed by hand, from a factory, and through a plugin."""
    base = run.Partial(train, model=run.Config(Model, optimizer=run.Config(Optimizer)), steps=5)
    by_hand = base.clone()
    by_hand.model.optimizer.lr = 0.4
    by_hand.steps = 3
    print("What was changed by hand:", by_hand.diff(base), sep="\n")

    with run.Experiment("nested-configs") as exp:
        exp.add(base, name="base", tail_logs=True)
        exp.add(by_hand, name="by-hand", tail_logs=True)
        exp.add(run.Partial(train, model=far_away(), steps=4), name="far-away", tail_logs=True)
        exp.add(base, name="faster", plugins=[Faster()], tail_logs=True)
        exp.run()


if __name__ == "__main__":
    main()
