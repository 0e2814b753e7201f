from __future__ import annotations

import pytest

from reshelve.errors import UsageError
from reshelve.spec.validation import Validation
from reshelve.validator.levels import Levels

_NONE = Validation.model_validate({"counts": "off", "checksums": False, "samples_per_partition": 0})


def test_the_spec_says_what_is_looked_at() -> None:
    assert Levels.of(Validation()).names == ("counts", "checksums", "samples")
    assert Levels.of(Validation(full=True, samples_per_partition=0)).names == ("counts", "checksums", "full")
    assert Levels.of(_NONE).names == () and not Levels.of(_NONE).topic


def test_named_levels_are_those_and_no_other() -> None:
    found = Levels.named(["full", "samples"], _NONE)
    assert (found.names, found.samples, found.topic) == (("samples", "full"), 200, True)
    assert not Levels.named(["full"], Validation()).topic
    assert Levels.named(["samples"], Validation(samples_per_partition=7)).samples == 7


@pytest.mark.parametrize(("name", "why"), [("everything", "no level"), ("queries", "names no queries")])
def test_what_cannot_be_looked_at_is_refused(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Levels.named([name], Validation())
