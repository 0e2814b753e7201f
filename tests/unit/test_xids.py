"""Widening of transaction ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.producers.xids import widen_xid

EPOCH = 1 << 32


@given(st.integers(3, 1 << 62), st.integers(-(1 << 31) + 1, (1 << 31) - 1))
def test_an_id_near_the_reference_is_found_again(reference: int, distance: int) -> None:
    wide = reference + distance
    if wide >= 0:
        assert widen_xid(wide % EPOCH, reference) == wide


@pytest.mark.parametrize(
    ("xid", "reference", "wide"),
    [
        (5, EPOCH - 1, EPOCH + 5),  # the transaction is past the wrap, the reference is not yet
        (EPOCH - 1, EPOCH + 5, EPOCH - 1),
        (EPOCH - 1, 2 * EPOCH + 5, 2 * EPOCH - 1),
        (100, 50, 100),
        (EPOCH - 10, 50, EPOCH - 10),  # in epoch 0 there is none below
        (7 * EPOCH + 9, 3 * EPOCH + 8, 3 * EPOCH + 9),  # only the low 32 bits count
    ],
)
def test_around_the_wrap(xid: int, reference: int, wide: int) -> None:
    assert widen_xid(xid, reference) == wide
