"""The way to a cluster: `Tunnel` and its kinds."""

from __future__ import annotations

from nemo_prefect.transport.base import CommandResult, Entry, Tunnel, check, command_failed
from nemo_prefect.transport.local import LocalTunnel

__all__ = ["CommandResult", "Entry", "LocalTunnel", "Tunnel", "check", "command_failed"]
