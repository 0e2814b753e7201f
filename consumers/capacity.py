"""How large an index is, and how much its cluster may still take. Facts and their arithmetic; no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_UNITS: Final = {"b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40, "pb": 1 << 50}
_WATERMARK: Final = "cluster.routing.allocation.disk.watermark.flood_stage"
_THRESHOLD: Final = "cluster.routing.allocation.disk.threshold_enabled"


@dataclass(frozen=True, slots=True)
class IndexSize:
    """Documents, and bytes of the primaries."""

    documents: int
    bytes: int


@dataclass(frozen=True, slots=True)
class DiskRoom:
    """What data nodes may still write before OpenSearch makes indexes read-only.

    bytes      over all of them
    watermark  the flood stage, as set"""

    bytes: int
    nodes: int
    watermark: str


def disk_room(settings: Mapping[str, Any], nodes: Mapping[str, Any]) -> DiskRoom:
    """From the cluster's flat settings with defaults, and the `fs` statistics of its nodes."""
    flat = settings["defaults"] | settings["persistent"] | settings["transient"]
    flood = flat.get(_WATERMARK, "95%") if flat.get(_THRESHOLD, "true") == "true" else "100%"
    totals = [node["fs"]["total"] for node in nodes.values() if "data" in node.get("roles", ["data"])]
    usable = sum(max(0, t["available_in_bytes"] - kept_free(flood, t["total_in_bytes"])) for t in totals)
    return DiskRoom(usable, len(totals), flood)


def kept_free(watermark: str, total: int) -> int:
    """Bytes of a disk of `total` bytes that the watermark keeps free: a share used (95%, 0.95) or bytes (5gb)."""
    text = watermark.strip().lower()
    if match := re.fullmatch(r"([\d.]+)%", text):
        return int(total * (1 - float(match[1]) / 100))
    if match := re.fullmatch(r"([\d.]+)([kmgtp]?b)", text):
        return int(float(match[1]) * _UNITS[match[2]])
    return int(total * (1 - float(text)))
