"""The end of a run announced to whom its spec names. That somebody could not be told is said and journaled; it never
changes how the run ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from reshelve.context import RunContext
from reshelve.errors import BlockedError, ReshelveError
from reshelve.notify.delivery import to_command, to_topic, to_webhook
from reshelve.notify.event import CloudEvent, cloud_event, outcome
from reshelve.state import RunState

NOTIFIED: Final = "notified"
FAILED: Final = "notify_failed"
Record = Callable[[str, dict[str, Any]], None]
Say = Callable[[str], None]
_Delivery = tuple[str, Callable[[], None]]


def announce(context: RunContext, state: RunState, record: Record, say: Say) -> None:
    """Tell how the run has ended, if it has, and it was not told yet. Raises nothing that a run could end by."""
    how = outcome(state)
    if how is None or not context.spec.notify.anybody or state.facts.get(NOTIFIED, {}).get("of") == state.since:
        return
    event = cloud_event(state, how)
    told: list[str] = []
    try:
        for whom, deliver in _deliveries(context, state, event, say):
            try:
                deliver()
            except ReshelveError as error:
                say(f"not told {whom} of the end: {error}")
                record(FAILED, error.as_dict() | {"id": event.id, "whom": whom})
            else:
                told.append(whom)
        record(NOTIFIED, {"of": state.since, "type": event.type, "id": event.id, "told": told})
    except BlockedError as error:
        say(f"not recorded who was told: {error}")


def _deliveries(context: RunContext, state: RunState, event: CloudEvent, say: Say) -> Iterator[_Delivery]:
    """Whom to tell, and how."""
    asked, kafka = context.spec.notify, context.spec.kafka
    if asked.topic is not None:
        yield f"topic {asked.topic}", partial(to_topic, event, context.cluster, asked.topic, kafka.replication_factor)
    for hook in asked.webhooks:
        yield f"webhook {hook.shown}", partial(to_webhook, event, hook)
    if asked.commands and context.spec.approval.required != "none" and not state.approvals:
        say("the commands of `notify` are not run: nobody has approved this plan")
        return
    for command in asked.commands:
        yield f"command {command[0]}", partial(to_command, event, command)
