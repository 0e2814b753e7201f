"""What the fields of a spec have in common: the section they stand in, and how texts, numbers and sizes are read."""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from reshelve.spec.secrets import without_passwords


def not_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


def off_text(value: object) -> object:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


def postgres_url(value: str) -> str:
    try:
        conninfo_to_dict(value)
    except psycopg.Error as error:
        raise ValueError(f"is not a PostgreSQL URL: {without_passwords(str(error)).strip()}") from None
    return value


def http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not an http:// or https:// URL")
    return value


def alias_name(value: str) -> str:
    """OpenSearch's rules for names of indexes and aliases."""
    if value != value.lower():
        raise ValueError("must be lowercase")
    if bad := sorted(set(value) & set('\\/*?"<>|,#: ')):
        raise ValueError(f"must not contain {' '.join(map(repr, bad))}")
    if value[:1] in ("-", "_", "+") or value in (".", ".."):
        raise ValueError("must not begin with -, _ or +, nor be . or ..")
    if len(value.encode()) > 255:
        raise ValueError("must not be longer than 255 bytes")
    return value


def one_or_more(value: object) -> object:
    """A text alone is a list of one."""
    return (value,) if isinstance(value, str) else value


def setting_texts(value: object) -> object:
    """librdkafka takes texts; YAML numbers and booleans are written as librdkafka writes them."""
    if not isinstance(value, dict):
        return value
    return {name: str(item).lower() if isinstance(item, int | float) else item for name, item in value.items()}


Text = Annotated[str, Field(min_length=1)]
NUMBER = BeforeValidator(not_boolean)
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False), NUMBER]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


_UNITS: Final = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def byte_size(value: object) -> object:
    """`10 GB` as bytes."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?B|)\s*", value)
    if match is None:
        raise ValueError("should be a size such as 500 MB or 10 GB")
    return int(float(match[1]) * _UNITS[match[2]])
