"""`reshelve rollback`: the alias back to the generation before."""

from __future__ import annotations

from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_of
from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.cutover import roll_back
from reshelve.errors import UsageError
from reshelve.notify.announce import announce
from reshelve.session import attach


def rollback(
    run: RunArgument, as_json: JsonOption = False, bootstrap: BootstrapOption = None, config: ConfigOption = None
) -> None:
    """Point the alias back to the index it pointed to before the run. Atomic; it has what was
    written since only if its changes are still followed."""
    session = attach(cluster_of(bootstrap, config), run, say)
    state, plan = session.state, session.context.plan
    try:
        if "cutover_began" not in state.facts:
            raise UsageError(
                f"run {state.run} has not moved alias {plan.alias}",
                why="it has adopted the index that the alias points to"
                if state.adopted
                else f"it has not come to the cut-over: it is {state.state} in stage {state.stage}",
                remedy="there is nothing to roll back; `reshelve runs` lists the runs that completed",
            )
        roll_back(session.context, plan.previous_index, plan.previous_uuid)
        session.record("rolled_back", {"alias": plan.alias, "from": plan.index, "to": plan.previous_index})
        if not state.ended:  # else running again would close it as completed
            session.record("aborted", {"why": "rolled back before its end"})
            announce(session.context, state, session.record, say)
    finally:
        session.lease.release()
    if as_json:
        show_json({"run": plan.run, "alias": plan.alias, "index": plan.previous_index})
    else:
        show(f"Rolled back: alias {plan.alias} points to {plan.previous_index}.")
    say(f"next: reshelve clean {plan.run} removes the new index and the topics")
