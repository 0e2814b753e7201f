"""What the records of `rejects` come to: which key is open, and what is the same reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reshelve.consumers.reject_ledger import RejectLedger, group, group_name, mask, waivers
from reshelve.schemas.reject import Reject, Resolution, read_record

_REJECT = Reject("k", b"{}", "index", "mapper_parsing_exception", "failed", "documents", 0, 7, version=5)
_WAIVED = Resolution("k", "waived", "ada", "test data", 5, 1_000)
_REDRIVEN = Resolution("k", "redriven", "", "", 5, 1_000)


def _fold(*records: Reject | Resolution) -> RejectLedger:
    ledger = RejectLedger()
    for number, record in enumerate(records):
        ledger.take(record, at=number, place=number)
    return ledger


@pytest.mark.parametrize(
    ("records", "status"),
    [
        ((_REJECT,), "open"),
        ((_REJECT, _REJECT), "open"),
        ((_REJECT, _REDRIVEN), "redriven"),
        ((_REJECT, _WAIVED), "waived"),
        ((_REJECT, _WAIVED, _REJECT), "waived"),  # delivered again after a crash
        ((_REJECT, _WAIVED, replace(_REJECT, version=6)), "open"),  # that one nobody has waived
        ((_REJECT, _REDRIVEN, replace(_REJECT, version=4)), "redriven"),  # a page that came late
        ((_REJECT, _REDRIVEN, replace(_REJECT, version=6)), "open"),
        ((_REJECT, _REDRIVEN, _REJECT), "open"),  # the clock stands still while nobody writes to the source
        ((_REJECT, _WAIVED, _REDRIVEN), "redriven"),
    ],
)
def test_the_newest_word_about_a_key_counts(records: tuple[Reject | Resolution, ...], status: str) -> None:
    ledger = _fold(*records)
    (one,) = ledger
    assert one.status(frozenset()) == status
    assert ledger.unresolved == (status == "open")
    assert list(ledger.waived()) == ([b"k"] if status == "waived" else [])


def test_a_later_page_does_not_hide_the_newer_reject() -> None:
    (one,) = _fold(replace(_REJECT, version=6, reason="new"), replace(_REJECT, reason="old"))
    assert (one.reject.reason, one.first, one.last) == ("new", 0, 1)


def test_the_ledger_holds_no_document() -> None:
    (one,) = _fold(_REJECT)
    assert (one.reject.document, one.size) == (None, 2)
    (one,) = _fold(replace(_REJECT, document=None))
    assert one.size is None


def test_what_was_superseded_is_not_open_but_a_resolution_stays() -> None:
    (open_,), (waived,) = _fold(_REJECT), _fold(_REJECT, _WAIVED)
    assert (open_.status({"k"}), waived.status({"k"})) == ("superseded", "waived")


@pytest.mark.parametrize(
    ("reason", "masked"),
    [
        (
            "failed to parse field [n] of type [integer] in document with id 'a 1'. Preview of field's value: 'it's'; "
            'For input string: "it\'s"',
            "failed to parse field [n] of type [integer] in document with id '…'. Preview of field's value: '…'; "
            "For input string: '…'",
        ),
        ("id is too long: 513 bytes, at most 512", "id is too long: # bytes, at most #"),
        ("KeyError: 'no such thing'", "KeyError: '…'"),
        ("Value out of range -1.5, of utf8 and x11", "Value out of range #, of utf8 and x11"),
    ],
)
def test_what_differs_from_document_to_document_is_masked(reason: str, masked: str) -> None:
    assert mask(reason) == masked


def test_one_reason_is_one_group() -> None:
    records = [replace(_REJECT, key=str(n), reason=f"no such thing: '{n}'") for n in range(3)]
    groups = group(_fold(*records, replace(_REJECT, key="x", reason="else"), replace(_WAIVED, key="1")))
    assert [(one.reason, one.keys) for one in groups] == [("no such thing: '…'", ("0", "1", "2")), ("else", ("x",))]
    assert groups[0].statuses == {"open": 2, "waived": 1}
    assert groups[0].name == group_name(records[0]) != groups[1].name


def test_who_waived_how_many_is_told() -> None:
    assert waivers([_WAIVED, replace(_WAIVED, key="l"), replace(_WAIVED, by="eve", why="too large")]) == (
        "2 waived by ada: test data; 1 waived by eve: too large"
    )
    assert waivers([]) == ""


@pytest.mark.parametrize(
    "record", [_REJECT, replace(_REJECT, document=None, version=None), _WAIVED, replace(_REDRIVEN, version=None)]
)
def test_a_record_is_read_as_it_was_written(record: Reject | Resolution) -> None:
    headers = [(name, value) for name, value in record.headers() if isinstance(value, bytes)]
    document = record.document if isinstance(record, Reject) else None
    assert read_record(record.key.encode(), document, headers) == record
