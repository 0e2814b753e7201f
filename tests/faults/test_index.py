"""Somebody blocks or drops the index while it is built."""

from __future__ import annotations

from conftest import Victims
from faulty import Victim
from opensearchpy import OpenSearch


def _slow(victim: Victim) -> Victim:
    victim.write(limits={"documents_per_second": 2_000})
    return victim


def test_a_block_is_waited_off(victims: Victims, search: OpenSearch) -> None:
    victim = _slow(victims(10_000))
    run = victim.start_run()
    for block in ("index.blocks.write", "index.blocks.read_only_allow_delete"):
        victim.await_more_indexed(500)
        before = victim.said().count(f"index [{victim.last_run.index}] blocked by")
        search.indices.put_settings(index=victim.last_run.index, body={block: True})
        victim.await_said(f"index [{victim.last_run.index}] blocked by", before + 1)
        assert run.poll() is None
        search.indices.put_settings(index=victim.last_run.index, body={block: None})
    victim.finish(run).expect(0)
    victim.assert_equal(search)
    assert victim.states()[-1].facts["checkpoint"]["rejects"] == 0


def test_an_index_that_is_gone_blocks(victims: Victims, search: OpenSearch) -> None:
    victim = _slow(victims(10_000))
    run = victim.start_run()
    victim.await_more_indexed(500)
    index, alias = victim.last_run.index, victim.last_run.write_alias
    search.indices.delete_alias(index=index, name=alias)
    result = victim.finish(run).expect(3)
    assert result.json["error"]["code"] == "target"
    assert alias in result.stderr

    search.indices.put_alias(index=index, name=alias, body={"is_write_index": True})
    run = victim.start_run()
    victim.await_more_indexed(500)
    search.indices.delete(index=index)
    result = victim.finish(run).expect(3)
    assert result.json["error"]["code"] == "target"
    assert not search.indices.exists(index=index) and not search.indices.exists(index=alias)

    again = victim.finish(victim.start_run()).expect(3)
    assert index in again.stderr and "gone" in again.stderr
    assert not search.indices.exists(index=index)
    assert not search.indices.exists_alias(name=victim.alias)
