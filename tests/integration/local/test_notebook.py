"""In a notebook a loop is running already, and functions live in cells."""

from __future__ import annotations

import os
import textwrap

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

pytestmark = pytest.mark.usefixtures("server")

CELLS = [
    """
    import math
    import nemo_prefect as run
    SCALE = 2
    """,
    """
    def area(radius: float) -> None:
        print("area", round(SCALE * math.pi * radius ** 2, 2))
    """,
    """
    import asyncio
    asyncio.get_running_loop()  # there is one
    with run.Experiment("notebook", enable_goodbye_message=False) as exp:
        first = exp.add(run.Partial(area, radius=1.0), name="area")
        exp.add(run.Script(inline="echo after"), name="after", dependencies=[first])
        exp.run()
    """,
    "print(sorted((k, str(v['status'])) for k, v in exp.status(return_dict=True).items()))",
    "print((exp.directory / 'area/attempt-1/stdout.log').read_text())",
]


def run_notebook(cells: list[str]) -> nbformat.NotebookNode:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(c).strip()) for c in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": os.getcwd()}}).execute()
    return notebook


def text(cell: nbformat.NotebookNode) -> str:
    return "".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in cell.outputs)


def test_an_experiment_runs_in_a_notebook() -> None:
    notebook = run_notebook(CELLS)
    assert "[('after', 'SUCCEEDED'), ('area', 'SUCCEEDED')]" in text(notebook.cells[3])
    assert "area 6.28" in text(notebook.cells[4])


def test_a_failure_is_an_error_in_the_cell() -> None:
    failing = "with run.Experiment('nb-fails') as exp:\n    exp.add(run.Script(inline='exit 3'), name='bad')\n    exp.run()"
    with pytest.raises(CellExecutionError, match=r"bad: FAILED \(exit code 3\)"):
        run_notebook([CELLS[0], failing])
