"""A run with what it needs to speak to its servers: the plan, the spec with its secrets, the clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import psycopg

from reshelve.kafka import KafkaCluster
from reshelve.model import RunId
from reshelve.plan import Plan
from reshelve.producers.planner import source_query
from reshelve.producers.query import SourceQuery
from reshelve.producers.snapshot import SnapshotReader
from reshelve.producers.source import source_lost
from reshelve.spec import Spec
from reshelve.transform import load_transform

if TYPE_CHECKING:
    from opensearchpy import OpenSearch


@dataclass(frozen=True)
class RunContext:
    """The plan says what is done; the spec, resolved from the plan's text in this process's environment,
    brings the secrets, which no record holds."""

    plan: Plan
    spec: Spec

    @cached_property
    def run(self) -> RunId:
        return RunId.parse(self.plan.run)

    @cached_property
    def cluster(self) -> KafkaCluster:
        return KafkaCluster(self.spec.kafka.bootstrap, self.spec.kafka.config)

    @cached_property
    def partitions(self) -> int:
        """Of `documents`, and so of everything that is done by partition."""
        return self.spec.kafka.partitions

    @cached_property
    def opensearch(self) -> OpenSearch:
        from reshelve.consumers.opensearch import connect  # 20 MiB that a page reader has no use for

        return connect(self.spec.target.opensearch)

    @cached_property
    def query(self) -> SourceQuery:
        return source_query(self.spec, self.plan.source.key)

    @cached_property
    def transform(self) -> Callable[[dict[str, Any]], object] | None:
        """The spec's hook; None when it has none. Raises UsageError when it can't be imported."""
        if self.spec.transform is None:
            return None
        return load_transform(self.spec.transform, self.plan.spec_folder)

    def snapshot_reader(self, name: str) -> SnapshotReader:
        """A reader of the source; `name` is its application_name."""
        return SnapshotReader(
            self.spec.source.postgres.url,
            self.query,
            self.plan.source,
            epoch=self.plan.epoch,
            max_document_bytes=self.spec.kafka.max_document_bytes,
            name=name,
        )

    def version_now(self, name: str) -> int:
        """Of a snapshot taken now: every change that was committed before has a version that is not above it.

        Raises ReshelveError."""
        reader = self.snapshot_reader(name)
        try:
            with reader.snapshot() as snapshot:
                return snapshot.version
        except psycopg.Error as error:
            raise source_lost(error, self.spec.source.postgres.url) from None
        finally:
            reader.close()
