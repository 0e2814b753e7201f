"""The pure parts of the level `full`: answers compared without parsing, what is certain, of what class it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import orjson
import pytest

from reshelve.errors import TargetRefused, Unreachable
from reshelve.model import Segment
from reshelve.producers.segments import tile
from reshelve.validator.compare import Reading, digest
from reshelve.validator.full_check import CheckBegan, unfinished
from reshelve.validator.hits import compare_answer
from reshelve.validator.suspects import difference, shape
from reshelve.validator.trace import classify_changed
from reshelve.validator.verdict import FullVerdict, RangeVerdict

_V = 100


def _answer(*hits: str, failed: int = 0, timed_out: str = "false") -> str:
    return (
        f'{{"took":1,"timed_out":{timed_out},"_shards":{{"total":2,"successful":2,"skipped":0,"failed":{failed}}},'
        f'"hits":{{"max_score":0.0,"hits":[{",".join(hits)}]}}}}'
    )


def _hit(key: str, source: str, version: int = _V, more: str = "") -> str:
    identity = orjson.dumps(key).decode()
    return f'{{"_index":"i","_id":{identity},"_version":{version},"_score":0.0{more},"_source":{source}}}'


def test_equal_documents_are_no_suspects_in_any_order() -> None:
    expected = {b"1": b'{"a":1}', b"2": '{"a":"ä}"}'.encode(), b'"\\|': b'{"n":{"m":[1,2]}}'}
    text = _answer(
        _hit('"\\|', '{"n":{"m":[1,2]}}'), _hit("2", '{"a":"ä}"}', more=',"_ignored":["a","b]"]'), _hit("1", '{"a":1}')
    )
    found = compare_answer(text, expected, _V, "i")
    assert (found.found, found.suspect) == (3, [])


@pytest.mark.parametrize(
    ("here", "there", "equal"),
    [
        ('{"a":1,"b":2}', '{"b":2,"a":1.0}', True),
        ('{"a":1.10}', '{"a":1.1}', True),
        ('{"a":0.10000000000000000001}', '{"a":0.1}', False),
        ('{"a":1}', '{"a":true}', False),
        ('{"a":1}', '{"a":1,"b":null}', False),
        ('{"a":1}', "{}", False),
        ('{"a":12}', '{"a":1}', False),
    ],
)
def test_what_is_not_equal_byte_for_byte_is_compared_by_value(here: str, there: str, equal: bool) -> None:
    text = _answer(_hit("1", there), _hit("2", '{"z":0}'))
    found = compare_answer(text, {b"1": here.encode(), b"2": b'{"z":0}'}, _V, "i")
    assert found.suspect == ([] if equal else [b"1"])
    assert found.found == 2


def test_missing_unexpected_and_newer_documents_are_suspects() -> None:
    expected = {b"missing": b"{}", b"left-out": None, b"gone": None, b"newer": b"{}", b"same": b"{}"}
    text = _answer(_hit("left-out", "{}"), _hit("newer", "{}", _V + 1), _hit("same", "{}"))
    found = compare_answer(text, expected, _V, "i")
    assert set(found.suspect) == {b"missing", b"left-out", b"newer"}
    assert found.found == 2
    assert compare_answer(_answer(), {b"1": b"{}"}, _V, "i").suspect == [b"1"]
    assert compare_answer("", {b"x" * 600: b"{}"}, _V, "i").suspect == [b"x" * 600]


def test_an_incomplete_answer_and_an_index_without_source_are_errors() -> None:
    with pytest.raises(Unreachable):
        compare_answer(_answer(failed=1), {b"1": b"{}"}, _V, "i")
    with pytest.raises(Unreachable):
        compare_answer(_answer(timed_out="true"), {b"1": b"{}"}, _V, "i")
    with pytest.raises(TargetRefused):
        compare_answer(_answer('{"_index":"i","_id":"1","_version":1,"_score":0.0}'), {b"1": b"{}"}, _V, "i")


def test_what_is_wrong_with_a_key_for_which_nothing_is_under_way() -> None:
    here, there = digest(b'{"a":1}'), digest(b'{"a":2}')
    assert difference(None, None, _V) is None
    assert difference(here, Reading(_V, here), _V) is None
    assert difference(here, None, _V) == "missing"
    assert difference(None, Reading(_V, there), _V) == "extra"
    assert difference(here, Reading(_V, there), _V) == "changed"
    assert difference(here, Reading(_V + 1, here), _V) == "foreign"  # it would keep out what we write


def test_the_topic_tells_the_class_of_a_changed_document() -> None:
    one, two, three = b'{"a":1}', b'{"a":2}', b'{"a":3}'
    records = [
        (b"stale", 0, 5, one), (b"stale", 0, 6, two),
        (b"moved on", 0, 5, one), (b"different", 0, 5, one), (b"other", 0, 5, one),
        (b"foreign", 0, 5, one), (b"late page", 0, 6, two), (b"late page", 0, 5, one),
        (b"deleted", 0, 5, one), (b"deleted", 0, 6, None),
    ]  # fmt: skip
    targets = {
        b"stale": Reading(5, digest(one)),
        b"moved on": Reading(5, digest(one)),
        b"different": Reading(5, digest(three)),
        b"foreign": Reading(4, digest(three)),
        b"late page": Reading(5, digest(one)),
        b"deleted": Reading(5, digest(one)),
        b"unknown": Reading(5, digest(one)),
    }
    found = {one.key: (one.drift, one.expected, one.found) for one in classify_changed(records, targets)}
    assert found == {
        b"stale": ("stale", 6, 5),
        b"moved on": ("stale", 5, 5),
        b"different": ("different", 5, 5),
        b"foreign": ("foreign", 5, 4),
        b"late page": ("stale", 6, 5),
        b"deleted": ("stale", None, 5),
        b"unknown": ("foreign", None, 5),
    }


def test_what_a_row_becomes() -> None:
    def failing(_: object) -> object:
        raise KeyError("x")

    assert shape(None, b"{}") == b"{}"
    assert shape(None, None) is None  # over the limit
    assert shape(lambda row: None, b"{}") == b""
    assert shape(lambda row: row | {"b": 1}, b'{"a":1}') == b'{"a":1,"b":1}'
    assert shape(failing, b"{}") is None


def test_a_check_is_gone_on_with_until_it_is_finished_other_or_old() -> None:
    began = CheckBegan("c1", ("full",), tile([("10",), ("20",)]))
    facts = {"check_began": began.as_dict()}
    now = datetime.now(UTC)
    assert unfinished(facts, ["full"], now) == began
    assert began.ranges[1] == Segment(1, ("10",), ("20",))
    assert unfinished({}, ["full"], now) is None
    assert unfinished(facts, ["counts", "full"], now) is None
    assert unfinished(facts, ["full"], now + timedelta(days=2)) is None
    assert unfinished(facts | {"validated": {"check": "c0"}}, ["full"], now) == began
    assert unfinished(facts | {"validated": {"check": "c1"}}, ["full"], now) is None


def test_verdicts_of_ranges_and_slices_add_up() -> None:
    ranges = [
        RangeVerdict(0, 10, 10),
        RangeVerdict(1, 20, 19, {"missing": 1}, (("7", "missing"),), pending=2),
    ]
    slices = [RangeVerdict(0, 30, 30, {"extra": 2}, (("8", "extra"), ("9", "extra")))]
    found = FullVerdict.of(ranges, slices)
    assert (found.ranges, found.slices, found.documents, found.pending) == (2, 1, 30, 2)
    assert found.drift == {"missing": 1, "extra": 2} and not found.clean
    assert found.drifted == (("7", "missing"), ("8", "extra"), ("9", "extra"))
    assert FullVerdict.from_dict(orjson.loads(orjson.dumps(found.as_dict()))) == found
    assert FullVerdict.of(ranges[:1], None).clean
