"""`reshelve rollback`: the alias back to the generation before."""

from __future__ import annotations

from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_of
from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.cutover import roll_back
from reshelve.session import attach


def rollback(
    run: RunArgument, as_json: JsonOption = False, bootstrap: BootstrapOption = None, config: ConfigOption = None
) -> None:
    """Point the alias back to the index it pointed to before the run. Atomic; what was written since is not in it."""
    session = attach(cluster_of(bootstrap, config), run, say)
    plan = session.context.plan
    try:
        roll_back(session.context, plan.previous_index, plan.previous_uuid)
        session.record("rolled_back", {"alias": plan.alias, "from": plan.index, "to": plan.previous_index})
    finally:
        session.lease.release()
    if as_json:
        show_json({"run": plan.run, "alias": plan.alias, "index": plan.previous_index})
    else:
        show(f"Rolled back: alias {plan.alias} points to {plan.previous_index}.")
    say(f"next: reshelve clean {plan.run} removes the new index and the topics")
