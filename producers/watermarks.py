"""When a watermark is due. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from reshelve.model import Watermark


@dataclass(frozen=True, slots=True)
class _Offer:
    version: int
    at: int
    lsn: int


class Watermarks:
    """Turns snapshots of the source into watermarks.

    A snapshot sees a transaction only after its commit record is in the log. So once the feed has passed the log's
    insert position as it was *after* the snapshot was taken, everything that the snapshot sees has come through the
    feed. One snapshot waits for that at a time: of several the first is due first, and a newer one is taken then."""

    def __init__(self) -> None:
        self._offer: _Offer | None = None
        self._newest = 0

    @property
    def awaited(self) -> int | None:
        """The LSN that the feed has to pass; None when no snapshot waits."""
        return None if self._offer is None else self._offer.lsn

    def offer(self, version: int, at: int, insert_lsn: int) -> None:
        """A snapshot of that version and wall time (ms since 1970 UTC), with the log's insert position read after it.
        Left out while another one waits, and when it is older than one that was due already."""
        if self._offer is None and version >= self._newest:
            self._offer = _Offer(version, at, insert_lsn)

    def withdraw(self) -> None:
        """Forget the snapshot that waits. A server that crashed may have taken back what it saw (commits with
        `synchronous_commit = off`), and then gives the log's positions out again."""
        self._offer = None

    def reached(self, passed: int) -> Watermark | None:
        """The watermark that is due now that the feed has passed so much of the log; it is given once."""
        offer = self._offer
        if offer is None or passed < offer.lsn:
            return None
        self._offer, self._newest = None, offer.version
        return Watermark(offer.version, offer.at, passed)


def parse_lsn(text: str) -> int:
    """The position that PostgreSQL writes as e.g. "0/16B3748"."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def format_lsn(lsn: int) -> str:
    """The inverse of `parse_lsn`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFF_FFFF:X}"
