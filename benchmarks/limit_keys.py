"""What a claim costs when the store is full of tasks whose limit keys are used up, or that have many different ones."""

import time
from collections.abc import Callable
from pathlib import Path

from bench import OURS, Bench
from claims import MOUNTAIN, QUICK_MOUNTAIN
from functions import noop

from thirdshift import BackgroundTaskManager
from thirdshift.core.engine import ClaimRequest
from thirdshift.core.task import PoolKind
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.engines.sqlite.connection import open_writer
from thirdshift.runtime.clock import SystemClock

SMALL_COUNT = 1_000
PAST = "claim past {:,} of 8 used-up keys"
AMONG = "claim among {:,} limit keys"
_USED_UP = 8
_CLAIMS = 40
_FILL = """
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO task (id, name, function, arguments, queue, pool, priority, status, submitted_at, due_at, durable,
                  max_retries, tags, limit_key)
SELECT printf('%s%028x', :mark, n.i), first.name, first.function, first.arguments, first.queue, first.pool, :priority,
       'pending', n.i, n.i, 0, 3, '[]', iif(:keys, printf('%d', n.i % :keys), NULL)
FROM n, (SELECT * FROM task LIMIT 1) AS first
"""
_ENTER = "UPDATE task SET priority = priority WHERE seq IN (SELECT min(seq) FROM task GROUP BY limit_key)"
"""The first task of a key is enough: the others stand behind it."""


def limit_keys(bench: Bench) -> None:
    """Claims one by one, in turn from the small store and from the large one."""
    large = QUICK_MOUNTAIN if bench.quick else MOUNTAIN
    _compare(bench, PAST, large, lambda count: _Store(bench.room(), count, _USED_UP))
    _compare(bench, AMONG, large, lambda count: _Store(bench.room(), count, count))


def _compare(bench: Bench, case: str, large: int, store: Callable[[int], "_Store"]) -> None:
    stores = {count: store(count) for count in (SMALL_COUNT, large)}
    times: dict[int, list[float]] = {count: [] for count in stores}
    for _ in range(bench.rounds):
        for count, each in stores.items():
            times[count] += [each.claim_us() for _ in range(_CLAIMS)]
    for count, each in stores.items():
        each.close()
        bench.add(case.format(count), OURS, "us", times[count])


class _Store:
    """Holds *count* tasks of *keys* limit keys, of which some are used up, and others without one behind them."""

    def __init__(self, folder: Path, count: int, keys: int) -> None:
        path = folder / "claim.db"
        with BackgroundTaskManager(database=path, start=False) as manager:
            manager.submit(noop, 1)
        connection = open_writer(path)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(_FILL, {"mark": "aaaa", "count": count, "priority": 20, "keys": keys})
        connection.execute(_FILL, {"mark": "bbbb", "count": SMALL_COUNT, "priority": 10, "keys": 0})
        connection.execute(_ENTER)
        connection.execute("COMMIT")
        connection.close()
        self._engine = SQLiteEngine.shared(path, clock=SystemClock())
        self._registration = self._engine.register(slots=1)
        self._request = ClaimRequest(owner=self._registration.id, free={PoolKind.THREAD: 1})
        for _ in range(_USED_UP):
            self.claim_us()

    def claim_us(self) -> float:
        started = time.perf_counter()
        exchange = self._engine.exchange([], self._request)
        took = time.perf_counter() - started
        assert len(exchange.claims) == 1
        return took * 1e6

    def close(self) -> None:
        self._registration.close()
        self._engine.close()
