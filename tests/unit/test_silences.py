from __future__ import annotations

from reshelve.model import Receipt, Segment
from reshelve.progress import Progress, Rate, silences
from reshelve.receipts import tile

_RATE = Rate(None, None)


def progress(*roles: str, read: bool = False, indexed: int = 0) -> Progress:
    """Of a run with one segment and ten documents, whose workers have these roles."""
    receipts = [Receipt(0, None, None, 10, 10, 0, 0, 100, 1, 1)] if read else []
    tiling = tile([Segment(0, None, None)], receipts)
    workers = tuple({"role": role} for role in roles)
    return Progress(tiling, {0: indexed}, {0: 11}, 0, workers, (), _RATE, _RATE)


def test_a_role_that_has_work_and_no_worker_is_told_with_the_command_that_starts_one() -> None:
    reader, indexer = silences(progress(), "docs.1")
    assert "`reshelve worker pages docs.1`" in reader
    assert "`reshelve worker indexer docs.1`" in indexer


def test_a_role_that_reports_or_is_done_is_not_missed() -> None:
    assert silences(progress("pages", "indexer"), "docs.1") == []
    assert silences(progress("indexer", read=True), "docs.1") == []
    assert silences(progress(read=True, indexed=11), "docs.1") == []
