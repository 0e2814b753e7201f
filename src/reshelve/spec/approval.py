"""The section `approval`: who has to agree before anything is made, and how that is proven."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from reshelve.spec.fields import NUMBER, Section, Text

_LINKS: Final = 40  # as many as Linux follows


class Approval(Section):
    """Who must approve a run before anything is made."""

    required: Literal["none", "named", "signed"] = Field(
        default="none",
        description="What a run needs before it makes anything: `named`, the name of the owner or a delegate, "
        "`signed`, an SSH signature of one of them. none: whoever may run it decides.",
    )
    allowed_signers: Text | None = Field(
        default=None,
        description="File of the public keys that may sign, as `ssh-keygen` takes it (ALLOWED SIGNERS in its manual), "
        "relative to the spec. It lies outside the spec's folder: who may edit the spec must not be able to approve "
        "for its owner. Null: nobody can sign.",
    )
    revoked_keys: Text | None = Field(
        default=None,
        description="File of keys that are not good any more: a key revocation list of `ssh-keygen -k`, or public "
        "keys, one a line; relative to the spec, and outside its folder. Null: none.",
    )
    cutover: bool = Field(
        default=False,
        description="Whether the swap is approved apart, by whoever has seen the validation. False: the approval of "
        "the run covers it.",
    )
    valid_hours: Annotated[float, Field(gt=0, le=8760, allow_inf_nan=False), NUMBER] = Field(
        default=72.0,
        description="Hours within which what is approved must begin. 72: over a weekend; later, what was looked at is "
        "not what there is.",
    )

    @field_validator("allowed_signers", "revoked_keys")
    @classmethod
    def _outside_the_spec(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        context: dict[str, Any] = info.context or {}
        folder = Path(context.get("folder", ""))
        file = folder / value
        if is_within(folder, file):
            raise ValueError(
                f"{value} lies in the spec's folder, or a link on the way to it does: who may edit the spec could "
                "approve for its owner"
            )
        # Who has the plan only, such as a worker on another machine, approves nothing and needs no keys.
        if not context.get("planned") and not file.is_file():
            raise ValueError(f"no such file: {file}")
        return str(file)

    @model_validator(mode="after")
    def _keys_for_signatures(self) -> Approval:
        if self.required == "signed" and self.allowed_signers is None:
            raise ValueError("required: signed needs allowed_signers, the file of the keys that may sign")
        if self.required == "none" and self.cutover:
            raise ValueError("cutover: true needs required: named or signed")
        return self


def is_within(folder: Path, file: Path) -> bool:
    """Whether `file`, or a link on the way to it, lies in `folder`: who may write there could lead it elsewhere."""
    home = folder.resolve()
    return any(home in passed.parents for passed in _way(file))


def _way(file: Path) -> Iterator[Path]:
    """Every directory, link and file that the way to `file` passes, as the kernel goes it."""
    place, *pending = Path.cwd(), *file.parts
    links = 0
    while pending:
        step = pending.pop(0)
        if step == "..":
            place = place.parent
            continue
        here = place / step  # an absolute step begins anew
        yield here
        if here.is_symlink():
            links += 1
            if links > _LINKS:
                return
            pending = [*here.readlink().parts, *pending]
        else:
            place = here
