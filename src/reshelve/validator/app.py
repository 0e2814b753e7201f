"""The validator: a Faust app that consumes check tasks, has them done, and serves the results.

Nothing per document passes through Faust: an event is a task, done by `CheckWorker` in a thread, off the
event loop. For each task, in this order:

    1. the work is done
    2. the result is in `checks`, acknowledged by all in-sync replicas
    3. the result is in the table `results`, and so in its changelog
    4. the task is acknowledged, so that its offset may be committed

A worker that dies in between leaves the task to the next one, which does it again: its result replaces the
first. What Faust needed to be told is in docs/decisions/0004-faust.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final, cast

import faust
from aiokafka.errors import KafkaError
from confluent_kafka import KafkaException
from faust import web
from faust.exceptions import FaustError
from faust.types import StreamT

from reshelve.context import RunContext
from reshelve.errors import Interrupted, ReshelveError, Unreachable
from reshelve.schemas.codec import CodecError
from reshelve.validator.credentials import credentials
from reshelve.validator.memory import return_free_memory
from reshelve.validator.stall import StallWatch
from reshelve.validator.tasks import CheckResult, CheckTask, decode
from reshelve.validator.worker import CheckWorker

SESSION_TIMEOUT_S: Final = 10.0
_TABLE: Final = "results"
_RESTART_S: Final = 2.0
_WATCH_S: Final = 5.0
_log = logging.getLogger(__name__)


def run_validator(
    context: RunContext,
    *,
    web_port: int | None = 0,
    web_bind: str = "127.0.0.1",
    stop_when_parent_dies: bool = False,
    on_ready: Callable[[str | None], None] = lambda url: None,
    on_done: Callable[[], None] = lambda: None,
) -> None:
    """Do check tasks of the run until SIGTERM or SIGINT. Blocking; for the main thread of a process of its own.

    web_port               of the results as JSON; 0 takes a free one, None serves none
    stop_when_parent_dies  for a child that nobody would stop else
    on_ready               called with the URL of the results (None: none) each time the app is up
    on_done                called after each task

    When Kafka is gone it waits and starts again. Raises AccessRefused when it is not let in, UsageError when
    Faust can't speak to Kafka as the spec says."""
    # It reports each attempt to reach a broker that is away, several times a second, and returns by itself.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    stop = threading.Event()
    run, kafka = context.run, context.spec.kafka
    config = {"cleanup.policy": "compact"}
    while not stop.is_set():
        try:
            context.cluster.probe()
            changelog = f"{run.group('validator')}-{_TABLE}-changelog"
            context.cluster.create_topic(changelog, context.partitions, config, kafka.replication_factor)
            with tempfile.TemporaryDirectory(prefix="reshelve-validator-") as folder:
                validator = _Validator(context, folder, web_port, web_bind, stop, on_done)
                asyncio.run(_serve(validator, stop_when_parent_dies, on_ready))
        except Unreachable as error:
            _log.warning("%s", error)
        if not stop.wait(_RESTART_S if not stop.is_set() else 0):
            _log.warning("the validator starts again")


class _Validator:
    """The Faust app of one start, and what belongs to it."""

    def __init__(
        self,
        context: RunContext,
        folder: str,
        web_port: int | None,
        web_bind: str,
        stop: threading.Event,
        on_done: Callable[[], None],
    ) -> None:
        self.stop, self._on_done = stop, on_done
        self.ended = threading.Event()
        self.busy = False
        self._context = context
        self._port, self._bind = web_port or _free_port(web_bind), web_bind
        self._web = web_port is not None
        self._worker = CheckWorker(context, self._go_on, self._share)
        partitions = context.partitions
        self.app = faust.App(
            context.run.group("validator"),
            broker=[f"kafka://{server.strip()}" for server in context.spec.kafka.bootstrap.split(",")],
            broker_credentials=credentials(context.spec.kafka.config),
            broker_session_timeout=SESSION_TIMEOUT_S,
            broker_heartbeat_interval=2.0,
            broker_request_timeout=30.0,
            broker_client_id=context.run.group("validator"),
            processing_guarantee="at_least_once",
            datadir=folder,
            store="memory://",
            table_standby_replicas=0,
            topic_allow_declare=False,  # topics are the run's business: none appears by accident
            topic_disable_leader=True,
            topic_partitions=partitions,
            stream_wait_empty=False,  # a task under way is given up, not waited for
            web_enabled=self._web,
            web_bind=web_bind,
            web_host=web_bind,
            web_port=self._port,
            web_tables_enabled=False,
            web_router_enabled=False,
            autodiscover=False,
        )
        self._topic = self.app.topic(
            context.run.topic("checks"),
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            partitions=partitions,
        )
        self._results = self.app.Table(
            _TABLE,
            key_type=str,
            # No value_type: with dict, recovery fails on the first value, and Faust then waits for ever.
            partitions=partitions,
            help="The newest result of each kind and number.",
        )
        self.app.agent(self._topic, concurrency=1, name="checks")(self._consume)

        async def serve(view: web.View, _request: web.Request) -> web.Response:
            return view.json(self._shown())

        self.app.page("/checks/", name="checks")(serve)

    async def _consume(self, stream: StreamT[Any]) -> None:
        # noack: Faust acknowledges in a `finally`, also what was cancelled half-done.
        async for event in cast(faust.Stream[bytes], stream).noack().events():
            try:
                record = decode(event.value) if event.value is not None else None
            except CodecError as error:
                _log.warning("skipped a record of checks: %s", error)
                record = None
            if isinstance(record, CheckTask) and time.time() < record.scope.expires:
                await self._do(record, event.message.partition)
            await stream.ack(event)

    async def _do(self, task: CheckTask, partition: int) -> None:
        result = self._known(task)
        if result is None:
            self.busy = True
            try:
                result = await asyncio.to_thread(self._perform, task)
            finally:
                self.busy = False
        sent = await self._topic.send(key=task.key, value=result.encode(), partition=partition)
        await sent
        self._results[task.key.decode()] = asdict(result)
        self._on_done()

    def _perform(self, task: CheckTask) -> CheckResult:
        try:
            return self._worker.perform(task)
        finally:
            return_free_memory()

    def _known(self, task: CheckTask) -> CheckResult | None:
        """The result of a task that was sent again though it had been done."""
        known = self._results.get(task.key.decode())
        result = CheckResult(**known) if known else None
        return result if result and result.check == task.check and result.error is None else None

    def _shown(self) -> dict[str, Any]:
        found = sorted(self._results.values(), key=lambda one: (one["check"], one["kind"], one["number"]))
        # The sums of the index are of no use to people.
        shown = [one | {"data": {}} if one["kind"] == "target" else one for one in found]
        return {"run": str(self._context.run), "results": shown}

    @property
    def url(self) -> str | None:
        """Of the results; None when they are not served."""
        return f"http://{self._bind}:{self._port}/checks/" if self._web else None

    def held(self) -> set[int]:
        """The partitions of `checks` that are assigned to this app."""
        consumer, topic = self.app.consumer, self._context.run.topic("checks")
        return {place.partition for place in consumer.assignment() if place.topic == topic}

    def _share(self) -> tuple[int, int]:
        try:
            return len(self.held()), self._context.partitions
        except AttributeError:  # no consumer yet, or no more
            return 0, self._context.partitions

    def undone(self, held: set[int]) -> dict[int, int]:
        """The committed offsets of those partitions (of all, when none is held) that are not read to their end.

        Raises ReshelveError, KafkaException."""
        run, cluster, partitions = self._context.run, self._context.cluster, self._context.partitions
        topic = run.topic("checks")
        ends = cluster.stable_ends(topic, partitions)
        begins = cluster.begins(topic, partitions)  # not 0: `checks` is kept for days only
        committed = cluster.committed(run.group("validator"), topic, partitions)
        places = {p: max(committed[p] or 0, begins[p]) for p in held or range(partitions)}
        return {p: offset for p, offset in places.items() if offset < ends[p]}

    def _go_on(self) -> None:
        if self.stop.is_set() or self.ended.is_set():
            raise Interrupted("the validator was stopped")

    def close(self) -> None:
        self._worker.close()


async def _serve(validator: _Validator, stop_when_parent_dies: bool, on_ready: Callable[[str | None], None]) -> None:
    """Run the app until a signal or its crash. Faust's own worker is not used: it takes over signals, logging,
    stdout and the event loop."""
    loop, ending = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        validator.stop.set()
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    watches = [asyncio.create_task(_watch_progress(validator, ending))]
    if stop_when_parent_dies:
        watches.append(asyncio.create_task(_watch_parent(stop)))
    app = validator.app
    try:
        app.finalize()
        starting = asyncio.create_task(app.start())
        await asyncio.wait([starting, asyncio.create_task(ending.wait())], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            on_ready(validator.url)
            await app.wait(ending.wait())
        if app.crash_reason is not None:
            _log.warning("Faust failed: %r", app.crash_reason)
    except (OSError, KafkaError, FaustError) as error:
        _log.warning("Faust failed: %r", error)
    finally:
        validator.ended.set()
        for watch in watches:
            watch.cancel()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(app.stop(), 15)
        validator.close()


def _free_port(host: str) -> int:
    """Faust takes no 0. Should somebody else take the port meanwhile, the app fails and starts with another."""
    with socket.socket() as free:
        free.bind((host, 0))
        return int(free.getsockname()[1])


async def _watch_progress(validator: _Validator, ending: asyncio.Event) -> None:
    """End an app that stands still, so that another takes its place."""
    watch = StallWatch(time.monotonic())
    while True:
        await asyncio.sleep(_WATCH_S)
        try:
            held = validator.held()
            undone = await asyncio.to_thread(validator.undone, held)
        except (ReshelveError, KafkaException, AttributeError) as error:  # no consumer yet, or no broker
            _log.info("the validator's progress can't be seen now: %s", error)
            undone, held = {}, set()
        if watch.stalled(undone, busy=validator.busy, holds=bool(held), now=time.monotonic()):
            _log.warning("Faust stands still at offsets %s of its tasks: starting it again", undone)
            ending.set()
            return


async def _watch_parent(stop: Callable[[], None]) -> None:
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - nobody tells an orphan, so it has to look
        await asyncio.sleep(1)
    _log.warning("the parent process is gone")
    stop()
