from __future__ import annotations

import pytest

from reshelve.cli.throttle import _rate, throttle
from reshelve.errors import UsageError


def test_a_limit_is_a_number_or_none() -> None:
    assert _rate("documents_per_second", "2500") == 2500
    assert _rate("megabytes_per_second", "0.5") == 0.5
    assert _rate("documents_per_second", "none") is None


@pytest.mark.parametrize("text", ["0", "-1", "fast", "inf", "nan", ""])
def test_what_is_no_rate_is_refused_by_the_name_of_its_option(text: str) -> None:
    with pytest.raises(UsageError, match="--documents-per-second"):
        _rate("documents_per_second", text)


def test_a_command_without_a_limit_is_refused() -> None:
    with pytest.raises(UsageError, match="no limit is given"):
        throttle("docs", None, None, False)
