"""Why a reindex is done."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from reshelve.spec.fields import Section, Text


class Why(Section):
    """Why it is done, for who approves it and for the report."""

    kind: Literal["schema_change", "shape_evolution", "new_index", "consistency_repair", "data_fix"] | None = Field(
        default=None, description="What waits for it. Null: not said."
    )
    reference: Text | None = Field(default=None, description="Of the change, e.g. a ticket or its URL. Null: none.")
    text: Text | None = Field(default=None, description="In words. Null: the kind says it.")

    @model_validator(mode="after")
    def _something(self) -> Why:
        if self.kind is None and self.text is None:
            raise ValueError("needs a kind or a text")
        return self

    def __str__(self) -> str:
        parts = [(self.kind or "").replace("_", " "), self.text or ""]
        said = ": ".join(part for part in parts if part)
        return said + (f" ({self.reference})" if self.reference else "")


def why_section(value: object) -> object:
    """A text stands for itself."""
    return {"text": value} if isinstance(value, str) else value


def or_text(schema: dict[str, Any]) -> None:
    """So the JSON Schema says it, too."""
    schema["anyOf"].append({"type": "string", "minLength": 1})
