"""What ours is compared with, on the same servers: the raw ceiling, `_reindex`, and a `parallel_bulk` script.

The ceiling and the script run in processes of their own (`python -m bench.baselines NAME ...`), as ours do.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import psycopg
import urllib3
from opensearchpy import JSONSerializer, OpenSearch
from opensearchpy.helpers import parallel_bulk
from psycopg.types.json import set_json_loads

from bench.dataset import KEY, QUERY
from bench.measure import Measured, Stopwatch

BATCH_DOCUMENTS = 2_000
CONNECTIONS = 2


class Bodies:
    """Prebuilt bulk requests in a file: they cost no memory, and reading one costs next to nothing."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.offsets: list[tuple[int, int]] = [tuple(o) for o in json.loads(file.with_suffix(".json").read_text())]

    @classmethod
    def build(cls, source_url: str, file: Path) -> None:
        """One request for every 2,000 rows of the table, in key order."""
        offsets = []
        with psycopg.connect(source_url) as connection, connection.cursor("bodies", binary=True) as cursor, \
                file.open("wb") as out:  # fmt: skip
            cursor.itersize = BATCH_DOCUMENTS
            cursor.execute(f"select {KEY}::text, row_to_json(q)::text from ({QUERY}) q order by {KEY}")
            while rows := cursor.fetchmany(BATCH_DOCUMENTS):
                begin = out.tell()
                for key, document in rows:
                    out.write(b'{"index":{"_id":"%b"}}\n%b\n' % (key.encode(), document.encode()))
                offsets.append((begin, out.tell() - begin))
        file.with_suffix(".json").write_text(json.dumps(offsets))

    def read(self) -> Iterator[bytes]:
        with self.file.open("rb") as file:
            for begin, size in self.offsets:
                file.seek(begin)
                yield file.read(size)


def ceiling(opensearch_url: str, index: str, file: str, documents: str) -> Measured:
    """Send the prebuilt requests over two connections, as fast as the server takes them."""
    url = urllib3.util.parse_url(opensearch_url)
    auth = urllib3.make_headers(basic_auth=url.auth) if url.auth else {}
    pool = urllib3.connection_from_url(opensearch_url, maxsize=CONNECTIONS, block=True)
    bodies, lock = Bodies(Path(file)).read(), threading.Lock()
    faults: list[bytes] = []

    def send() -> None:
        while not faults:
            with lock:
                body = next(bodies, None)
            if body is None:
                return
            answer = pool.request(
                "POST",
                f"/{index}/_bulk?filter_path=errors",
                body=body,
                headers={"content-type": "application/x-ndjson", **auth},
            )
            if answer.status != 200 or b'"errors":false' not in answer.data:
                faults.append(answer.data[:500])

    stopwatch = Stopwatch()
    threads = [threading.Thread(target=send) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise SystemExit(f"the ceiling failed: {faults[0]!r}")
    return stopwatch.stop(int(documents))


class _Orjson(JSONSerializer):
    """The fastest JSON there is for the script: its honest best."""

    def dumps(self, data: Any) -> Any:
        return data if isinstance(data, str | bytes) else orjson.dumps(data).decode()


def parallel_bulk_script(opensearch_url: str, index: str, source_url: str, documents: str) -> Measured:
    """What one writes in ten lines: a server-side cursor, `parallel_bulk` with two threads of 2,000 documents."""
    set_json_loads(orjson.loads)
    client = OpenSearch(opensearch_url, timeout=60, serializer=_Orjson())

    def actions() -> Iterator[dict[str, Any]]:
        with psycopg.connect(source_url) as connection, connection.cursor("script") as cursor:
            cursor.itersize = BATCH_DOCUMENTS
            for key, document in cursor.execute(f"select {KEY}::text, row_to_json(q) from ({QUERY}) q"):
                yield {"_index": index, "_id": key, "_source": document}

    stopwatch = Stopwatch()
    deque(parallel_bulk(client, actions(), thread_count=CONNECTIONS, chunk_size=BATCH_DOCUMENTS), maxlen=0)
    return stopwatch.stop(int(documents))


def reindex(client: OpenSearch, source: str, index: str, documents: int) -> Measured:
    """`_reindex` as a task: the synchronous call answers with more response headers than Python's client takes."""
    started = time.monotonic()
    body = {"source": {"index": source, "size": BATCH_DOCUMENTS}, "dest": {"index": index}}
    task = client.reindex(body=body, params={"slices": "auto", "wait_for_completion": "false"})["task"]
    while not (answer := client.tasks.get(task_id=task))["completed"]:
        time.sleep(0.05)
    if answer.get("error") or answer["response"]["failures"]:
        raise SystemExit(f"_reindex failed: {answer}")
    return Measured(documents, time.monotonic() - started, None)


def in_process(name: str, *arguments: str) -> Measured:
    """Run a baseline in a process of its own."""
    command = [sys.executable, "-m", "bench.baselines", name, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise SystemExit(f"{name} failed with exit code {done.returncode}")
    fields = json.loads(done.stdout)
    return Measured(**{**fields, "peak_rss": tuple(fields["peak_rss"])})


if __name__ == "__main__":
    baseline = {"ceiling": ceiling, "parallel_bulk": parallel_bulk_script}[sys.argv[1]]
    print(json.dumps(asdict(baseline(*sys.argv[2:]))))
