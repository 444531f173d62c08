"""Look at an experiment that ran, change one of its tasks, run it again, and see what differs.

Run it with ``python flows/inspect_and_rerun.py``.
"""

from __future__ import annotations

import nemo_prefect as run


def train(lr: float, steps: int = 3) -> None:
    """Pretend to train."""
    for step in range(steps):
        print(f"step {step}: lr {lr}")


TITLE = "inspect-and-rerun"


def first() -> None:
    """The first run."""
    with run.Experiment(TITLE) as exp:
        data = exp.add(run.Script(inline="echo preparing"), name="prepare")
        exp.add(run.Partial(train, lr=1e-3), name="train", dependencies=[data])
        exp.run()


def again() -> None:
    """What could as well be done by another program on another day."""
    print("Titles:", run.Experiment.catalog())
    before = run.Experiment.from_title(TITLE)
    print("The newest of", run.Experiment.catalog(TITLE), "is", before.id)
    before.status()
    before.logs("train", regex="lr")

    exp = run.Experiment.from_id(before.id)
    exp.tasks[1].lr = 5e-4
    exp.tasks[1].steps = 2
    with exp.reset():
        exp.run()
    exp.logs("train")
    print("What differs:", exp.diff(before), sep="\n")


if __name__ == "__main__":
    first()
    again()
