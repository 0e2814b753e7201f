"""`reshelve pause`: a run takes no more work until it is resumed."""

from __future__ import annotations

from reshelve.cli.connection import BootstrapOption, ConfigOption, RunArgument, cluster_of
from reshelve.cli.options import ByOption, WhyOption, operator
from reshelve.cli.output import JsonOption, say, show, show_json
from reshelve.cli.telling import tell


def pause(
    run: RunArgument,
    why: WhyOption = "",
    by: ByOption = None,
    as_json: JsonOption = False,
    bootstrap: BootstrapOption = None,
    config: ConfigOption = None,
) -> None:
    """Have all workers of a run finish what they have, and take no more, until `reshelve resume`. Within 2 seconds.

    What changes at the source is noted down meanwhile, so that its WAL does not pile up. A restart ends no pause."""
    told = tell(cluster_of(bootstrap, config), run, "pause", operator(by), why)
    if as_json:
        show_json(told.as_dict())
    else:
        show(f"Paused: run {told.run}.")
    say(f"next: reshelve resume {told.run}")
