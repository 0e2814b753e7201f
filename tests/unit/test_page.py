from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reshelve.producers.page import (
    FIRST_PAGE_ROWS,
    MAX_PAGE_BYTES,
    MAX_PAGE_ROWS,
    MAX_PAGE_SECONDS,
    PAGE_SECONDS,
    next_page_rows,
)
from reshelve.transform import TransformFailed, apply_transform

_ROWS = st.integers(1, MAX_PAGE_ROWS)
_SECONDS = st.floats(0, 60)
_SIZE = st.integers(0, 1 << 30)
_LIMIT = st.none() | st.floats(0.01, 1e7)


@given(st.integers(0, MAX_PAGE_ROWS), _SECONDS, _SIZE, _LIMIT)
def test_a_page_has_rows_and_not_too_many(rows: int, seconds: float, size: int, limit: float | None) -> None:
    found = next_page_rows(rows, seconds, size, limit)
    assert 1 <= found <= MAX_PAGE_ROWS
    assert found <= 2 * rows or rows == 0
    if rows and size:
        assert found == 1 or found * size / rows <= MAX_PAGE_BYTES / 2
    if limit is not None:
        assert found <= max(1, limit * PAGE_SECONDS)


@given(st.integers(2, MAX_PAGE_ROWS), st.floats(0.001, 60))
def test_a_page_that_took_too_long_is_followed_by_a_smaller_one(rows: int, seconds: float) -> None:
    found = next_page_rows(rows, seconds, 0, None)
    if seconds > 2 * PAGE_SECONDS:
        assert found < rows
    elif seconds < PAGE_SECONDS / 2:
        assert found == min(2 * rows, MAX_PAGE_ROWS)


def test_after_an_empty_page_it_begins_as_at_first() -> None:
    assert next_page_rows(0, 0.001, 0, None) == FIRST_PAGE_ROWS


def test_a_steady_source_settles_on_the_time_wanted() -> None:
    rows = FIRST_PAGE_ROWS
    for _ in range(20):
        rows = next_page_rows(rows, rows / 30_000, rows * 100, None)
    assert rows == 30_000 * PAGE_SECONDS


def test_a_slow_commit_makes_pages_no_smaller() -> None:
    """Else those of a slow broker would end at one row each, and the copy never."""
    assert next_page_rows(100, 0.01, 0, None, whole_seconds=2 * PAGE_SECONDS) == 200
    assert next_page_rows(100, 0.01, 0, None, whole_seconds=2 * MAX_PAGE_SECONDS) == 50


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(), st.lists, max_leaves=8))
def test_only_a_dict_or_none_is_a_transforms_answer(answer: object) -> None:
    def transform(_document: dict[str, object]) -> object:
        return answer

    if answer is None:
        assert apply_transform(transform, b"{}") is None
        return
    try:
        apply_transform(transform, b"{}")
    except TransformFailed as error:
        assert type(answer).__name__ in str(error)
    else:
        raise AssertionError("accepted")


def test_what_a_transform_raises_is_told() -> None:
    def transform(document: dict[str, object]) -> object:
        return {"a": document["missing"]}

    try:
        apply_transform(transform, b'{"a": 1}')
    except TransformFailed as error:
        assert str(error) == "KeyError: 'missing'"
    else:
        raise AssertionError("accepted")


def test_what_cannot_be_json_is_a_failure() -> None:
    for bad in ({"a": object()}, {"a": 2**70}, {"a": "\ud800"}):
        try:
            apply_transform(lambda _document, bad=bad: bad, b"{}")
        except TransformFailed:
            continue
        raise AssertionError(f"accepted {bad}")
