from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import pytest
from opensearchpy import OpenSearch

from reshelve.consumers import generation
from reshelve.errors import TargetRefused, Unreachable
from reshelve.local.stack import Endpoints

_DEFINITION = {
    "settings": {"index": {"number_of_shards": 2, "number_of_replicas": 0}, "refresh_interval": "7s"},
    "mappings": {"properties": {"name": {"type": "keyword"}}},
}


def _settings(client: OpenSearch, index: str) -> dict[str, str]:
    found = client.indices.get_settings(index=index, params={"flat_settings": "true"})
    return dict(found[index]["settings"])


def _create(client: OpenSearch, index: str, definition: object = None) -> str:
    return generation.create(client, index, f"{index}.write", definition or _DEFINITION)  # type: ignore[arg-type]


def test_it_is_built_without_refresh_and_finished_as_defined(opensearch: OpenSearch, namespace: str) -> None:
    uuid = _create(opensearch, namespace)
    assert generation.uuid(opensearch, namespace) == uuid
    building = _settings(opensearch, namespace)
    assert {name: building[name] for name in generation.BUILDING} == dict(generation.BUILDING)
    assert building["index.number_of_shards"] == "2"
    opensearch.index(index=f"{namespace}.write", id="1", body={"name": "a"}, params={"require_alias": "true"})
    health = generation.finish(opensearch, namespace, _DEFINITION)
    assert (health.primaries, health.active, health.note) == (2, 2, "")
    finished = _settings(opensearch, namespace)
    assert finished["index.refresh_interval"] == "7s"
    assert finished["index.number_of_replicas"] == "0"
    assert not {"index.gc_deletes", "index.translog.durability"} & set(finished)
    assert opensearch.count(index=namespace)["count"] == 1


def test_replicas_that_no_node_can_hold_are_said_and_do_not_block(opensearch: OpenSearch, namespace: str) -> None:
    if opensearch.cluster.health()["number_of_data_nodes"] > 1:
        pytest.skip("needs a cluster of one node")
    definition = {"settings": {"number_of_shards": 1, "number_of_replicas": 1}, "mappings": {}}
    _create(opensearch, namespace, definition)
    health = generation.finish(opensearch, namespace, definition, timeout=30)
    assert (health.active, health.wanted) == (1, 2)
    assert "1 can't be placed" in health.note


def test_copies_that_are_not_placed_are_an_error_with_the_clusters_reason(
    opensearch: OpenSearch, namespace: str
) -> None:
    definition = {"settings": {"index.routing.allocation.require._name": "nowhere"}}
    opensearch.indices.create(index=namespace, body=definition, params={"wait_for_active_shards": "0"})
    with pytest.raises(TargetRefused, match="not ready for searches") as caught:
        generation.finish(opensearch, namespace, definition, timeout=1.0)
    assert "nowhere" in caught.value.why


def test_creating_again_finds_the_same_index(opensearch: OpenSearch, namespace: str) -> None:
    assert _create(opensearch, namespace) == _create(opensearch, namespace)


def test_an_index_of_somebody_else_is_not_taken(opensearch: OpenSearch, namespace: str) -> None:
    opensearch.indices.create(index=namespace)
    with pytest.raises(TargetRefused, match="not of this run"):
        _create(opensearch, namespace)


def test_a_mapping_that_is_refused_is_said_in_the_servers_words(opensearch: OpenSearch, namespace: str) -> None:
    with pytest.raises(TargetRefused, match="No handler for type") as caught:
        _create(opensearch, namespace, {"mappings": {"properties": {"a": {"type": "nonsense"}}}})
    assert "spec" in caught.value.remedy
    assert generation.uuid(opensearch, namespace) is None


def test_a_template_that_would_publish_the_index_is_refused(opensearch: OpenSearch, namespace: str) -> None:
    template = {"index_patterns": [f"{namespace}*"], "template": {"aliases": {f"{namespace}-public": {}}}}
    opensearch.indices.put_index_template(name=namespace, body=template)
    try:
        with pytest.raises(TargetRefused, match="template"):
            _create(opensearch, namespace)
    finally:
        opensearch.indices.delete_index_template(name=namespace)
    assert generation.uuid(opensearch, namespace) is None


def test_the_first_alias_is_made_and_then_moved_with_its_filter(opensearch: OpenSearch, namespace: str) -> None:
    one, two, alias = f"{namespace}-1", f"{namespace}-2", f"{namespace}-alias"
    _create(opensearch, one)
    _create(opensearch, two)
    generation.swap(opensearch, alias, one, None)
    assert generation.alias_targets(opensearch, alias).indexes == (one,)
    filter_ = {"term": {"name": "a"}}
    opensearch.indices.update_aliases(
        body={"actions": [{"add": {"index": one, "alias": alias, "filter": filter_, "routing": "7"}}]}
    )
    generation.swap(opensearch, alias, two, one)
    generation.swap(opensearch, alias, two, one)  # again, as after a crash
    assert generation.alias_targets(opensearch, alias).indexes == (two,)
    moved = opensearch.indices.get_alias(name=alias)[two]["aliases"][alias]
    assert moved == {"filter": filter_, "index_routing": "7", "search_routing": "7"}


def test_an_alias_that_was_moved_is_left_alone(opensearch: OpenSearch, namespace: str) -> None:
    names = [f"{namespace}-{n}" for n in range(3)]
    for name in names:
        _create(opensearch, name)
    alias = f"{namespace}-alias"
    opensearch.indices.put_alias(index=names[0], name=alias)
    with pytest.raises(TargetRefused, match="planned"):
        generation.swap(opensearch, alias, names[2], names[1])
    with pytest.raises(TargetRefused, match="planned"):
        generation.swap(opensearch, alias, names[2], None)
    opensearch.indices.put_alias(index=names[1], name=alias)
    with pytest.raises(TargetRefused, match="several indexes"):
        generation.swap(opensearch, alias, names[2], names[1])
    with pytest.raises(TargetRefused, match="is an index, not an alias"):
        generation.swap(opensearch, names[0], names[2], None)
    assert generation.alias_targets(opensearch, alias).indexes == (names[0], names[1])


def test_only_the_index_meant_is_dropped(opensearch: OpenSearch, namespace: str) -> None:
    alias = f"{namespace}-alias"
    uuid = _create(opensearch, namespace)
    with pytest.raises(TargetRefused, match="not deleted"):
        generation.drop(opensearch, namespace, "another")
    generation.swap(opensearch, alias, namespace, None)
    with pytest.raises(TargetRefused, match=alias):
        generation.drop(opensearch, namespace, uuid)
    opensearch.indices.delete_alias(index=namespace, name=alias)
    assert generation.drop(opensearch, namespace, uuid)
    assert not generation.drop(opensearch, namespace, uuid)


@contextmanager
def _swallows_answers(url: str, path: bytes, deliver: bool) -> Iterator[str]:
    """A server that passes requests on, but drops the connection of those to `path`: after the server
    behind has answered them (`deliver`), or without asking it."""
    target = urlsplit(url)

    def serve(client: socket.socket) -> None:
        with closing(client):
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(65536)
            head, _, body = request.partition(b"\r\n\r\n")
            lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
            missing = int(lengths[0].split(b":")[1]) - len(body) if lengths else 0
            while missing > 0:
                more = client.recv(65536)
                request, missing = request + more, missing - len(more)
            swallowed = request.startswith(path)
            if swallowed and not deliver:
                return
            with closing(socket.create_connection((target.hostname, target.port))) as server:
                server.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
                answer = b""
                while chunk := server.recv(65536):
                    answer += chunk
            if not swallowed:
                client.sendall(answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _client(url: str) -> OpenSearch:
    return OpenSearch(url, max_retries=0, timeout=10)


def test_a_lost_answer_to_the_swap_is_looked_up(endpoints: Endpoints, opensearch: OpenSearch, namespace: str) -> None:
    _create(opensearch, namespace)
    with _swallows_answers(endpoints.opensearch_url, b"POST /_aliases", deliver=True) as url:
        generation.swap(_client(url), f"{namespace}-alias", namespace, None)
    assert generation.alias_targets(opensearch, f"{namespace}-alias").indexes == (namespace,)


def test_a_swap_that_never_arrived_is_not_taken_for_done(
    endpoints: Endpoints, opensearch: OpenSearch, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "_UNKNOWN_TIMEOUT_S", 1.0)
    _create(opensearch, namespace)
    with (
        _swallows_answers(endpoints.opensearch_url, b"POST /_aliases", deliver=False) as url,
        pytest.raises(TargetRefused, match="points to nothing"),
    ):
        generation.swap(_client(url), f"{namespace}-alias", namespace, None)


def test_a_lost_answer_to_the_creation_is_looked_up(
    endpoints: Endpoints, opensearch: OpenSearch, namespace: str
) -> None:
    request = f"PUT /{namespace}".encode()
    with _swallows_answers(endpoints.opensearch_url, request, deliver=False) as url, pytest.raises(Unreachable):
        _create(_client(url), namespace)
    with _swallows_answers(endpoints.opensearch_url, request, deliver=True) as url:
        assert _create(_client(url), namespace) == generation.uuid(opensearch, namespace)
