"""What a replay is asked for, and when it is the same replay again."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from reshelve.consumers.alias import Alias
from reshelve.consumers.replay import Start
from reshelve.errors import UsageError
from reshelve.journal import Event
from reshelve.model import RunId
from reshelve.rates import Rate
from reshelve.replay.request import Request, Task, aimed, unfinished
from reshelve.replay.work import ReplayProgress, shares

_RUN = RunId("cities", "one")
_TASK = Task("id", "group", "index", "index.write", "", False, {0: 0, 1: 5}, {0: 10, 1: 20})


def _events(*entries: tuple[str, dict[str, Any]]) -> list[Event]:
    events: list[Event] = []
    for kind, data in entries:
        events.append(Event.after(events[-1] if events else None, _RUN, kind, data, datetime.now(UTC)))
    return events


def test_the_same_arguments_name_the_same_replay() -> None:
    request = Request(Start(at=5), keys=frozenset([b"a", b"b", b"\xff"]))
    assert request.id(_RUN) == Request(Start(at=5), keys=frozenset([b"\xff", b"b", b"a"])).id(_RUN)
    others = [
        replace(request, start=Start(at=6)),
        replace(request, keys=frozenset([b"a"])),
        replace(request, keys=None),
        Request(to="x"),
        Request(to="x", definition={"settings": {}}),
        Request(),
    ]
    assert len({request.id(_RUN), *(one.id(_RUN) for one in others), Request().id(RunId("cities", "two"))}) == 8


@pytest.mark.parametrize(
    "request_",
    [
        Request(definition={}),
        Request(Start(at=1), to="x"),
        Request(Start(((0, 1),)), to="x"),
        Request(keys=frozenset()),
    ],
)
def test_what_makes_no_sense(request_: Request) -> None:
    with pytest.raises(UsageError):
        request_.require()


def test_a_name_stands_for_the_run_s_own_index_or_for_a_new_one() -> None:
    asked = Request(Start(at=1), to="x")
    assert aimed(asked, Alias("x"), "own") == asked
    assert aimed(asked, Alias("x", ("own",)), "own") == Request(Start(at=1))
    assert aimed(replace(asked, to="own"), Alias("own", is_index=True), "own").to is None


@pytest.mark.parametrize(
    ("held", "why"),
    [
        (Alias("x", is_index=True), "it is an index"),
        (Alias("x", ("other",)), "an alias of index other"),
        (Alias("x", ("other", "own")), "an alias of other, own"),
        (Alias("x", is_data_stream=True), "a data stream"),
    ],
)
def test_no_other_index_is_touched(held: Alias, why: str) -> None:
    with pytest.raises(UsageError, match="x exists already") as refused:
        aimed(Request(to="x"), held, "own")
    assert why in refused.value.why


def test_a_task_survives_the_journal() -> None:
    assert Task.of(json.loads(json.dumps(_TASK.as_dict()))) == _TASK


def test_an_unfinished_replay_is_found() -> None:
    begun, made, ended = _TASK.as_dict(), replace(_TASK, uuid="u").as_dict(), {"id": "id"}
    other = replace(_TASK, id="other").as_dict()
    assert unfinished(_events(("replaying", begun)), "id") == _TASK
    assert unfinished(_events(("replaying", begun), ("replaying", made), ("replaying", other)), "id") == Task.of(made)
    assert unfinished(_events(("replaying", begun), ("replayed", ended)), "id") is None
    assert unfinished(_events(("replaying", begun), ("replayed", {"id": "other"})), "id") == _TASK
    assert unfinished(_events(("replayed", ended), ("replaying", begun)), "id") == _TASK
    assert unfinished(_events(("planned", {})), "id") is None


def test_partitions_are_dealt_out() -> None:
    starts = {0: 0, 1: 1, 4: 4}
    assert shares(starts, 2) == [{0: 0, 4: 4}, {1: 1}]
    assert shares(starts, 5) == [{0: 0}, {1: 1}, {4: 4}]


def test_time_left() -> None:
    assert ReplayProgress("apply", 0, 100).eta_s() is None
    low, high = ReplayProgress("apply", 50, 100, rate=Rate(10.0, 5.0)).eta_s() or (0, 0)
    assert (low, high) == (5.0, 12.0)
