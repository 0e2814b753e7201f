"""Whether there is room for a run: what it needs against what there is, as far as servers tell. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from reshelve.consumers.capacity import DiskRoom
from reshelve.forecast import Forecast
from reshelve.spec import Spec

_MERGES: Final = "merging segments takes up to as much again while it goes on: free disk, or add a node"


@dataclass(frozen=True, slots=True)
class Headroom:
    """Of one place: `verdict` of what is needed and what there is, both for people, and `why`."""

    place: str
    needed: str
    there_is: str
    verdict: Literal["enough", "tight", "unknown"]
    why: str = ""


def headrooms(
    spec: Spec, forecast: Forecast, room: DiskRoom | None, wal_bytes_per_second: float | None
) -> tuple[Headroom, ...]:
    """Target, brokers and source."""
    return (_target(forecast, room), _brokers(spec, forecast), *_wal(spec, forecast, wal_bytes_per_second))


def _target(forecast: Forecast, room: DiskRoom | None) -> Headroom:
    needed = f"{size(forecast.index_bytes)} ({forecast.index_basis})"
    if room is None:
        return Headroom("target disk", needed, "not known", "unknown", "the role may not ask the nodes (nodes:stats)")
    there_is = f"{size(room.bytes)} on {room.nodes} data nodes before the flood stage ({room.watermark})"
    # Merges hold old and new segments at once.
    enough = room.bytes > 2 * forecast.index_bytes
    return Headroom("target disk", needed, there_is, "enough" if enough else "tight", "" if enough else _MERGES)


def _brokers(spec: Spec, forecast: Forecast) -> Headroom:
    factor = spec.kafka.replication_factor
    copies = f"times {factor} replicas" if factor else "times the brokers' default of replicas"
    needed = f"{size(forecast.topic_low)} (compressed) to {size(forecast.topic_high)} {copies}, until it is cleaned"
    why = (
        "the Kafka client has no way to ask brokers for their disks; see their own monitoring. The run's topics are "
        "made with retention.ms and retention.bytes -1, so nothing that it needs expires, however long it takes"
    )
    return Headroom("broker disk", needed, "not known", "unknown", why)


def _wal(spec: Spec, forecast: Forecast, rate: float | None) -> Iterator[Headroom]:
    """What the source keeps for the slot if nobody reads it: for how long may the run stand still?"""
    if spec.changes.mode != "replication":
        return
    limit = spec.limits.max_wal_retained
    there_is = f"{size(limit)} (limits.max_wal_retained)"
    if not rate:
        yield Headroom(
            "source WAL", "not known", there_is, "unknown", "the server has no figures of its WAL (pg_stat_wal)"
        )
        return
    needed = f"{size(int(rate * forecast.seconds_high))} at {size(int(rate))}/s, if nobody read it while it is copied"
    lasts = limit / rate
    why = f"a run that stands still for {lasts / 3600:,.1f} h loses its slot; one that works confirms it all the time"
    yield Headroom("source WAL", needed, there_is, "enough" if lasts > forecast.seconds_high else "tight", why)


def size(number: int) -> str:
    """Bytes for people."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if number >= factor:
            return f"{number / factor:,.1f} {unit}"
    return f"{number / 1000:,.1f} kB"
