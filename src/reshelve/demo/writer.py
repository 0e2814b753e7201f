"""The writer: an application that keeps writing to the source while the index is rebuilt from it."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from reshelve.errors import ReshelveError
from reshelve.producers.source import server_of

_PAUSE_S: Final = 0.01
_RENAMED_EVERY: Final = 500  # transactions: a country has 900 cities on average, and each is a document to renew
_SEED: Final = 20


@dataclass(slots=True)
class Written:
    """What the writer committed.

    updated           cities with another population
    vanished, returned, founded   cities that were deleted, inserted again, and inserted for the first time
    renamed, renamed_cities       countries with another name, and the cities in them: their documents alter, too
    """

    transactions: int = 0
    updated: int = 0
    vanished: int = 0
    returned: int = 0
    founded: int = 0
    renamed: int = 0
    renamed_cities: int = 0

    @property
    def writes(self) -> int:
        """Rows written."""
        return self.updated + self.vanished + self.returned + self.founded + self.renamed

    @property
    def growth(self) -> int:
        """Cities that there are more than before."""
        return self.founded + self.returned - self.vanished


class Writer:
    """Writes in a thread from `start` to `stop`, one transaction after the other.

    Of the cities it takes the smaller half: those that the searcher looks for stay."""

    def __init__(self, url: str) -> None:
        self._url, self._random = url, random.Random(_SEED)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="writer", daemon=True)
        self._written = Written()
        self._failure: psycopg.Error | None = None
        self._there: list[int] = []
        self._gone: list[tuple[Any, ...]] = []
        self._next_id = 0

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """End the thread; what it has committed is visible to everybody when this returns."""
        self._stop.set()
        self._thread.join()

    def stop(self) -> Written:
        """End the thread; what it wrote. Raises ReshelveError when it could not go on writing."""
        self.end()
        if self._failure is not None:
            raise ReshelveError(
                "the writer could not write",
                where=server_of(self._url),
                why=str(self._failure).strip(),
                remedy="see that the source runs, then start the demo again",
            )
        return self._written

    def _write_on(self) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True, application_name="reshelve demo: writer") as connection:
                self._look(connection)
                while not self._stop.wait(_PAUSE_S):
                    with connection.transaction():
                        self._write(connection)
                    self._written.transactions += 1
        except psycopg.Error as error:
            self._failure = error

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        rows = connection.execute("select geonameid from demo.cities order by population desc, geonameid").fetchall()
        ids = [geonameid for (geonameid,) in rows]
        self._there, self._next_id = ids[len(ids) // 2 :], max(ids) + 1

    def _write(self, connection: psycopg.Connection[Any]) -> None:
        what = self._random.random()
        if self._written.transactions % _RENAMED_EVERY == _RENAMED_EVERY - 1:
            self._rename_a_country(connection)
        elif what < 0.1:
            self._swallow_a_city(connection)
        elif what < 0.15 and self._gone:
            self._bring_a_city_back(connection)
        elif what < 0.2:
            self._found_a_city(connection)
        else:
            self._move_people(connection, self._random.choice(self._there), self._random.randrange(-50, 100))

    def _move_people(self, connection: psycopg.Connection[Any], city: int, people: int) -> None:
        connection.execute(
            "update demo.cities set population = greatest(0, population + %s) where geonameid = %s", [people, city]
        )
        self._written.updated += 1

    def _swallow_a_city(self, connection: psycopg.Connection[Any]) -> None:
        """Its neighbour grows by it, in one transaction."""
        number = self._random.randrange(len(self._there))
        self._there[number], self._there[-1] = self._there[-1], self._there[number]
        row = connection.execute(
            "delete from demo.cities where geonameid = %s returning geonameid, name, alternatenames, countrycode,"
            " latitude, longitude, population, timezone",
            [self._there.pop()],
        ).fetchone()
        assert row is not None
        self._gone.append(row)
        self._written.vanished += 1
        self._move_people(connection, self._random.choice(self._there), row[6])

    def _bring_a_city_back(self, connection: psycopg.Connection[Any]) -> None:
        self._insert(connection, self._gone.pop(self._random.randrange(len(self._gone))))
        self._written.returned += 1

    def _found_a_city(self, connection: psycopg.Connection[Any]) -> None:
        city, country = self._next_id, self._random.choice(("DE", "FR", "IT", "PL"))
        self._insert(connection, (city, f"Founded {city}", [f"New {city}"], country, 50.0, 10.0, 500, "Europe/Berlin"))
        self._next_id += 1
        self._written.founded += 1

    def _insert(self, connection: psycopg.Connection[Any], row: tuple[Any, ...]) -> None:
        connection.execute("insert into demo.cities values (%s, %s, %s, %s, %s, %s, %s, %s)", row)
        self._there.append(row[0])

    def _rename_a_country(self, connection: psycopg.Connection[Any]) -> None:
        """A change of one row that alters the documents of all its cities. Done twice, it is undone."""
        row = connection.execute(
            "update demo.countries set name = case when name like 'New %%' then substr(name, 5) else 'New ' || name end"
            " where iso = (select iso from demo.countries order by iso offset"
            " floor(%s * (select count(*) from demo.countries)) limit 1)"
            " returning (select count(*) from demo.cities where countrycode = iso)",
            [self._random.random()],
        ).fetchone()
        assert row is not None
        self._written.renamed += 1
        self._written.renamed_cities += row[0]
