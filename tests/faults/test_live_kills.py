"""kill -9 of every role and of `reshelve run`, over and over, while pgbench writes: nothing is lost or resurrected."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable

import pytest
from conftest import Victims
from faulty import PATIENCE_S, Victim, lives, wait_for
from load import QUERY, SCALE, SEEDS, Load, applied_version, version_now, write_spec
from opensearchpy import OpenSearch

_ROWS = 12_000
_COPIED_PER_SECOND = 2_500  # more than the load changes: the limit is for the indexers, too
_TRANSACTIONS = 8_000 * SCALE
_MORE = min(SCALE, 4)  # a worker that dies 20 times in five minutes is given up
_BUILDING = {"pages": 2, "tailer": 3, "keys": 3, "indexer": 3, "validator": 1, "run": 2}
_FOLLOWING = {"tailer": 2, "keys": 2, "indexer": 2, "run": 1}


@pytest.mark.timeout(300 + 300 * SCALE)
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_anywhere_under_load(
    victims: Victims, search: OpenSearch, seed: int, record_property: Callable[[str, object], None]
) -> None:
    victim = victims(0)
    load = Load(victim, _ROWS, seed, rate=300)
    load.prepare()
    write_spec(victim, documents_per_second=_COPIED_PER_SECOND)
    killer = _Killer(victim, random.Random(seed))
    with load.running():
        killer.kill({role: share * _MORE for role, share in _BUILDING.items()}, until="follow")
        killer.kill({role: share * _MORE for role, share in _FOLLOWING.items()}, until=None)
        load.finish(_TRANSACTIONS)
    run, version = victim.last_run, version_now(victim)
    wait_for("the applied clock has passed the end of the load", lambda: applied_version(victim, run) >= version)
    victim.assert_equal(search, QUERY, run=run, changed=True)
    victim.reshelve("retire", run, "--yes").expect(0)
    victim.finish(killer.run).expect(0)
    record_property("transactions", load.committed)
    record_property("killed", {f"{role} in {stage}": number for (role, stage), number in killer.killed.items()})
    assert {role for role, _ in killer.killed} == set(_BUILDING)


class _Killer:
    """Drives a run that it kills at seeded moments, and at once when it comes into another stage."""

    def __init__(self, victim: Victim, dice: random.Random) -> None:
        self._victim, self._dice = victim, dice
        self.run = victim.start_run()
        self.killed = Counter[tuple[str, str]]()  # by role and stage

    def kill(self, shares: dict[str, int], until: str | None) -> None:
        """Until the run is in a stage, or every share is used up. A run that was killed is run again."""
        deadline, at, seen = time.monotonic() + 2 * PATIENCE_S * SCALE, 0.0, ""
        while any(shares.values()) if until is None else self._victim.stage != until:
            assert time.monotonic() < deadline, self._victim.said()
            assert self.run.poll() is None, self._victim.said()
            time.sleep(0.1)
            stage = self._victim.stage
            if stage != seen or time.monotonic() > at:
                seen, at = stage, time.monotonic() + self._dice.uniform(0.2, 1.5)
                self._kill_one(stage, shares)

    def _kill_one(self, stage: str, shares: dict[str, int]) -> None:
        roles = [role for role, share in shares.items() if share and role != "run"]
        workers = [(role, worker) for role in roles for worker in self._victim.workers(self.run, role)]
        # `run` now and then, once before it has any workers, and when all of them have had their share.
        if shares["run"] and (self._dice.random() < 0.1 if workers else not (self.killed and roles)):
            role = "run"
            self.run = self._run_again()
        elif workers:
            role, worker = self._dice.choice(workers)
            worker.kill()
        else:
            return
        shares[role] -= 1
        self.killed[role, stage] += 1

    def _run_again(self) -> subprocess.Popen[str]:
        workers = [w for role in _BUILDING for w in self._victim.workers(self.run, role)]
        self.run.kill()
        self.run.wait()
        wait_for("the workers of a killed run end by themselves", lambda: not any(map(lives, workers)))
        return self._victim.start_run()
