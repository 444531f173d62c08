"""Kubernetes' quantities (``500m``, ``2Gi``), and whether any node could hold what a pod asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from nemo_prefect.errors import ConfigError

_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([numkKMGTPE]i?))?\Z")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


def parse(quantity: str | int | float) -> Decimal:
    """The value of a quantity: cores, bytes or a count.

    Raises:
        ConfigError: it is none.
    """
    match = _QUANTITY.match(str(quantity).strip())
    suffix = (match[3] or "") if match else "?"
    if match is None or suffix not in (*_DECIMAL, *_BINARY):
        raise ConfigError(
            f"{quantity!r} is no Kubernetes quantity.", hint="Write for instance 500m, 2 (cores), 512Mi, 64Gi (bytes)."
        )
    value = Decimal(match[1] + (match[2] or ""))
    return value * (Decimal(1024) ** _BINARY[suffix] if suffix in _BINARY else Decimal(10) ** _DECIMAL[suffix])


def requests_of(pod_spec: Mapping[str, Any]) -> dict[str, Decimal]:
    """What the scheduler reserves for a pod: the sum of its containers' requests (limits, where there is no request)."""
    total: dict[str, Decimal] = {}
    for container in pod_spec.get("containers", []):
        resources = container.get("resources", {})
        for name, quantity in {**(resources.get("limits") or {}), **(resources.get("requests") or {})}.items():
            total[name] = total.get(name, Decimal(0)) + parse(quantity)
    return total


def why_impossible(pod_spec: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> str:
    """Why no node could ever hold such a pod, even an empty one; "" where one could, or where there are no nodes yet."""
    selector = pod_spec.get("nodeSelector") or {}
    matching = [n for n in nodes if selector.items() <= (n.get("metadata", {}).get("labels") or {}).items()]
    if nodes and not matching:
        wanted = ", ".join(f"{k}={v}" for k, v in selector.items())
        return f"none of the {len(nodes)} nodes has the labels {wanted}"
    asked = requests_of(pod_spec)
    lacking: list[str] = []
    for node in matching:
        has = node.get("status", {}).get("allocatable") or {}
        short = [name for name, amount in asked.items() if amount > parse(has.get(name, 0))]
        if not short:
            return ""
        lacking += [name for name in short if name not in lacking]
    parts = []
    for name in lacking:
        most = max(((parse((n["status"].get("allocatable") or {}).get(name, 0)), n) for n in matching), key=lambda m: m[0])
        largest = (most[1]["status"].get("allocatable") or {}).get(name, "0")
        parts.append(f"{name} {asked[name].normalize():f} asked, at most {largest} on a node")
    return "; ".join(parts)
