"""How the result is proven before it is swapped in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from reshelve.spec.fields import NUMBER, Section, Text, off_text


class Queries(Section):
    """Searches whose answers are compared, old index against new."""

    file: Text = Field(
        description="File with searches, one JSON object a line: `name`, and `body` as `_search` takes it; relative "
        "to the spec."
    )
    k: Annotated[int, Field(ge=1, le=1000), NUMBER] = Field(
        default=10, description="How many of the first hits are compared. 10: a first page of results."
    )
    min_overlap: Annotated[float, Field(ge=0, le=1), NUMBER] | None = Field(
        default=None,
        description="Share of the first k hits that both indexes must have in common, on average over the searches. "
        "Null: shown, but no gate; a new mapping is often meant to find something else.",
    )
    min_rbo: Annotated[float, Field(ge=0, le=1), NUMBER] | None = Field(
        default=None,
        description="Rank-biased overlap (p = 0.9) that must be reached on average. Null: shown, but no gate.",
    )

    @field_validator("file")
    @classmethod
    def _queries_beside_the_spec(cls, value: str, info: ValidationInfo) -> str:
        path = Path((info.context or {}).get("folder", "")) / value
        if not path.is_file():
            raise ValueError(f"no such file: {path}")
        return str(path)


class Validation(Section):
    """How the result is proven before it is swapped in."""

    counts: Annotated[Literal["exact", "off"], BeforeValidator(off_text)] = Field(
        default="exact", description="Whether documents are counted per partition, topic against index."
    )
    checksums: bool = Field(
        default=True,
        description="Whether checksums of keys and versions are compared per partition, topic against index.",
    )
    samples_per_partition: Annotated[int, Field(ge=0, le=100_000), NUMBER] = Field(
        default=200,
        description="Whole documents compared per partition, source against index. 200: a fault in 1.5 % "
        "of the documents is found with 95 % certainty in each partition. 0: none.",
    )
    full: bool = Field(
        default=False,
        description="Whether every document is compared whole, source against index. False: checksums and samples "
        "prove the same but for documents that were wrong when they were read; it takes about as long as the copy.",
    )
    queries: Queries | None = Field(
        default=None, description="Real searches to compare, old index against new. Null: none."
    )
