"""Where the documents go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from reshelve.spec.fields import Section, Text, alias_name, http_url


class OpenSearch(Section):
    """The OpenSearch cluster and the alias that searches use."""

    url: Annotated[Text, AfterValidator(http_url)] = Field(description="http:// or https:// URL of any node.")
    alias: Annotated[Text, AfterValidator(alias_name)] = Field(
        description="Alias that searches use; it is moved to the new index at the end. Created when missing."
    )
    index: Text = Field(
        description="File with the new index's `settings` and `mappings` as JSON, relative to the spec."
    )
    username: Text | None = Field(default=None, description="User name. Null: none, or the one in the URL.")
    password: Text | None = Field(
        default=None, description="Password, by `${NAME}`. Null: none, or the one in the URL.", repr=False
    )
    ca_certs: Text | None = Field(
        default=None,
        description="PEM file of the authorities to trust, relative to the spec. Null: those of the system.",
    )
    verify_certs: bool = Field(
        default=True,
        description="Whether the server's certificate is checked. True: anything else invites forgery.",
    )

    @field_validator("ca_certs")
    @classmethod
    def _beside_the_spec(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        path = Path((info.context or {}).get("folder", "")) / value
        if not path.is_file():
            raise ValueError(f"no such file: {path}")
        return str(path)

    @model_validator(mode="after")
    def _credentials_together(self) -> OpenSearch:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        return self


class Target(Section):
    """Where the documents go."""

    opensearch: OpenSearch
