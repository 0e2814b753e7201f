from __future__ import annotations

from reshelve.model import Receipt, Segment
from reshelve.progress import Progress, silences
from reshelve.rates import Rate
from reshelve.receipts import tile

_RATE = Rate(None, None)


def progress(*roles: str, read: bool = False, indexed: int = 0, followed: bool = False, keys: int = 0) -> Progress:
    """Of a run with one segment and ten documents, whose workers have these roles."""
    receipts = [Receipt(0, None, None, 10, 10, 0, 0, 100, 1, 1)] if read else []
    tiling = tile([Segment(0, None, None)], receipts)
    workers = tuple({"role": role} for role in roles)
    return Progress(
        tiling, {0: indexed}, {0: 11}, 0, workers, (), _RATE, _RATE,
        followed=followed, key_positions={0: keys}, change_ends={0: 5},
    )  # fmt: skip


def test_a_role_that_has_work_and_no_worker_is_told_with_the_command_that_starts_one() -> None:
    reader, indexer = silences(progress(), "docs.1")
    assert "`reshelve worker pages docs.1`" in reader
    assert "`reshelve worker indexer docs.1`" in indexer


def test_a_role_that_reports_or_is_done_is_not_missed() -> None:
    assert silences(progress("pages", "indexer"), "docs.1") == []
    assert silences(progress("indexer", read=True), "docs.1") == []
    assert silences(progress(read=True, indexed=11), "docs.1") == []


def test_who_follows_changes_is_missed_while_there_are_some() -> None:
    tailer, keys = silences(progress(read=True, indexed=11, followed=True), "docs.1")
    assert "`reshelve worker tailer docs.1`" in tailer
    assert "`reshelve worker keys docs.1`" in keys
    assert silences(progress("tailer", read=True, indexed=11, followed=True, keys=5), "docs.1") == []
