"""Importing the package is cheap, and the public names are all there."""

from __future__ import annotations

import subprocess
import sys

import nemo_prefect as run


def modules_after(code: str) -> set[str]:
    show = f"{code}; import sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True).stdout.split())


def test_importing_it_imports_neither_prefect_nor_fiddle() -> None:
    loaded = modules_after("import nemo_prefect")
    assert not loaded & {"prefect", "fiddle", "pydantic", "rich", "asyncio"}


def test_scripts_need_no_fiddle() -> None:
    assert "fiddle" not in modules_after("import nemo_prefect as run; run.Script(inline='true'); run.LocalExecutor()")


def test_every_public_name_is_there() -> None:
    for name in run.__all__:
        assert getattr(run, name) is not None
        assert name in dir(run)


def test_prefect_finds_the_blocks() -> None:
    from prefect.plugins import load_prefect_collections

    assert hasattr(load_prefect_collections()["nemo_prefect"], "LocalExecutor")


def test_prefect_s_logging_leaves_a_redirected_stderr_open() -> None:
    code = """
import contextlib, io, sys
aside = io.StringIO()
with contextlib.redirect_stderr(aside):
    import nemo_prefect as run
    run.Partial(print)
import prefect.main
print("still open", file=aside)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
