"""When the open rejects of a run have to be counted, to see whether they are more than its limit.

Counting them is dear: of each rejected key the index and `documents` are asked for something newer. The records of
`rejects` are counted anyway, and each of them opens one reject at most. So until as many have come as the limit left at
the last count, there is nothing to count.
"""

from __future__ import annotations


class RejectLimit:
    """`limit`: how many may be open. Pure; `records` are those of `rejects` so far."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open = self._records = 0

    def due(self, records: int) -> bool:
        """Whether more may be open than allowed."""
        return self._open + records - self._records > self.limit

    def counted(self, records: int, open_: int) -> bool:
        """Take a count into account, made when there were at least so many records; whether it is above the limit."""
        self._open, self._records = open_, records
        return open_ > self.limit
