"""How long the way back is kept open."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from reshelve.spec.fields import NUMBER, Section


class Rollback(Section):
    """How long the previous generation is kept after the cut-over."""

    grace_hours: Annotated[float, Field(gt=0, allow_inf_nan=False), NUMBER] | None = Field(
        default=None,
        description="Hours after the cut-over in which `clean` refuses to remove the previous generation, so that "
        "`rollback` finds it; --now overrides. Null: none, `clean` asks and that is all.",
    )
