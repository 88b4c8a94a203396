"""The process pool and the event loop: drain and result latency of no-op tasks, beside Celery's prefork pool and rq.

The peers keep tasks in a Redis that is not durable, we in a file that survives the death of all processes. The peer of
the event loop, arq, cannot be installed beside Celery: it wants an older redis-py.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from bench import OURS, Bench, Skipped, python
from functions import anoop, noop
from peers import Celery, drain_rate, process, redis_url

from thirdshift import BackgroundTaskManager

CHILDREN = 2
PREFORK = "celery redis prefork (not durable)"
RQ = "rq redis (not durable)"
DRAIN = {"process": f"drain relaxed, {CHILDREN} child processes", "async": "drain relaxed, event loop"}
RESULT = {"process": "submit to result, relaxed, child process", "async": "submit to result, relaxed, event loop"}
_COUNT = {"process": 4_000, "async": 10_000}
_GAP_S = 0.02


def pools(bench: Bench) -> None:
    """Ours in turn with the peer, each with a new worker in every round."""
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(bench.rounds):
        for kind, case in DRAIN.items():
            rates[case, OURS].append(_drain(bench, kind))
        for kind, who, drain in () if bench.alone else _PEERS:
            try:
                rates[DRAIN[kind], who].append(drain(bench))
            except (ImportError, Skipped) as reason:
                bench.skip(who, reason)
    for (case, who), samples in rates.items():
        bench.add(case, who, "tasks/s", samples)
    for kind, case in RESULT.items():
        bench.add(case, OURS, "ms", _latencies(bench, kind))


def _drain(bench: Bench, kind: str) -> float:
    database, count = str(bench.room() / "tasks.db"), _COUNT[kind] // (5 if bench.quick else 1)
    with BackgroundTaskManager(database=database, start=False, durability="relaxed") as manager:
        _submit(manager, kind, count)
    drain = "import sys, thirdshift_app as app; app.drain(sys.argv[1], int(sys.argv[2]))"
    return count / float(python(drain, database, str(CHILDREN)))


def _submit(manager: BackgroundTaskManager, kind: str, count: int) -> None:
    calls = [(number,) for number in range(count)]
    if kind == "async":
        manager.submit_many(anoop, calls)
    else:
        manager.options(pool="process").submit_many(noop, calls)


def _drain_prefork(bench: Bench) -> float:
    side = Celery(redis_url(bench, "relaxed"), "relaxed", pool="prefork", slots=CHILDREN)
    try:
        return side.drain(side.drain_count // (5 if bench.quick else 1))
    finally:
        side.close()


def _drain_rq(bench: Bench) -> float:
    """One worker process for each child of ours; a worker forks for every job."""
    from redis import Redis  # noqa: PLC0415  # an optional peer
    from rq import Queue  # noqa: PLC0415

    url, count = redis_url(bench, "relaxed"), 60 if bench.quick else 300
    connection = Redis.from_url(url)
    connection.flushdb()
    queue = Queue("bench", connection=connection)
    for number in range(count):
        queue.enqueue("functions.noop", number)
    command = [sys.executable, "-m", "rq.cli", "worker-pool", "bench", "-n", str(CHILDREN), "--url", url, "--quiet"]
    try:
        with process(command):
            return drain_rate(count, lambda: int(queue.count))
    finally:
        connection.close()


_PEERS: tuple[tuple[str, str, Callable[[Bench], float]], ...] = (
    ("process", PREFORK, _drain_prefork),
    ("process", RQ, _drain_rq),
)


def _latencies(bench: Bench, kind: str) -> list[float]:
    """From submit to the result at the submitter, in one process whose worker is warm and idle."""
    times: list[float] = []
    database: Path = bench.room() / "tasks.db"
    with BackgroundTaskManager(database=database, durability="relaxed", max_workers=CHILDREN) as manager:
        for number in range(50 if bench.quick else 300):
            time.sleep(_GAP_S)
            began = time.monotonic()
            if kind == "async":
                manager.submit(anoop, number).result(30)
            else:
                manager.options(pool="process").submit(noop, number).result(30)
            times.append((time.monotonic() - began) * 1000)
    return times[2 * CHILDREN :]  # without the start of the children
