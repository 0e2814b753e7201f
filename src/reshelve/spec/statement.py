"""The query of a spec as text: one SELECT that can be wrapped in another one.

Just enough of PostgreSQL's lexical rules to see where strings, comments, brackets and statements end; the
server judges everything else."""

from __future__ import annotations

import re
from typing import Final

_TOKEN: Final = re.compile(
    r"""
      (?P<comment>--[^\n]*)
    | (?P<block>/\*)
    | (?P<escape>\b[eE]'(?:[^'\\]|\\.|'')*'?)
    | (?P<string>'(?:[^']|'')*'?)
    | (?P<name>"(?:[^"]|"")*"?)
    | (?P<dollar>(?<![\w$])\$(?P<tag>[A-Za-z_\x80-\uffff][\w\x80-\uffff]*)?\$)
    | (?P<word>[A-Za-z_\x80-\uffff][\w$\x80-\uffff]*)
    | (?P<open>[(\[])
    | (?P<close>[)\]])
    | (?P<semicolon>;)
    | (?P<other>\S)
    """,
    re.VERBOSE | re.DOTALL,
)
_READS: Final = ("SELECT", "WITH", "VALUES", "TABLE")


def clean_query(query: str) -> str:
    """`query` without the semicolon that ends it. Raises ValueError unless it is one statement that reads."""
    first, end = _scan(query, "query")
    if first is None:
        raise ValueError("the query is empty")
    if first.upper() not in _READS:
        raise ValueError(f"the query must begin with SELECT, WITH, VALUES or TABLE, not {first}")
    return query if end is None else query[:end]  # only comments come after it


def clean_predicate(predicate: str) -> str:
    """`predicate` as it is. Raises ValueError when it can't stand inside brackets."""
    first, end = _scan(predicate, "predicate")
    if first is None:
        raise ValueError("the predicate is empty")
    if end is not None:
        raise ValueError("the predicate must not contain a semicolon")
    if first.upper() == "WHERE":
        raise ValueError("the predicate must not begin with the word WHERE")
    return predicate


def _scan(text: str, noun: str) -> tuple[str | None, int | None]:
    """The first word (or character), and the position of the semicolon that ends the statement."""
    first: str | None = None
    semicolon: int | None = None
    depth = position = 0
    while match := _TOKEN.search(text, position):
        kind, token, position = match.lastgroup, match.group(), match.end()
        if match["dollar"]:
            kind = "dollar"
        if kind == "comment":
            continue
        if kind == "block":
            position = _end_of_comment(text, position, noun)
            continue
        if semicolon is not None and kind != "semicolon":
            raise ValueError(f"the {noun} has several statements")
        if kind == "semicolon":
            if depth:
                raise ValueError(f"the {noun} has a semicolon inside brackets")
            semicolon = match.start() if semicolon is None else semicolon
            continue
        if kind in ("string", "escape", "name") and not _is_closed(token):
            raise ValueError(f"the {noun} has an unclosed quote: {token[:20]}")
        if kind == "dollar":
            end = text.find(token, position)
            if end < 0:
                raise ValueError(f"the {noun} has an unclosed quote: {token}")
            position = end + len(token)
        depth += (kind == "open") - (kind == "close")
        if depth < 0:
            raise ValueError(f"the {noun} closes a bracket that it did not open")
        if first is None and kind != "open":
            first = token
    if depth:
        raise ValueError(f"the {noun} has an unclosed bracket")
    return first, semicolon


def _is_closed(token: str) -> bool:
    quoted = token[1:] if token[0] in "eE" else token
    inside = quoted[1:] if quoted is token else re.sub(r"\\.", "", quoted[1:], flags=re.DOTALL)
    return inside.count(quoted[0]) % 2 == 1  # quotes within are doubled


def _end_of_comment(text: str, position: int, noun: str) -> int:
    """PostgreSQL's block comments nest."""
    depth = 1
    for match in re.compile(r"/\*|\*/").finditer(text, position):
        depth += 1 if match.group() == "/*" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"the {noun} has an unclosed comment")
