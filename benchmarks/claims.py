"""What a claim costs when the store is full of tasks that it must not look at."""

import time
from pathlib import Path

from bench import OURS, Bench
from functions import noop

from thirdshift import BackgroundTaskManager
from thirdshift.core.engine import ClaimRequest
from thirdshift.core.task import PoolKind
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.engines.sqlite.connection import open_writer
from thirdshift.runtime.clock import SystemClock

SMALL = "claim among 1,000 pending"
LARGE = "claim among {:,} of each kind"
"""Pending, finished, scheduled at a higher priority, and in a paused queue."""
MOUNTAIN = 1_000_000
QUICK_MOUNTAIN = 20_000
_CLAIMS = 40
_FILL = """
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO task (id, name, function, arguments, queue, pool, priority, status, submitted_at, due_at, durable,
                  max_retries, tags, finished_at)
SELECT printf('%s%028x', :mark, n.i), first.name, first.function, first.arguments, :queue, first.pool, :priority,
       :status, n.i, :due + n.i, 0, 3, '[]', iif(:status = 'completed', n.i, NULL)
FROM n, (SELECT * FROM task LIMIT 1) AS first
"""


def claim(bench: Bench) -> None:
    """Claims one by one, in turn from the small store and from the large one."""
    mountain = QUICK_MOUNTAIN if bench.quick else MOUNTAIN
    small, large = _Store(bench.room(), 0), _Store(bench.room(), mountain)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(bench.rounds):
        for store, found in zip((small, large), times, strict=True):
            found += [store.claim_us() for _ in range(_CLAIMS)]
    small.close()
    large.close()
    bench.add(SMALL, OURS, "us", times[0])
    bench.add(LARGE.format(mountain), OURS, "us", times[1])


class _Store:
    def __init__(self, folder: Path, mountain: int) -> None:
        path = folder / "claim.db"
        with BackgroundTaskManager(database=path, start=False) as manager:
            manager.submit(noop, 1)
        _fill(path, mountain)
        self._engine = SQLiteEngine.shared(path, clock=SystemClock())
        self._engine.set_paused("paused", True)
        self._registration = self._engine.register(slots=1)
        self._request = ClaimRequest(owner=self._registration.id, free={PoolKind.THREAD: 1})

    def claim_us(self) -> float:
        started = time.perf_counter()
        exchange = self._engine.exchange([], self._request)
        took = time.perf_counter() - started
        assert len(exchange.claims) == 1
        return took * 1e6

    def close(self) -> None:
        self._registration.close()
        self._engine.close()


def _fill(path: Path, mountain: int) -> None:
    far_us = 10**17
    kinds = [("a", 1_000 + mountain, "default", 10, "pending", 0)]
    if mountain:
        kinds += [
            ("b", mountain, "default", 10, "completed", 0),
            ("c", mountain, "default", 30, "scheduled", far_us),
            ("d", mountain, "paused", 30, "pending", 0),
        ]
    connection = open_writer(path)
    connection.execute("BEGIN IMMEDIATE")
    for mark, count, queue, priority, status, due in kinds:
        row = {"mark": mark * 4, "count": count, "queue": queue, "priority": priority, "status": status, "due": due}
        connection.execute(_FILL, row)
        connection.execute("INSERT INTO queue (name) VALUES (?) ON CONFLICT DO NOTHING", (queue,))
    connection.execute("COMMIT")
    connection.close()
