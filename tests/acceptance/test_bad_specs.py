"""What is wrong with a spec or with what it names is told before anything is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from opensearchpy import OpenSearch
from pipeline import Pipeline, Result

Docs = Callable[[int], Pipeline]


def require_nothing_made(p: Pipeline, client: OpenSearch) -> None:
    assert p.topics() == []
    assert p.states() == []
    assert client.indices.get(index=f"{p.name}*", params={"expand_wildcards": "all"}).keys() <= {p.alias}


def problems_of(result: Result) -> list[tuple[str, str]]:
    """Of each problem its place and its words."""
    return [(problem["place"], problem["what"] + " → " + problem["remedy"]) for problem in result.json["problems"]]


def test_every_fault_of_the_file_is_told_at_once(docs: Docs, opensearch: OpenSearch) -> None:
    p = docs(3)
    p.write(
        limits={"documents_per_secnd": 5, "in_flight": "many"},
        validation={"checksums": "perhaps"},
        source={"postgres": {"url": "${NOT_SET_ANYWHERE}"}},
        target={"opensearch": {"index": "missing.json"}},
    )
    for verb in ("check", "run", "plan"):
        found = problems_of(p.reshelve(verb, p.spec, "--json").expect(2))
        told = "\n".join(words for _, words in found)
        for words in ("documents_per_second", "in_flight", "checksums", "NOT_SET_ANYWHERE", "missing.json"):
            assert words in told, (verb, words, told)
        assert len(found) == 5
        assert all(place.startswith("reindex.yaml:") for place, _ in found)
    plain = p.run().expect(2)
    assert plain.stdout == "" and plain.stderr.count("remedy:") == 5
    require_nothing_made(p, opensearch)


def test_every_fault_of_what_it_names_is_told_at_once(docs: Docs, opensearch: OpenSearch) -> None:
    """Key twice and NULL, a transform that is not there, a name taken by an index, a mapping nobody knows."""
    p = docs(3)
    p.execute("create table pairs (a int, b int); insert into pairs values (1, 1), (1, 2), (null, 3)")
    opensearch.indices.create(index=p.alias)
    p.write(
        query="select * from public.pairs",
        key="a",
        transform="no_such_module:function",
        definition={"mappings": {"properties": {"a": {"type": "no_such_type"}}}},
    )
    found = "\n".join(words for _, words in problems_of(p.reshelve("check", p.spec, "--json").expect(2)))
    for words in ("not unique", "NULL in the key", "no_such_module", "is an index, not an alias", "no_such_type"):
        assert words in found, words
    for words in ("choose an alias of another name", "leave them out with scope.where"):
        assert words in found, words
    p.run().expect(2)
    require_nothing_made(p, opensearch)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"query": "select name from public.docs"}, "does not return the key column 'id'"),
        ({"query": "select id, nme from public.docs"}, 'column "nme" does not exist'),
        ({"query": "select * from docs"}, "qualify it with its schema (public.docs)"),
        ({"scope": {"where": "no_such > 1"}}, 'column "no_such" does not exist'),
        ({"query": "delete from public.docs returning *"}, "SELECT"),
        ({"transform": "here:value"}, "not callable"),
        ({"transform": "here:broken"}, "here:broken"),
    ],
)
def test_a_fault_is_told_with_its_remedy(
    docs: Docs, opensearch: OpenSearch, changes: Mapping[str, object], words: str
) -> None:
    p = docs(3)
    (p.folder / "here.py").write_text("value = 1\n")
    p.write(**changes)  # type: ignore[arg-type]
    assert words in p.reshelve("check", p.spec).expect(2).stdout
    require_nothing_made(p, opensearch)
