"""Traps of Kafka: lost offsets, deleted topics, two readers of one name, a run that wakes up too late."""

from __future__ import annotations

import signal

import psutil
from confluent_kafka.admin import AdminClient
from conftest import Victims
from faulty import Victim, wait_for
from opensearchpy import OpenSearch

from reshelve.lease import read_holder
from reshelve.local.stack import LocalStack


def _slow(victim: Victim, per_second: int = 2_000) -> Victim:
    victim.write(limits={"documents_per_second": per_second})
    return victim


def test_lost_offsets_and_deleted_topics_block(victims: Victims, servers: LocalStack, search: OpenSearch) -> None:
    victim = _slow(victims(20_000))
    admin = AdminClient({"bootstrap.servers": servers.endpoints.kafka_bootstrap})
    run = victim.start_run()
    victim.await_stage("copy")
    run.send_signal(signal.SIGTERM)
    victim.finish(run).expect(130)
    group = victim.last_run.group("pages")
    admin.delete_consumer_groups([group])[group].result()
    result = victim.finish(victim.start_run()).expect(3)
    assert f"the offsets of group {group} are lost" in result.stderr

    run = victim.start_run("--new")
    victim.await_more_indexed(500)
    topic = victim.last_run.topic("documents")
    admin.delete_topics([topic])[topic].result()
    result = victim.finish(run).expect(3)
    assert f"are gone: {topic}" in result.stderr
    result = victim.finish(victim.start_run()).expect(3)
    assert f"are gone: {topic}" in result.stderr
    victim.finish(victim.start_run("--new")).expect(0)
    victim.assert_equal(search)


def test_of_two_page_readers_of_one_name_one_stops(victims: Victims, search: OpenSearch) -> None:
    victim = victims(10_000)
    victim.write(limits={"documents_per_second": 500})  # small pages, so that both begin many
    run = victim.start("run", victim.spec, "--json", "--page-readers", "0")
    victim.await_stage("copy")
    readers = [victim.start("worker", "pages", str(victim.last_run), "--name", "same") for _ in range(2)]
    wait_for("one of them stops", lambda: any(reader.poll() is not None for reader in readers))
    (stopped,) = (reader for reader in readers if reader.poll() is not None)
    result = victim.finish(stopped).expect(3)
    assert "pages worker same was fenced off" in result.stderr
    victim.finish(run).expect(0)
    victim.assert_equal(search)
    for reader in readers:  # a worker that was started by hand ends with its run
        reader.wait(60)


def test_a_run_that_wakes_up_too_late_is_fenced(victims: Victims, search: OpenSearch) -> None:
    victim = _slow(victims(6_000), 400)  # the refused process, too, takes seconds to start
    first = victim.start_run()
    victim.await_more_indexed(500)
    refused = victim.finish(victim.start_run()).expect(3)
    assert refused.json["error"]["code"] == "lease"

    # All of its processes, as when a machine is paused.
    paused = [
        psutil.Process(first.pid),
        *(w for role in ("pages", "tailer", "keys", "indexer") for w in victim.workers(first, role)),
    ]
    for process in paused:
        process.suspend()
    wait_for("the lease ends", lambda: read_holder(victim.cluster, victim.name) is None)
    second = victim.start_run()
    victim.await_said("going on with run")
    victim.await_more_indexed(500)
    for process in paused:
        process.resume()
    late = victim.finish(first).expect(3)
    assert late.json["error"]["code"] == "lease"
    victim.finish(second).expect(0)
    victim.assert_equal(search)
    run = str(victim.last_run)
    assert not [process for process in psutil.process_iter(["cmdline"]) if run in (process.info["cmdline"] or ())]
