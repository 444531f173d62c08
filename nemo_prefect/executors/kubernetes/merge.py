"""A strategic merge, as ``kubectl patch`` does it: maps are merged, and so are lists whose items have names."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

#: What tells the items of a list apart, by the list's name. Lists that are not named here are replaced whole.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "hostAliases": "ip",
    "ports": "containerPort",
    "topologySpreadConstraints": "topologyKey",
}


def strategic_merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """`base` changed by `patch`; both stay as they are.

    ``None`` removes a field. ``{"$patch": "replace"}`` in a map replaces it whole; ``{"$patch": "delete"}`` in a list's item
    (or in a map) removes it.

    Args:
        base: the object.
        patch: what to change of it.
    """
    if patch.get("$patch") == "replace":
        return copy.deepcopy({k: v for k, v in patch.items() if k != "$patch"})
    merged = copy.deepcopy(dict(base))
    for name, value in patch.items():
        if value is None or (isinstance(value, Mapping) and value.get("$patch") == "delete"):
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            held = merged.get(name)
            merged[name] = strategic_merge(held if isinstance(held, Mapping) else {}, value)
        elif isinstance(value, list) and name in MERGE_KEYS and isinstance(merged.get(name), list):
            merged[name] = _merge_list(merged[name], value, MERGE_KEYS[name])
        else:
            merged[name] = copy.deepcopy(value)
    return merged


def _merge_list(base: list[Any], patch: list[Any], key: str) -> list[Any]:
    items = {item.get(key): item for item in base}
    for change in patch:
        if change.get("$patch") == "replace":
            items = {}
        elif change.get("$patch") == "delete":
            items.pop(change.get(key), None)
        else:
            items[change.get(key)] = strategic_merge(items.get(change.get(key), {}), change)
    return list(items.values())
