"""LocalTunnel keeps the contract, with plain files and processes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from nemo_prefect.errors import ExecutorError
from nemo_prefect.testing.tunnels import TunnelSuite
from nemo_prefect.transport import LocalTunnel, Tunnel


class TestLocalTunnel(TunnelSuite):
    @pytest.fixture
    def tunnel(self) -> Tunnel:
        return LocalTunnel()


def test_experiments_stay_where_they_are_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Path("/home/me/.nemo_run/experiments/title/title_1")
    assert LocalTunnel().directory_for(experiment) == str(experiment)
    assert LocalTunnel(job_dir="/lustre/me").directory_for(experiment) == "/lustre/me/title/title_1"
    monkeypatch.setenv("HOME", "/home/me")
    assert LocalTunnel(job_dir="~/jobs").directory_for(experiment) == "/home/me/jobs/title/title_1"


def test_a_cancelled_command_is_ended_with_all_it_started(tmp_path: Path) -> None:
    beat = tmp_path / "beat"

    async def story() -> None:
        task = asyncio.create_task(
            LocalTunnel().run_command(["sh", "-c", f"(while :; do date +%s%N > '{beat}'; sleep 0.05; done) & wait"])
        )
        while not beat.exists():
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())
    last = beat.read_bytes()
    time.sleep(0.3)
    assert beat.read_bytes() == last


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExecutorError, match=r"Could not write .*file/below") as caught:
        asyncio.run(LocalTunnel().write_file(str(tmp_path / "file" / "below"), b""))
    assert not caught.value.transient


def test_a_tunnel_itself_leads_nowhere() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Tunnel()  # type: ignore[abstract]
