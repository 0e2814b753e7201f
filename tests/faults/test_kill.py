"""kill -9 of every role and of `reshelve run` itself, over and over: run again, and index and table are equal."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter

from conftest import Victims
from faulty import PATIENCE_S, Victim, lives, wait_for
from opensearchpy import OpenSearch

from reshelve.context import RunContext
from reshelve.progress import read_tiling

_ROWS = 30_000
_KILLS = {"pages": 4, "indexer": 4, "validator": 2, "run": 4}


def test_killed_anywhere_running_again_completes(victims: Victims, search: OpenSearch) -> None:
    victim = victims(_ROWS)
    thirds = [{"high": 10_000}, {"low": 10_000, "high": 20_000}, {"low": 20_000}]
    phases = [{"name": f"third{number}", "keys": keys} for number, keys in enumerate(thirds)]
    victim.write(partitions=4, limits={"documents_per_second": 3_000}, phases=phases)
    dice, killed = random.Random(20), Counter[str]()
    run, runs = victim.start_run(), 1
    deadline = time.monotonic() + 2 * PATIENCE_S
    while run.poll() is None or run.returncode < 0:
        assert time.monotonic() < deadline, victim.said()
        if run.poll() is not None:
            run, runs = victim.start_run(), runs + 1
        time.sleep(dice.uniform(0.1, 1.2))
        _kill_one(victim, run, dice, killed)
    victim.finish(run).expect(0)
    assert all(killed.values()) and set(killed) == set(_KILLS), f"the run ended before each role was hit: {killed}"
    assert runs == killed["run"] + 1
    victim.assert_equal(search)
    assert len(victim.indexed(search)) == _ROWS
    _assert_tiled(victim)
    assert [bool(one["began"] and one["ended"]) for one in victim.states()[-1].phase_facts()] == [True] * 3


def _kill_one(victim: Victim, run: subprocess.Popen[str], dice: random.Random, killed: Counter[str]) -> None:
    """SIGKILL to one process of a role that has not had its share yet; when it is `run`, its workers end too."""
    choices = [
        (role, process)
        for role in ("pages", "indexer", "validator")
        if killed[role] < _KILLS[role]
        for process in victim.workers(run, role)
    ]
    workers = [worker for role in ("pages", "indexer", "validator") for worker in victim.workers(run, role)]
    # `run` now and then, and once before it has any workers.
    if killed["run"] < _KILLS["run"] and (dice.random() < 0.2 if workers else not killed["run"]):
        run.kill()
        run.wait()
        killed["run"] += 1
        wait_for("the workers of a killed run end by themselves", lambda: not any(map(lives, workers)))
    elif choices:
        role, process = dice.choice(choices)
        process.kill()
        killed[role] += 1


def _assert_tiled(victim: Victim) -> None:
    plan = victim.states()[-1].plan
    tiling = read_tiling(RunContext(plan, plan.resolve(victim.environ)))
    assert tiling.complete
    assert (tiling.rows, tiling.documents) == (_ROWS, _ROWS)
