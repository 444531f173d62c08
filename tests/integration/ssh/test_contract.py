"""SSHTunnel keeps the contract of tunnels, over a real sshd: with rsync, with SFTP only, through another shell."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_prefect.testing.tunnels import TunnelSuite
from nemo_prefect.transport import SSHTunnel, Tunnel


class TestSSHTunnel(TunnelSuite):
    @pytest.fixture
    def tunnel(self, sshd: Any) -> Tunnel:
        return SSHTunnel(**sshd.login(job_dir="/jobs"))


class TestSSHTunnelWithoutRsync(TunnelSuite):
    @pytest.fixture
    def tunnel(self, sshd: Any) -> Tunnel:
        return SSHTunnel(**sshd.login(use_rsync=False))


class TestSSHTunnelWithShellAndPreCommand(TunnelSuite):
    @pytest.fixture
    def tunnel(self, sshd: Any) -> Tunnel:
        return SSHTunnel(**sshd.login(shell="bash --norc", pre_command="echo 'it is noisy'; true # here"))
