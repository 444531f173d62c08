"""The built wheel, installed into an empty environment with what its own metadata asks for, runs an experiment."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HELLO = """
import nemo_prefect as run

def double(n: int) -> None:
    print("twice", n, "is", 2 * n)

if __name__ == "__main__":
    with run.Experiment("wheel") as exp:
        first = exp.add(run.Script(inline="echo hello from a wheel"), name="first")
        exp.add(run.Partial(double, n=21), name="second", dependencies=[first], tail_logs=True)
        exp.run()
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_installs_and_runs(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("nemo_prefect-*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, str(wheel)], check=True)  # resolved today, within the bounds that the wheel itself carries
    (tmp_path / "hello.py").write_text(HELLO)
    env = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect"), "NEMORUN_HOME": str(tmp_path / "home")}
    command = str(tmp_path / "env/bin/nemo-prefect")
    try:
        done = subprocess.run([str(python), "hello.py"], capture_output=True, text=True, env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "twice 21 is 42" in done.stdout
        examined = subprocess.run([command, "doctor"], capture_output=True, text=True, env=env, check=False)
        assert examined.returncode == 0, examined.stdout
        listed = subprocess.run(
            [command, "experiment", "list", "--json"], capture_output=True, text=True, env=env, check=True
        )
        assert '"wheel"' in listed.stdout
    finally:
        subprocess.run([command, "server", "stop"], env=env, check=True)
