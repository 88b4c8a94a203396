"""What a claim costs when the store is full of tasks that it must not look at."""

import statistics
import time
from pathlib import Path

from bare import noop

from thirdshift.core import codec
from thirdshift.core.engine import ClaimRequest
from thirdshift.core.reference import reference_of
from thirdshift.core.task import PoolKind
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.engines.sqlite.connection import open_writer
from thirdshift.runtime.clock import SystemClock

_CLAIMS = 200
_FILL = """
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO task (id, name, function, arguments, queue, pool, priority, status, submitted_at, due_at, durable,
                  max_retries, tags, finished_at)
SELECT printf('%s%028x', :mark, i), 'noop', :function, :arguments, :queue, 'thread', :priority, :status, i, :due + i, 0,
       3, '[]', iif(:status = 'completed', i, NULL)
FROM n
"""


def measure(folder: Path, mountain: int) -> list[dict[str, object]]:
    """Return the cost of a claim with 1,000 pending tasks, and with the mountain of every kind on top."""
    small = _claims_us(folder / "claim-small.db", 0)
    large = _claims_us(folder / "claim-large.db", mountain)
    return [
        {
            "case": f"claim with {mountain:,} of each kind (beside 1,000)",
            "median": round(statistics.median(large), 1),
            "beside": round(statistics.median(small), 1),
            "ratio": round(statistics.median(large) / statistics.median(small), 2),
            "unit": "us",
        }
    ]


def _claims_us(path: Path, mountain: int) -> list[float]:
    engine = SQLiteEngine.shared(path, clock=SystemClock())
    try:
        _fill(path, 1_000 + mountain, mountain)
        engine.set_paused("paused", True)
        registration = engine.register(slots=1)
        request = ClaimRequest(owner=registration.id, free={PoolKind.THREAD: 1})
        times = []
        for _ in range(_CLAIMS):
            started = time.perf_counter()
            exchange = engine.exchange([], request)
            times.append((time.perf_counter() - started) * 1e6)
            assert len(exchange.claims) == 1
        registration.close()
        return times
    finally:
        engine.close()


def _fill(path: Path, pending: int, mountain: int) -> None:
    far_us = 10**17
    connection = open_writer(path)
    common = {"function": reference_of(noop), "arguments": codec.encode_arguments((1,), {})}
    kinds = [("a", pending, "default", 10, "pending", 0)]
    if mountain:
        kinds += [
            ("b", mountain, "default", 10, "completed", 0),
            ("c", mountain, "default", 30, "scheduled", far_us),
            ("d", mountain, "paused", 30, "pending", 0),
        ]
    connection.execute("BEGIN IMMEDIATE")
    for mark, count, queue, priority, status, due in kinds:
        row = {"mark": mark * 4, "count": count, "queue": queue, "priority": priority, "status": status, "due": due}
        connection.execute(_FILL, {**row, **common})
        connection.execute("INSERT INTO queue (name) VALUES (?) ON CONFLICT DO NOTHING", (queue,))
    connection.execute("COMMIT")
    connection.close()
