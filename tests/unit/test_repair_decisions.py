from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer

from reshelve.cli.watch import seconds_of
from reshelve.drifted import DriftedKeys
from reshelve.errors import UsageError
from reshelve.model import DriftedKey, RunId
from reshelve.recheck import AHEAD, BEHIND, DIFFERENT, REFUSED, REJECTED, Finding, Verdict, conclude
from reshelve.repair import Pulse, Repaired
from reshelve.repair_report import render
from reshelve.state import RunState
from reshelve.validator.compare import Reading, Written
from reshelve.validator.newest import scratch
from reshelve.validator.suspects import Suspect
from reshelve.watch import watched_run

_DOCUMENT, _TOMBSTONE = Written(7, False), Written(7, True)
_SUSPECT = Suspect(b"1", "changed", Reading(7, b"other"))


@pytest.mark.parametrize(
    ("finding", "expected"),
    [
        (Finding(_DOCUMENT, (), 7), Verdict("document")),
        (Finding(_TOMBSTONE, (), None), Verdict("tombstone")),
        (Finding(_DOCUMENT, (Written(9, True),), 7), Verdict("tombstone")),  # buried since: it is on its way
        (Finding(_DOCUMENT, (Written(9, True),), None), Verdict("tombstone")),
        (Finding(_DOCUMENT, (Written(9, False),), 9), Verdict("document")),
        (Finding(_DOCUMENT, (), None), Verdict(why=REFUSED)),
        (Finding(_DOCUMENT, (), 6), Verdict(why=BEHIND)),
        (Finding(_DOCUMENT, (), 8), Verdict(why=AHEAD, ahead=8)),
        (Finding(_TOMBSTONE, (), 8), Verdict(why=AHEAD, ahead=8)),
        (Finding(_DOCUMENT, (Written(9, False),), 8), Verdict(why=BEHIND)),  # ours is on its way, and newer
        (Finding(None, (), 6), Verdict(why=REJECTED, final=True)),
    ],
)
def test_what_became_of_a_key(finding: Finding, expected: Verdict) -> None:
    assert conclude(finding, None, rejected=False) == expected


def test_the_right_version_of_another_value_is_not_right() -> None:
    assert conclude(Finding(_DOCUMENT, (), 7), _SUSPECT, rejected=False) == Verdict(why=DIFFERENT)


@pytest.mark.parametrize("found", [None, 6])
def test_a_document_that_the_index_rejected_is_not_tried_again(found: int | None) -> None:
    assert conclude(Finding(_DOCUMENT, (), found), None, rejected=True) == Verdict(why=REJECTED, final=True)


def test_a_reject_that_was_accepted_later_counts_as_written() -> None:
    assert conclude(Finding(_DOCUMENT, (), 7), None, rejected=True) == Verdict("document")


# --- the keys of a check


@pytest.fixture
def keys() -> Iterator[DriftedKeys]:
    with scratch() as memory:
        keys = DriftedKeys(memory, "check")
        for number in range(1_203):
            drift = "missing" if number % 3 else "foreign"
            keys.put(DriftedKey(f"{number:04}", "check", "full", drift, None, None if number % 3 else 9))
        yield keys


def test_the_newest_record_of_a_key_counts(keys: DriftedKeys) -> None:
    keys.put(DriftedKey("0001", "check", "full", "stale", 5, 4))
    assert keys.counts == {"foreign": 401, "missing": 801, "stale": 1}
    assert [one.key for one in keys.examples(2)] == ["0000", "0003", "0002", "0004", "0001"]


def test_what_is_done_with_a_page_of_keys_takes_them_out_of_the_next_round(keys: DriftedKeys) -> None:
    for page in keys.pages():
        for one in page:
            if one.drift == "missing":
                keys.settle(one.key, "document")
            elif one.key == "0000":
                keys.leave(one.key, "rejected", final=True)
            else:
                keys.leave(one.key, "ahead", ahead=one.found)
    assert keys.writes == {"document": 802}
    assert keys.left == {"foreign": 401}
    assert sum(map(len, keys.pages())) == 400
    assert sum(len(some) for some in keys.ahead()) == 400
    assert keys.reasons(1)[0][1] == "rejected"
    for some in keys.ahead():
        for key in some:
            keys.settle(key, "tombstone")
    assert not keys.open
    assert keys.left == {"foreign": 1}


def test_a_report_says_what_is_left() -> None:
    repaired = Repaired(
        "r.1", "r-1", "check", "2026-01-02", 1.5, {"missing": 3}, {"document": 2}, 0, {"missing": 1},
        (("7", "missing", "rejected"),),
    )  # fmt: skip
    assert not repaired.clean
    assert repaired.summary() == "3 drifted keys: 2 document written; left: 1 missing"
    text = render(repaired)
    assert "| missing | 3 | 1 |" in text
    assert "- `7` (missing): rejected" in text


def test_a_pulse_is_rare() -> None:
    beats: list[int] = []
    pulse = Pulse(lambda: beats.append(1), every=1e6)
    pulse()
    pulse()
    assert len(beats) == 1


# --- watch


def _state(name: str, *facts: str, cleaned: bool = False, rolled_back: bool = False) -> RunState:
    state = RunState(RunId("r", name), cleaned=cleaned, rolled_back=rolled_back)
    state.facts.update({kind: {} for kind in facts})
    return state


def test_the_newest_run_that_searches_may_use_is_watched() -> None:
    states = [
        _state("1", "completed", cleaned=True),
        _state("2", "completed"),
        _state("3", "completed", rolled_back=True),
        _state("4", "copied"),
    ]
    by_name = {str(state.run): state for state in states}
    assert watched_run(by_name, "r").run.name == "2"
    assert watched_run(by_name, "r.3").run.name == "3"
    with pytest.raises(UsageError):
        watched_run(by_name, "other")


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("10m", 600), ("6h", 21_600), ("1d", 86_400)])
def test_times(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "m", "10 minutes", "-5m"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        seconds_of(text)
