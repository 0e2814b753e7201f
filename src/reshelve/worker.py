"""Workers: each role as a process of its own, on any machine that reaches the servers.

A worker knows its run from the journal alone: the plan says what is done, and this process's environment
brings the secrets that the plan's spec refers to. As many workers of a role as wanted share its work
through the role's consumer group; one may be killed at any time. Each imports its own role only: a page
reader has no use for the clients of OpenSearch and Faust, which take a third of its memory.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaException

from reshelve.context import RunContext
from reshelve.errors import ReshelveError, TargetRefused
from reshelve.journal import read_journal
from reshelve.kafka import KafkaCluster, refusal
from reshelve.model import RunId
from reshelve.orders import Orders
from reshelve.reporter import Durations, Reporter
from reshelve.spec import Limits
from reshelve.state import RunState, find_run, fold
from reshelve.throttle import Throttle

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

    from reshelve.consumers.indexer import Indexer
    from reshelve.producers.changes import ChangeSource
    from reshelve.producers.keys import KeyReader
    from reshelve.producers.pages import PageReader
    from reshelve.producers.tailer import Tailer

_M_ARENA_MAX: Final = -8  # malloc.h
_log = logging.getLogger(__name__)


def default_name() -> str:
    """Unique among the workers of a run on all machines."""
    return f"{socket.gethostname()}-{os.getpid()}"


def load_context(cluster: KafkaCluster, run: str) -> tuple[RunState, RunContext]:
    """The run as its journal has it. Raises UsageError, SpecError."""
    state = find_run(fold(read_journal(cluster)), run)
    spec = state.plan.resolve()
    limits = state.facts.get("started", {}).get("limits")
    if limits is not None:  # those that it was started with last
        spec = spec.model_copy(update={"limits": Limits.model_validate(limits)})
    return state, RunContext(state.plan, spec)


def work(
    role: str,
    cluster: KafkaCluster,
    run: str,
    *,
    name: str,
    with_parent: bool,
    web_port: int | None,
    metrics: tuple[str, int] | None = None,
) -> None:
    """Work in a role until SIGTERM, Ctrl-C or the end of the run. Raises ReshelveError when it can't go on.

    metrics  host and port to serve figures for Prometheus on; None: none"""
    state, context = load_context(cluster, run)
    if role == "validator":
        figures = CheckFigures()
        serving = _serve(metrics, state, role, name, figures)
        _share_one_arena()
        if with_parent:  # standard error is a log file then
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        from reshelve.validator.app import run_validator

        with serving:
            run_validator(
                context,
                web_port=web_port,
                stop_when_parent_dies=with_parent,
                on_ready=_say_where,
                on_done=figures.done,
            )
        return
    stop = threading.Event()
    _stop_on_signals(stop)
    if with_parent:
        threading.Thread(target=_stop_without_parent, args=[stop], daemon=True).start()
    reporter = Reporter(context.cluster, context.run, role, name, stop=stop)
    if not with_parent:
        threading.Thread(target=_stop_at_the_end, args=[cluster, state.run, stop], daemon=True).start()
    try:
        role_work = _role(role, context, state, name, reporter)
        with _serve(metrics, state, role, name, reporter):
            spare_the_collector()
            role_work()
    except KafkaException as error:
        refused = refusal(error, f"the {role} worker can't go on", context.cluster.bootstrap)
        reporter.blocked(refused)
        raise refused from None
    except ReshelveError as error:
        reporter.blocked(error)
        raise
    finally:
        reporter.close()


@dataclass(slots=True)
class CheckFigures:
    """What a validator counts."""

    counts: Counter[str] = field(default_factory=lambda: Counter(checks=0))
    durations: Durations = field(default_factory=Durations)
    paused: bool = False
    limit: float | None = None
    reason: str = ""

    def done(self) -> None:
        """A check task is done."""
        self.counts["checks"] += 1


def _serve(
    at: tuple[str, int] | None, state: RunState, role: str, name: str, figures: Reporter | CheckFigures
) -> AbstractContextManager[object]:
    """Serves a worker's figures. Raises UsageError when it can't listen there."""
    if at is None:
        return nullcontext()
    from reshelve.worker_metrics import WorkerMetrics  # its library costs memory, and most workers are not scraped

    served = WorkerMetrics(str(state.run), role, name, figures, *at)
    print(f"metrics: http://{at[0]}:{served.port}/metrics", file=sys.stderr, flush=True)  # noqa: T201
    return closing(served)


def _share_one_arena() -> None:
    """glibc gives each thread an arena of its own and seldom returns one: a validator took 180 MiB, with one arena
    for all threads 129. A page reader's threads would wait for each other instead. Other C libraries have no such
    setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def spare_the_collector() -> None:
    """What is imported lives as long as the process, and a batch is thousands of small objects without a cycle:
    looking through them again and again for garbage took a quarter of an indexer's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def _say_where(url: str | None) -> None:
    print(f"validator ready{'' if url is None else f': results at {url}'}", file=sys.stderr, flush=True)  # noqa: T201


def _role(role: str, context: RunContext, state: RunState, name: str, reporter: Reporter) -> Callable[[], None]:
    roles: Mapping[str, Callable[[RunContext, RunState, str, Reporter], PageReader | Tailer | KeyReader | Indexer]]
    roles = {"pages": _page_reader, "tailer": _tailer, "keys": _key_reader, "indexer": _indexer}
    return roles[role](context, state, name, reporter).work


def _page_reader(context: RunContext, _state: RunState, name: str, reporter: Reporter) -> PageReader:
    from reshelve.producers.pages import PageLimits, PageReader

    limits = context.spec.limits
    throttle = Throttle(limits.documents_per_second, limits.megabytes_per_second)
    return PageReader(
        context.cluster,
        context.run,
        context.snapshot_reader(f"reshelve pages {name}"),
        name=name,
        columns=len(context.plan.source.key),
        limits=PageLimits(
            active_partitions=min(context.partitions, len(context.plan.segments)),
            max_rejects=limits.max_rejects,
            max_document_bytes=context.spec.kafka.max_document_bytes,
        ),
        throttle=throttle,
        transform=context.transform,
        reporter=reporter,
        orders=Orders.of_run(context.cluster, context.run, limits, throttle, reporter),
    )


def _tailer(context: RunContext, state: RunState, name: str, reporter: Reporter) -> Tailer:
    from reshelve.producers.tailer import Tailer

    plan = context.plan
    return Tailer(
        context.cluster,
        context.run,
        context.snapshot_reader(f"reshelve tailer {name}"),
        _change_source(context, state, f"reshelve tailer {name}"),
        rules=plan.changes.rules,
        key=plan.source.key,
        partitions=context.partitions,
        reporter=reporter,
    )


def _change_source(context: RunContext, state: RunState, name: str) -> ChangeSource:
    plan, slot = context.plan, state.facts["slot"]
    if plan.changes.mode == "debezium":
        from reshelve.producers.debezium import DebeziumSource

        created_lsn = int(slot["confirmed_lsn"])
        return DebeziumSource(context.run, context.spec, plan.changes, created_lsn=created_lsn, name=name)
    from reshelve.producers.slot_source import SlotSource

    return SlotSource(
        context.spec.source.postgres.url,
        plan.changes,
        plan.source,
        created_lsn=int(slot["confirmed_lsn"]),
        created_xid=int(slot["xid"]),
        max_wal_retained=context.spec.limits.max_wal_retained,
        name=name,
    )


def _key_reader(context: RunContext, _state: RunState, name: str, reporter: Reporter) -> KeyReader:
    from reshelve.producers.keys import KeyReader

    return KeyReader(
        context.cluster,
        context.run,
        context.snapshot_reader(f"reshelve keys {name}"),
        name=name,
        columns=len(context.plan.source.key),
        max_rejects=context.spec.limits.max_rejects,
        max_document_bytes=context.spec.kafka.max_document_bytes,
        transform=context.transform,
        reporter=reporter,
        orders=Orders.of_run(context.cluster, context.run, context.spec.limits, None, reporter),
    )


def _indexer(context: RunContext, state: RunState, name: str, reporter: Reporter) -> Indexer:
    from reshelve.consumers.bulk import BulkWriter
    from reshelve.consumers.indexer import Indexer
    from reshelve.consumers.opensearch import connect

    limits, target = context.spec.limits, context.spec.target.opensearch
    client = connect(target, connections=limits.in_flight + 1)
    where = f"{context.plan.spec['target']['opensearch']['url']}"
    throttle = Throttle(limits.documents_per_second, limits.megabytes_per_second)
    return Indexer(
        context.cluster,
        context.run,
        BulkWriter(client, context.plan.write_alias, where, reporter, context.run.topic("documents"), reporter),
        name=name,
        partitions=context.partitions,
        in_flight=limits.in_flight,
        max_rejects=limits.max_rejects,
        max_document_bytes=context.spec.kafka.max_document_bytes,
        throttle=throttle,
        check_generation=lambda: require_generation(client, context.plan.index, state.index_uuid, where),
        reporter=reporter,
        orders=Orders.of_run(context.cluster, context.run, limits, throttle, reporter),
    )


def require_generation(client: OpenSearch, index: str, uuid: str, where: str) -> None:
    """Raises TargetRefused when the index is not the very one that was made, but one of the same name, or gone."""
    from reshelve.consumers import generation

    try:
        found = generation.uuid(client, index)
    except ReshelveError:
        return  # not known now; whether requests go through is seen by their answers
    if found != uuid:
        raise TargetRefused(
            f"index {index} is not the one that the run made",
            where=where,
            why=f"its UUID is {found or 'gone'}, not {uuid}",
            remedy="if it was restored from a snapshot, `reshelve repair` with the run takes it for its own; else"
            " find out who dropped or re-created it, and start a new run",
        )


def _stop_on_signals(stop: threading.Event) -> None:
    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


def _stop_without_parent(stop: threading.Event) -> None:
    """`reshelve run` holds the other end of our standard input: its end is the end of the parent, however it died."""
    # os.read: a buffered reader that is being read can't be closed at the interpreter's end.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop.set()


def _stop_at_the_end(cluster: KafkaCluster, run: RunId, stop: threading.Event) -> None:
    """A worker started by hand ends with its run."""
    while not stop.wait(10):
        try:
            state = fold(read_journal(cluster, run=run)).get(str(run))
        except (ReshelveError, KafkaException) as error:
            _log.info("the journal can't be read now: %s", error)
            continue
        if state is None or state.cleaned or (state.ended and not state.following):
            stop.set()
