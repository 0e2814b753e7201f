"""Who is to get privileges at the source, and on what."""

from __future__ import annotations

from reshelve.grants import Subject
from reshelve.producers.catalog import named_views
from reshelve.producers.planner import describe_source
from reshelve.producers.source import source_session
from reshelve.spec import Spec


def look_up_subject(spec: Spec, role: str | None) -> Subject:
    """The role (by default the user of the source's URL), the tables that the query reads and the views that it names.
    Asked as the URL's user, who must be able to read them. Raises ReshelveError."""
    with source_session(spec.source.postgres.url, "reshelve check") as connection:
        tables = tuple((table.schema, table.name) for table in describe_source(connection, spec).tables)
        views = named_views(connection, spec.source.postgres.query)
        return Subject(role or connection.info.user, connection.info.dbname, tables, views)
