"""A script as a command: its parameters come from the command line, by name, from factories, or from a file.

Without arguments it runs a small demonstration of itself on this machine. Try::

    python flows/entrypoint.py train --help
    python flows/entrypoint.py train --dryrun model=big optimizer.lr=1e-4
    python flows/entrypoint.py train model=small(hidden=16) epochs=2 executor=local
    python flows/entrypoint.py train --yaml args.yaml epochs+=1
    python flows/entrypoint.py sweep hidden=[8,16,32] executor=local
    nemo-prefect run flows/entrypoint.py:train model=small executor=local

It needs scikit-learn and downloads nothing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import nemo_prefect as run


@dataclass
class Optimizer:
    """How the weights are changed."""

    lr: float = 1e-3
    kind: Literal["adam", "sgd"] = "adam"


@dataclass
class Model:
    """A network with hidden layers of these sizes."""

    hidden: list[int] = field(default_factory=lambda: [32])
    activation: Literal["relu", "tanh"] = "relu"


@run.cli.factory
@run.autoconvert
def small(hidden: int = 8) -> Model:
    """One hidden layer."""
    return Model(hidden=[hidden])


@run.cli.factory
@run.autoconvert
def big() -> Model:
    """Two hidden layers."""
    return Model(hidden=[64, 64], activation="tanh")


@run.cli.factory
@run.autoconvert
def workstation(retries: int = 1) -> run.LocalExecutor:
    """This machine; a job that fails is tried again."""
    return run.LocalExecutor(retries=retries)


@run.cli.entrypoint
def train(model: Model, optimizer: Optimizer | None = None, epochs: int = 3, seed: int = 0) -> None:
    """Train a network on handwritten digits, and print its accuracy.

    Args:
        model: the network.
        optimizer: by default Adam.
        epochs: how often it sees all images.
        seed: of the weights and of the order of the images.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    optimizer = optimizer or Optimizer()
    digits = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(digits.data / 16, digits.target, random_state=seed)
    network = MLPClassifier(
        model.hidden, activation=model.activation, solver=optimizer.kind, learning_rate_init=optimizer.lr, random_state=seed
    )
    for _ in range(epochs):
        network.partial_fit(x_train, y_train, classes=range(10))
    print(f"hidden {model.hidden}, lr {optimizer.lr}, {epochs} epochs: accuracy {network.score(x_test, y_test):.3f}")


@run.cli.entrypoint(type="experiment")
def sweep(ctx: run.cli.RunContext, hidden: list[int], epochs: int = 3) -> None:
    """Train one network for each size of the hidden layer, side by side."""
    with run.Experiment("sweep", executor=ctx.executor) as exp:
        for size in hidden:
            exp.add(run.Partial(train, model=run.Config(Model, hidden=[size]), epochs=epochs), name=f"hidden-{size}")
        ctx.launch(exp)


def demonstrate() -> None:
    """What the module's docstring shows, one after another."""
    with TemporaryDirectory() as directory:
        args = Path(directory) / "args.yaml"
        args.write_text("model: {_factory_: big, activation: relu}\noptimizer: {lr: 1e-2}\nepochs: 4\n")
        for entrypoint, arguments in (
            (train, ["--dryrun", "model=big", "optimizer.lr=1e-4"]),
            (train, ["--yes", "--yaml", str(args), "epochs+=1"]),
            (train, ["--yes", "--tail-logs", "model=small(hidden=16)", "executor=workstation"]),
            (sweep, ["--yes", "hidden=[8,16]", "epochs=1", "executor=local"]),
        ):
            entrypoint.cli_entrypoint.main(arguments=arguments)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        demonstrate()
    else:
        run.cli.main({"train": train, "sweep": sweep}[sys.argv.pop(1)])
