"""Where documents come from, and how writes to that source are followed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from reshelve.spec.fields import Section, Text, http_url, one_or_more, postgres_url, setting_texts
from reshelve.spec.statement import clean_query


class Dependency(Section):
    """A table that the query reads besides the one that the key comes from: whose changes alter which documents."""

    table: Text = Field(description="Table as `schema.table`; without a schema, of schema `public`.")
    key: Annotated[tuple[Text, ...], BeforeValidator(one_or_more)] | None = Field(
        default=None,
        description="Column, or list of columns, of this table that hold the document key of the documents that its "
        "row is part of. Null: `lookup` says which they are.",
        json_schema_extra={"type": ["string", "array", "null"]},
    )
    lookup: Annotated[Text, AfterValidator(clean_query)] | None = Field(
        default=None,
        description="SELECT that returns the keys of the documents that depend on the values of `columns`: "
        "`%(values)s` is the array of a single column's values; of several columns each is an array by its name. "
        "Null: `key` holds them.",
    )
    columns: Annotated[tuple[Text, ...], BeforeValidator(one_or_more)] | None = Field(
        default=None,
        description="Columns of this table whose values, old and new, `lookup` gets.",
        json_schema_extra={"type": ["string", "array", "null"]},
    )
    ignore: bool = Field(
        default=False,
        description="Changes of this table are not followed. False: a document would silently go stale.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Dependency:
        if sum((self.key is not None, self.lookup is not None, self.ignore)) != 1:
            raise ValueError("needs one of key, lookup and ignore")
        if (self.lookup is None) != (self.columns is None):
            raise ValueError("lookup and columns go together")
        return self

    @property
    def qualified(self) -> tuple[str, str]:
        """(schema, table)."""
        schema, dot, table = self.table.rpartition(".")
        return (schema if dot else "public", table)


class Postgres(Section):
    """The PostgreSQL database that is the source of truth, and the query that makes documents of it."""

    url: Annotated[Text, AfterValidator(postgres_url)] = Field(
        description="Connection URL or keyword string of the primary, as libpq takes it. "
        "Reference the password by `${NAME}`: the text of the spec is kept in the journal."
    )
    key: Annotated[tuple[Text, ...], BeforeValidator(one_or_more)] = Field(
        min_length=1,
        description="Column, or list of columns, of the query's result that names a document. "
        "It must be unique, not null and indexed; its text is the `_id` (columns joined by `|`), "
        "at most 512 bytes.",
        json_schema_extra={"type": ["string", "array"]},
    )
    query: Annotated[Text, AfterValidator(clean_query)] = Field(
        description="One SELECT that returns one row per document; each column is a field of the document. "
        "Names of tables carry their schema: it is run with an empty search_path."
    )
    depends_on: tuple[Dependency, ...] = Field(
        default=(),
        description="The other tables that the query reads, and how a change of one leads to documents. Empty: it "
        "reads the table of the key alone.",
    )

    @field_validator("key")
    @classmethod
    def _key_differs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names a column twice")
        return value


class Source(Section):
    """Where the documents come from."""

    postgres: Postgres


class Replication(Section):
    """Changes by logical replication, from a slot that the run makes and drops."""

    publication: Text | None = Field(
        default=None,
        description="Publication to use, made by the tables' owner. Null: the run makes one, for which its user must "
        "own the tables.",
    )


class Debezium(Section):
    """Changes from the topics that a Debezium connector fills."""

    topics: Annotated[tuple[Text, ...], Field(min_length=1)] = Field(description="Topics of the tables' change events.")
    slot: Text = Field(
        default="debezium",
        description="The connector's replication slot: what it has confirmed is durable in Kafka. `debezium`, as by "
        "its own default.",
    )
    bootstrap: Text | None = Field(
        default=None, description="Brokers that hold the topics. Null: those of `kafka.bootstrap`."
    )
    config: Annotated[dict[str, str], BeforeValidator(setting_texts)] = Field(
        default_factory=dict,
        description="Settings passed to librdkafka for these brokers. Empty: `kafka.config` where the brokers are "
        "the same, else a plain connection.",
        json_schema_extra={"additionalProperties": {"type": ["string", "number", "boolean"]}},
    )
    format: Literal["json", "avro"] = Field(
        default="json", description="How keys and values are written. json: Debezium's default, with schema or without."
    )
    registry: Annotated[Text, AfterValidator(http_url)] | None = Field(
        default=None, description="URL of the schema registry; needed for avro."
    )

    @model_validator(mode="after")
    def _registry_for_avro(self) -> Debezium:
        if self.format == "avro" and self.registry is None:
            raise ValueError("format avro needs a registry")
        return self


class Changes(Section):
    """How writes to the source are followed while the index is rebuilt; `none`: they are not."""

    replication: Replication | None = Field(
        default=None, description="A logical replication slot of the run's own. Null: none."
    )
    debezium: Debezium | None = Field(
        default=None, description="Topics that a Debezium connector fills already. Null: none."
    )

    @model_validator(mode="after")
    def _one_at_most(self) -> Changes:
        if self.replication is not None and self.debezium is not None:
            raise ValueError("name one of replication and debezium")
        return self

    @property
    def mode(self) -> Literal["replication", "debezium", "none"]:
        if self.debezium is not None:
            return "debezium"
        return "none" if self.replication is None else "replication"


def changes_section(value: object) -> object:
    """`replication` and `none` stand for themselves."""
    if value in ("none", "replication"):
        return {} if value == "none" else {"replication": {}}
    if not isinstance(value, dict | Changes) or value == {}:
        raise ValueError("should be replication, none, or a mapping with replication or debezium")
    if isinstance(value, dict):
        return {name: {} if name == "replication" and part is None else part for name, part in value.items()}
    return value
