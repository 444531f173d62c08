"""Hello, world: prepare a data set, train two models on it side by side, compare them.

Run it with ``python flows/hello_world.py``. It needs scikit-learn and downloads nothing.
"""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path

import nemo_prefect as run


def prepare(out: str, test_share: float = 0.25) -> None:
    """Write the handwritten digits that scikit-learn ships (1,797 images of 8 x 8 pixels) as a training and a test set."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    split = train_test_split(digits.data, digits.target, test_size=test_share, random_state=0)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_bytes(pickle.dumps(split))
    print(f"{len(split[0])} images to train on, {len(split[1])} to test on")


def train(data: str, out: str, hidden: int, lr: float = 1e-3, epochs: int = 30) -> None:
    """Train a network with one hidden layer of `hidden` units, and write its accuracy on the test set."""
    from sklearn.neural_network import MLPClassifier

    x_train, x_test, y_train, y_test = pickle.loads(Path(data).read_bytes())
    model = MLPClassifier(hidden_layer_sizes=(hidden,), learning_rate_init=lr, random_state=0)
    began = time.monotonic()
    for epoch in range(1, epochs + 1):
        model.partial_fit(x_train / 16, y_train, classes=range(10))
        if epoch % 10 == 0:
            print(f"epoch {epoch}: loss {model.loss_:.3f}, accuracy {model.score(x_test / 16, y_test):.3f}")
    metrics = {"hidden": hidden, "accuracy": round(model.score(x_test / 16, y_test), 4), "loss": round(model.loss_, 4)}
    Path(out).write_text(json.dumps({**metrics, "seconds": round(time.monotonic() - began, 2)}))


# What a job writes into $NEMO_PREFECT_ARTIFACTS appears on the run's page: a list of objects as a table.
COMPARE = """
import json, os, pathlib
rows = [json.loads(path.read_text()) for path in pathlib.Path(os.environ["WORK"]).glob("metrics-*.json")]
rows.sort(key=lambda row: -row["accuracy"])
pathlib.Path(os.environ["NEMO_PREFECT_ARTIFACTS"], "metrics.json").write_text(json.dumps(rows))
print("best:", rows[0])
"""


def main() -> None:
    """Describe the experiment and run it."""
    with run.Experiment("hello-world") as exp:
        work = exp.directory / "work"
        data = str(work / "digits.pickle")

        first = exp.add(run.Partial(prepare, out=data), name="prepare")
        models = [
            exp.add(
                run.Partial(train, data=data, out=str(work / f"metrics-{hidden}.json"), hidden=hidden),
                name=f"train-{hidden}",
                dependencies=[first],
            )
            for hidden in (8, 64)
        ]
        compare = run.Script(inline=COMPARE, entrypoint="python", env={"WORK": str(work)})
        exp.add(compare, name="compare", dependencies=models, tail_logs=True)
        exp.run()


if __name__ == "__main__":
    main()
