"""A report that can't be written undoes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from reshelve import report
from reshelve.children import Children
from reshelve.errors import BlockedError


def test_a_report_that_cannot_be_written_is_only_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "report_facts", lambda *_: {})
    monkeypatch.setattr(report, "render", lambda *_: "")
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    said: list[str] = []
    nothing = cast(Any, None)
    report.save_report(nothing, nothing, in_the_way / "run", said.append)
    assert len(said) == 1 and "can't be written" in said[0]
    report.save_report(nothing, nothing, tmp_path / "run", said.append)
    assert said[1].startswith(f"report: {tmp_path / 'run' / 'report.md'}")
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"report.md", "report.json", "report.html"}


def test_logs_that_cannot_be_written_block_the_run(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(BlockedError, match="cannot start a pages worker"):
        Children("cities.1", {}, in_the_way / "logs", lambda _: None).start("pages", 1)
