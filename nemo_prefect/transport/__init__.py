"""The way to a cluster: `Tunnel` and its kinds."""

from __future__ import annotations

from nemo_prefect.transport.base import CommandResult, Entry, Tunnel, check, command_failed
from nemo_prefect.transport.local import LocalTunnel
from nemo_prefect.transport.ssh import SSHTunnel

__all__ = ["CommandResult", "Entry", "LocalTunnel", "SSHTunnel", "Tunnel", "check", "command_failed"]
