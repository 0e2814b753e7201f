"""The spec: what is rebuilt, from where, into what. Every field says its unit, what null means, and why its
default is what it is; the published JSON Schema and docs/spec.md say the same words."""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from reshelve.spec.approval import Approval
from reshelve.spec.fields import NUMBER, Rate, Section, Text, byte_size, one_or_more, setting_texts
from reshelve.spec.notify import Notify, public_notify
from reshelve.spec.reason import Why, or_text, why_section
from reshelve.spec.rollback import Rollback
from reshelve.spec.scope import Phase, Scope
from reshelve.spec.secrets import MASK, is_secret_setting, without_passwords
from reshelve.spec.source import Changes, Replication, Source, changes_section
from reshelve.spec.target import Target
from reshelve.spec.throttle import AdaptiveThrottle, public_url
from reshelve.spec.validation import Validation
from reshelve.spec.window import Window
from reshelve.spec.yaml_source import YamlSource


class Kafka(Section):
    """The Kafka cluster that carries the run: its work, its documents and its journal."""

    bootstrap: Text = Field(description="host:port of one or more brokers, separated by commas.")
    partitions: Annotated[int, Field(ge=1, le=10_000), NUMBER] = Field(
        default=4,
        description="Partitions of the run's topics: the most workers of one role that can share the work. "
        "4, enough for millions of documents on a few machines.",
    )
    replication_factor: Annotated[int, Field(ge=1, le=32767), NUMBER] | None = Field(
        default=None, description="Copies of each partition. Null: what the brokers have as default."
    )
    config: Annotated[dict[str, str], BeforeValidator(setting_texts)] = Field(
        default_factory=dict,
        description="Settings passed to librdkafka as they are (TLS, SASL, …). Secrets by `${NAME}`. "
        "Empty: a plain connection.",
        json_schema_extra={"additionalProperties": {"type": ["string", "number", "boolean"]}},
    )
    max_document_bytes: Annotated[int, Field(ge=1024, le=90_000_000), NUMBER] = Field(
        default=8 << 20,
        description="Bytes of JSON of the largest document; larger ones become rejects. 8 MiB: above what "
        "a search index should hold. At most 90 MB: Kafka's clients and OpenSearch take 100 MB at once.",
    )


class Limits(Section):
    """How hard the run may push."""

    documents_per_second: Rate | None = Field(
        default=None, description="Documents a second over all workers. Null: as fast as it goes."
    )
    megabytes_per_second: Rate | None = Field(
        default=None,
        description="Megabytes (10^6 bytes of JSON) a second over all workers. Null: as fast as it goes.",
    )
    in_flight: Annotated[int, Field(ge=1, le=16), NUMBER] = Field(
        default=2,
        description="Bulk requests under way at once per indexer. 2: one is indexed while the next one "
        "travels; raise it for a cluster of many nodes.",
    )
    max_rejects: Annotated[int, Field(ge=0), NUMBER] = Field(
        default=1000,
        description="Open rejects after which the run stops; superseded, redriven and waived ones don't count. 1000: "
        "enough to see a pattern, too few to hide a broken mapping.",
    )
    max_wal_retained: Annotated[int, Field(ge=1_000_000), BeforeValidator(byte_size), NUMBER] = Field(
        default=10 * 10**9,
        description="WAL that the source may keep for the run's slot, e.g. `10 GB`. Past it the slot is dropped and "
        "the run ends Blocked: a full disk would stop the source. 10 GB: hours of a busy server.",
        json_schema_extra={"type": ["integer", "string"]},
    )
    max_seconds_behind: Rate = Field(
        default=10.0,
        description="How old the oldest change that is not indexed may be at the cut-over, in seconds. 10: searches "
        "hardly see the swap.",
    )


class Environment(Section):
    """What differs where the spec is used there: any other section of the spec, field by field."""

    description: Text | None = Field(default=None, description="What it is, for people. Null: not said.")


class Spec(Section):
    """A rebuild of one search index from its source of truth."""

    model_config = ConfigDict(title="Reshelve spec")

    reindex: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,59}$")] = Field(
        description="Name of the reindex: lowercase letters, digits, - and _, at most 60. Topics, groups "
        "and the new index are named after it."
    )
    owner: Text | None = Field(default=None, description="Who answers for it, for the report. Null: not said.")
    delegates: Annotated[tuple[Text, ...], BeforeValidator(one_or_more)] = Field(
        default=(),
        description="Who may answer for it instead of the owner. Empty: nobody.",
        json_schema_extra={"type": ["string", "array", "null"]},
    )
    why: Annotated[Why | None, BeforeValidator(why_section)] = Field(
        default=None,
        description="Why it is done: a text, or a mapping with `kind`, `reference` and `text`. Null: not said.",
        json_schema_extra=or_text,
    )
    source: Source
    scope: Scope = Field(default_factory=Scope)
    phases: tuple[Phase, ...] = Field(
        default=(),
        description="Parts in which the scope is copied, in this order; together they cover it, without gap and "
        "overlap. Empty: all at once.",
    )
    target: Target
    kafka: Kafka
    changes: Annotated[Changes, BeforeValidator(changes_section)] = Field(
        default_factory=lambda: Changes(replication=Replication()),
        description="How writes to the source are followed: `replication` (a logical replication slot of the run's "
        "own), `debezium` (topics that are there already) or `none`. replication: it loses nothing.",
        json_schema_extra={"anyOf": [{"enum": ["replication", "none"]}, {"type": "object"}]},
    )
    follow: Literal["until_cutover", "always"] = Field(
        default="until_cutover",
        description="Until when changes are indexed. `always`: the run goes on after the swap, until it is retired. "
        "until_cutover: after it the index is the application's.",
    )
    limits: Limits = Field(default_factory=Limits)
    validation: Validation = Field(default_factory=Validation)
    throttle: AdaptiveThrottle = Field(default_factory=AdaptiveThrottle)
    window: Window | None = Field(
        default=None,
        description="When the run may work; outside it pauses by itself. Null: always.",
    )
    rollback: Rollback = Field(default_factory=Rollback)
    approval: Approval = Field(default_factory=Approval)
    notify: Notify = Field(default_factory=Notify)
    transform: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
        description="`package.module:function` from document (dict) to document, or to None to leave it out. "
        "Null: documents pass through untouched, which is many times faster.",
    )
    environments: dict[str, Environment] = Field(
        default_factory=dict,
        exclude=True,
        description="What differs by environment (staging, production, …): each holds a `description` and any of the "
        "other sections, laid over them. Chosen by --environment or RESHELVE_ENVIRONMENT; one alone is chosen by "
        "itself. Empty: there is one environment, without a name.",
    )

    _text: str = PrivateAttr(default="")
    _environment: str = PrivateAttr(default="")
    _folder: Path = PrivateAttr(default=Path())
    _definition: dict[str, Any] = PrivateAttr(default_factory=dict)
    _origin: YamlSource = PrivateAttr(default_factory=lambda: YamlSource("spec"))

    @field_validator(
        "scope", "limits", "throttle", "validation", "rollback", "approval", "notify", "environments", mode="before"
    )
    @classmethod
    def _empty_section(cls, value: object) -> object:
        return {} if value is None else value

    @field_validator("phases", "delegates", mode="before")
    @classmethod
    def _empty_list(cls, value: object) -> object:
        return () if value is None else value

    @model_validator(mode="after")
    def _something_to_follow(self) -> Spec:
        if self.follow == "always" and self.changes.mode == "none":
            raise ValueError("follow: always needs changes to follow; changes is none")
        return self

    @model_validator(mode="after")
    def _somebody_to_approve(self) -> Spec:
        if self.approval.required != "none" and self.owner is None:
            raise ValueError("an approval is required (approval.required), and the spec names no owner to give it")
        return self

    @property
    def text(self) -> str:
        """The text of the file, variables as written."""
        return self._text

    @property
    def name(self) -> str:
        """The file's name as it stands in places (`file:line:column`)."""
        return self._origin.name

    @property
    def environment(self) -> str:
        """The environment that is laid over the spec; empty where it defines none."""
        return self._environment

    @property
    def folder(self) -> Path:
        """The folder that file names in the spec are relative to."""
        return self._folder

    @property
    def definition(self) -> dict[str, Any]:
        """The index definition: `settings` and `mappings`, as asked for."""
        return self._definition

    def place(self, field: str) -> str:
        """`file:line:column` of a field, e.g. `source.postgres.key` or `source.postgres.depends_on.0.table`, or of
        what it would stand in."""
        return self._origin.place(path_of(field))

    def place_inside(self, field: str, offset: int) -> str:
        """`file:line:column` of the character at `offset` of a text, exact for literal blocks (`|`)."""
        return self._origin.place_inside(path_of(field), offset)

    def public(self) -> dict[str, Any]:
        """The resolved spec without secrets, for the plan and the journal."""
        data = self.model_dump(mode="json")
        postgres, opensearch = data["source"]["postgres"], data["target"]["opensearch"]
        postgres["url"] = without_passwords(postgres["url"])
        opensearch["url"] = without_passwords(opensearch["url"])
        if opensearch["ca_certs"] is not None:
            opensearch["ca_certs"] = os.path.relpath(opensearch["ca_certs"], self._folder)
        if opensearch["password"] is not None:
            opensearch["password"] = MASK
        for keys in ("allowed_signers", "revoked_keys"):
            if data["approval"][keys] is not None:
                data["approval"][keys] = os.path.relpath(data["approval"][keys], self._folder)
        if data["validation"]["queries"] is not None:
            queries = data["validation"]["queries"]
            queries["file"] = os.path.relpath(queries["file"], self._folder)
        if data["throttle"]["stop_url"] is not None:
            data["throttle"]["stop_url"] = public_url(data["throttle"]["stop_url"])
        data["notify"] = public_notify(data["notify"])
        config = data["kafka"]["config"]
        data["kafka"]["config"] = _masked(config)
        if data["changes"]["debezium"] is not None:
            data["changes"]["debezium"]["config"] = _masked(data["changes"]["debezium"]["config"])
            if data["changes"]["debezium"]["registry"] is not None:
                data["changes"]["debezium"]["registry"] = without_passwords(data["changes"]["debezium"]["registry"])
        return data


def path_of(field: str) -> tuple[str | int, ...]:
    """Of a dotted name; numbers are those of list items."""
    return tuple(int(step) if step.isdigit() else step for step in field.split("."))


def _masked(config: dict[str, str]) -> dict[str, str]:
    return {name: MASK if is_secret_setting(name) else value for name, value in config.items()}
