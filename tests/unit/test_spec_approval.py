"""Where the signers' file may lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from reshelve.spec.approval import Approval, is_within


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The spec's, and one beside it with the file of the signers."""
    spec, keys = tmp_path / "spec", tmp_path / "keys"
    (spec / "below").mkdir(parents=True)
    keys.mkdir()
    (keys / "allowed").write_text("")
    return spec, keys


def test_the_signers_file_lies_outside_the_spec_s_folder_by_whatever_way(folders: tuple[Path, Path]) -> None:
    spec, keys = folders
    (spec / "inside").write_text("")
    (spec / "to-outside").symlink_to(keys / "allowed")
    (keys / "to-inside").symlink_to(spec / "inside")
    (keys / "by-a-link-inside").symlink_to(spec / "to-outside")
    (keys / "folder").symlink_to(spec / "below")
    (spec / "below" / "file").write_text("")
    for within in ("inside", "./inside", "to-outside", "../keys/to-inside", "../keys/by-a-link-inside"):
        assert is_within(spec, spec / within), within
    for within in ("../keys/folder/file", "../keys/folder/../inside", "below/../../keys/allowed"):
        assert is_within(spec, spec / within), within
    for outside in ("../keys/allowed", str(keys / "allowed"), "../keys/none"):
        assert not is_within(spec, spec / outside), outside
    (keys.parent / "another-name").symlink_to(spec)
    assert is_within(keys.parent / "another-name", spec / "inside")


def test_a_link_that_leads_nowhere_ends(folders: tuple[Path, Path]) -> None:
    spec, keys = folders
    (keys / "loop").symlink_to(keys / "loop")
    assert not is_within(spec, keys / "loop")


def test_the_file_must_be_there_but_for_who_has_the_plan_only(folders: tuple[Path, Path]) -> None:
    spec, keys = folders
    data = {"required": "signed", "allowed_signers": "../keys/allowed"}
    assert Approval.model_validate(data, context={"folder": spec}).allowed_signers == str(spec / "../keys/allowed")
    (keys / "allowed").unlink()
    with pytest.raises(ValueError, match="no such file"):
        Approval.model_validate(data, context={"folder": spec})
    Approval.model_validate(data, context={"folder": spec, "planned": True})
    for wrong, why in (({"required": "signed"}, "needs allowed_signers"), ({"cutover": True}, "needs required")):
        with pytest.raises(ValueError, match=why):
            Approval.model_validate(wrong, context={"folder": spec})
