"""The spec's adaptive throttle: what slows a run down, and what stops it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from reshelve.spec.fields import NUMBER, Rate, Section, Text, http_url

BANDS: Final = ("rejections", "heap", "write_queue", "cpu", "bulk_seconds", "source_sessions", "replication_lag")
Level = Annotated[float, Field(ge=0, allow_inf_nan=False), NUMBER]


class Band(Section):
    """How a signal is judged: up to `low` the rate grows, between it holds, from `high` on it is cut by a fifth, from
    `limit` on by half."""

    low: Level = Field(description="Up to this all is well.")
    high: Level = Field(description="From here on the run gives way.")
    limit: Level = Field(description="From here on the run gives way at once, by half.")

    @model_validator(mode="after")
    def _in_order(self) -> Band:
        if not self.low < self.high <= self.limit:
            raise ValueError("low must be below high, and high not above limit")
        return self


class AdaptiveThrottle(Section):
    """Slows the run down, over all its workers, while servers have too much to do. The most severe signal counts."""

    enabled: bool = Field(
        default=True,
        description="Whether the run gives way at all. True: it shares its servers with searches. Signals that stop it "
        "are looked at anyhow.",
    )
    rejections: Band | None = Field(
        default=Band(low=0, high=0.2, limit=2),
        description="Requests a second that OpenSearch turns away as too many (429), by its nodes' write pools or by "
        "what the indexers are answered. Null: not looked at. On: nothing else says as clearly that it is too much.",
    )
    heap: Band | None = Field(
        default=Band(low=75, high=90, limit=95),
        description="Percent of its heap that the fullest node uses, the lowest value of the last 10 s, so that "
        "garbage does not count. Null: not looked at. The default lets a small node work as it does.",
    )
    write_queue: Band | None = Field(
        default=Band(low=100, high=500, limit=2000),
        description="Requests that wait in the longest write queue of a node, whose end is 10,000 by default. Null: "
        "not looked at. The default is never reached by a few indexers alone.",
    )
    cpu: Band | None = Field(
        default=None,
        description="Percent of CPU of the busiest node. Null: not looked at, because a rebuild is meant to use what "
        "is idle.",
    )
    bulk_seconds: Band | None = Field(
        default=None,
        description="Seconds that a bulk request takes on average. Null: not looked at; what is usual depends on the "
        "documents.",
    )
    source_sessions: Band | None = Field(
        default=None,
        description="Sessions at the source that run a statement just now, without the run's own. Null: not looked at.",
    )
    replication_lag: Band | None = Field(
        default=None,
        description="Seconds that the slowest standby of the source is behind, as pg_stat_replication says. Null: not "
        "looked at.",
    )
    floor: Rate = Field(
        default=50.0,
        description="Documents a second below which the throttle does not go. 50: changes still get through.",
    )
    cooldown: Rate = Field(
        default=10.0,
        description="Seconds between two changes of the rate. 10: long enough for a change to show in the signals.",
    )
    stop_file: Text | None = Field(
        default=None,
        description="File, relative to the spec, on the machine of `reshelve run`: while it is there the run is "
        "paused. Null: none.",
    )
    stop_url: Annotated[Text, AfterValidator(http_url)] | None = Field(
        default=None,
        description="URL that is asked by GET every 2 s: while it answers anything but 2xx, or not at all twice in a "
        "row, the run is paused. Null: none.",
    )

    @property
    def bands(self) -> Mapping[str, Band]:
        """Those that are looked at, by signal."""
        known = BANDS if self.enabled else ()
        return {name: band for name in known if (band := getattr(self, name)) is not None}


def public_url(url: str) -> str:
    """The URL without what may be secret in it: user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
