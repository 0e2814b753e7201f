"""What live changes rest on. Each protection can be taken away from a schedule: that is a seeded bug."""

from __future__ import annotations

from enum import Enum


class Protection(Enum):
    """In words: what goes wrong without it."""

    SNAPSHOT_CLOCK = (
        "versions from an LSN: a commit is in the log before it is visible, so a read that misses it has"
        " the version of one that sees it"
    )
    VERSION_CHECK = "the last write wins: a page that is late, or a dead indexer's request, puts an old document back"
    SETTLING = (
        "a page read before a delete stands behind the tombstone: once the index has forgotten the delete, the"
        " document comes back"
    )
    TILING = "settling begins while a page is on its way, which then comes behind it all the same"
    VISIBILITY_WAIT = "a key is read before the change that made it dirty is visible, and never again"
    WIDE_XIDS = "the log's 32 bits of an id look like a transaction of long ago, which every snapshot sees"
    XMIN_WAIT = "a transaction that committed before the slot's start, and is not visible to a page yet, is in neither"
    OLD_KEYS = "a row whose key changes keeps its old document"
    TOMBSTONES = "a key that is gone keeps its last document"
    AWAIT_DURABLE = "what was read is published and then taken back by a crash, and its clock is given out again"
    NEW_FEED_NEW_SNAPSHOT = "after a crash, a watermark is written of a snapshot that saw what the crash took away"
    SNAPSHOT_BEFORE_LSN = "the watermark's snapshot sees what is in the log only behind the LSN that is waited for"
    WATERMARK_BEHIND_LSN = "the watermark is written before the changes that its snapshot sees were decoded"
    WATERMARK_BEHIND_DOCUMENTS = "the indexer takes the watermark for applied before the documents that it stands for"
    CONFIRM_BEHIND_ACKNOWLEDGED = "the source forgets changes whose key tasks die with the tailer"
    COMMIT_BEHIND_DURABLE = "an offset is committed whose documents die with the indexer"
    ONE_REQUEST_A_KEY = "a document that has to be sent again comes behind a newer delete that the index has forgotten"
    EXTERNAL_GTE = (
        "a conflict with what was written by a request without an answer is taken for written; a restart of"
        " the index takes it away"
    )
    CLOCK_RECALLED = "the applied clock goes back, or is lost, when a partition changes hands"
