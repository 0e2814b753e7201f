"""Transaction ids: the log has 32 bits of them, snapshots have 64. Pure."""

from __future__ import annotations

from typing import Final

_EPOCH: Final = 1 << 32
_HALF: Final = 1 << 31


def widen_xid(xid: int, reference: int) -> int:
    """The 64-bit id whose low 32 bits are those of `xid`, and which is nearest to `reference`.

    PostgreSQL never lets two ids that are in use be 2**31 apart, so any 64-bit id of about the same time serves as
    reference: it may be older or newer than the transaction."""
    distance = (xid - reference) % _EPOCH
    wide = reference + distance
    return wide - _EPOCH if distance >= _HALF and wide >= _EPOCH else wide
