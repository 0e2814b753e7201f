"""Slots that runs have left at their sources: found, told from those in use, and cleaned up; never silently left."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from pipeline import Pipeline

from reshelve.cleanup import Leftovers, _with_source
from reshelve.context import RunContext
from reshelve.lease import Holder
from reshelve.plan import make_plan
from reshelve.producers.slot import create_publication, create_slot, drop_publication, drop_slot
from reshelve.producers.source import source_session
from reshelve.slots import look_at_slots
from reshelve.spec import load
from reshelve.state import RunState

pytestmark = pytest.mark.services


def test_slots_left(docs: Callable[[int], Pipeline], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = docs(3)
    for name, value in pipeline.environ.items():
        monkeypatch.setenv(name, value)
    plan = make_plan(load(pipeline.write(), pipeline.environ))
    context, changes = RunContext(plan, plan.resolve()), plan.changes
    state = RunState(plan.id, state="running")
    state.facts["planned"] = {"plan": json.loads(plan.to_json())}
    unknown = f"reshelve_{pipeline.name}_gone"
    with source_session(pipeline.database, "test") as connection:
        try:
            create_publication(connection, changes)
            create_slot(connection, changes, lambda _: None)
            create_slot(connection, replace(changes, slot=unknown), lambda _: None)
            driven, unseen = look_at_slots([state], {str(state.run): Holder.here()})
            assert unseen == []
            ours = {slot.slot: slot for slot in driven if pipeline.name in slot.slot}
            assert [ours[name].left for name in (changes.slot, unknown)] == [False, True]
            assert "no other journal" in ours[unknown].remedy
            left, _ = look_at_slots([state], {})
            (mine,) = [slot for slot in left if slot.slot == changes.slot]
            assert mine.left
            assert f"reshelve clean {state.run}" in mine.remedy
            assert mine.retained_bytes is not None

            leftovers = _with_source(context, state, Leftovers((), (), "", ""))
            assert (leftovers.slot, leftovers.publication) == (changes.slot, changes.publication)
            drop_slot(connection, changes.slot)
            drop_publication(connection, changes.publication)
            leftovers = _with_source(context, state, Leftovers((), (), "", ""))
            assert (leftovers.slot, leftovers.publication, leftovers.source_away) == ("", "", "")
        finally:
            drop_slot(connection, changes.slot)
            drop_slot(connection, unknown)

    monkeypatch.setenv("SOURCE_URL", "postgresql://127.0.0.1:1/none")
    away = RunContext(plan, plan.resolve())
    assert "127.0.0.1:1" in _with_source(away, state, Leftovers((), (), "", "")).source_away
    found, unseen = look_at_slots([state], {})
    assert found == []
    assert "can't be looked at" in unseen[0]
    state.facts["slot_dropped"] = {}
    assert _with_source(away, state, Leftovers((), (), "", "")).source_away == ""
    monkeypatch.delenv("SOURCE_URL")
    _, unseen = look_at_slots([state], {})
    assert "SOURCE_URL" in unseen[0]
