"""The documents: a table of about 600 bytes a row as JSON, with text, keywords, a number, a date and an array."""

from __future__ import annotations

import random
import string
from typing import Any

import psycopg

SCHEMA = "reshelve_bench"
TABLE = f"{SCHEMA}.docs"
QUERY = f"select id, title, body, price, category, updated_at, tags from {TABLE}"
KEY = "id"
DEFINITION: dict[str, Any] = {
    "settings": {"number_of_shards": 2},
    "mappings": {
        "properties": {
            "id": {"type": "long"},
            "title": {"type": "text"},
            "body": {"type": "text"},
            "price": {"type": "double"},
            "category": {"type": "keyword"},
            "updated_at": {"type": "date"},
            "tags": {"type": "keyword"},
        }
    },
}
_COLUMNS = (
    "id bigint primary key, title text, body text, price float8, category text, updated_at timestamptz, tags text[]"
)


def load(source_url: str, documents: int) -> None:
    """Fill the table; the same documents every time."""
    chance = random.Random(1)
    words = ["".join(chance.choices(string.ascii_lowercase, k=chance.randint(3, 9))) for _ in range(20_000)]
    with psycopg.connect(source_url, autocommit=True) as connection:
        drop(source_url)
        connection.execute(f"create schema {SCHEMA}")
        connection.execute(f"create table {TABLE} ({_COLUMNS})")
        with connection.cursor().copy(f"copy {TABLE} from stdin") as copy:
            for number in range(documents):
                copy.write_row(
                    (
                        number,
                        " ".join(chance.choices(words, k=6)),
                        " ".join(chance.choices(words, k=60)),
                        chance.random() * 100,
                        chance.choice(words[:50]),
                        "2026-01-01T00:00:00Z",
                        chance.choices(words[:200], k=4),
                    )
                )
        connection.execute(f"vacuum analyze {TABLE}")


def drop(source_url: str) -> None:
    with psycopg.connect(source_url, autocommit=True) as connection:
        connection.execute(f"drop schema if exists {SCHEMA} cascade")
