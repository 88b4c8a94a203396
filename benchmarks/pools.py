"""The process pool beside Celery's prefork pool and rq, the event loop beside arq: drain and result latency of no-ops.

The peers keep tasks in a Redis that is not durable, we in a file that survives the death of all processes.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from bench import OURS, Bench, Skipped, python
from functions import anoop, noop
from peers import ARQ, Arq, Celery, drain_rate, process, redis_url

from thirdshift import BackgroundTaskManager

CHILDREN = 2
PREFORK = "celery redis prefork (not durable)"
RQ = "rq redis (not durable)"
DRAIN = {"process": f"drain relaxed, {CHILDREN} child processes", "async": "drain relaxed, event loop"}
RESULT = {"process": "submit to result, relaxed, child process", "async": "submit to result, relaxed, event loop"}
_COUNT = {"process": 4_000, "async": 10_000}
_GAP_S = 0.02
_WARM = 2 * CHILDREN
"""The first results of a worker do not count: its children start."""


def pools(bench: Bench) -> None:
    """Ours in turn with the peers, each with a new worker in every round."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(bench.rounds):
        for case, who, measure in _SIDES:
            if who in bench.skipped or (bench.alone and who != OURS):
                continue
            try:
                found[case, who] += measure(bench)
            except (ImportError, Skipped) as reason:
                bench.skip(who, reason)
    for (case, who), samples in found.items():
        bench.add(case, who, "ms" if case in RESULT.values() else "tasks/s", samples)


def _drain(kind: str, bench: Bench) -> list[float]:
    database, count = str(bench.room() / "tasks.db"), _less(bench, _COUNT[kind])
    with BackgroundTaskManager(database=database, start=False, durability="relaxed") as manager:
        _submit(manager, kind, count)
    drain = "import sys, thirdshift_app as app; print(app.drain(sys.argv[1], int(sys.argv[2])))"
    return [count / float(python(drain, database, str(CHILDREN)))]


def _submit(manager: BackgroundTaskManager, kind: str, count: int) -> None:
    calls = [(number,) for number in range(count)]
    if kind == "async":
        manager.submit_many(anoop, calls)
    else:
        manager.options(pool="process").submit_many(noop, calls)


def _drain_prefork(bench: Bench) -> list[float]:
    side = Celery(redis_url(bench, "relaxed"), "relaxed", pool="prefork", slots=CHILDREN)
    try:
        return [side.drain(_less(bench, side.drain_count))]
    finally:
        side.close()


def _drain_rq(bench: Bench) -> list[float]:
    """One worker process for each child of ours; a worker forks for every job."""
    from redis import Redis  # noqa: PLC0415  # an optional peer
    from rq import Queue  # noqa: PLC0415

    url, count = redis_url(bench, "relaxed"), _less(bench, 300)
    connection = Redis.from_url(url)
    connection.flushdb()
    queue = Queue("bench", connection=connection)
    for number in range(count):
        queue.enqueue("functions.noop", number)
    command = [sys.executable, "-m", "rq.cli", "worker-pool", "bench", "-n", str(CHILDREN), "--url", url, "--quiet"]
    try:
        with process(command):
            return [drain_rate(count, lambda: int(queue.count))]
    finally:
        connection.close()


def _drain_arq(poll_s: float, bench: Bench) -> list[float]:
    with closing(Arq(redis_url(bench, "relaxed"), poll_s)) as side:
        return [side.drain(_less(bench, side.drain_count))]


def _latencies(kind: str, bench: Bench) -> list[float]:
    """From submit to the result at the submitter, in one process whose worker is warm and idle."""
    times: list[float] = []
    database: Path = bench.room() / "tasks.db"
    with BackgroundTaskManager(database=database, durability="relaxed", max_workers=CHILDREN) as manager:
        for number in range(_WARM + _less(bench, 60)):
            time.sleep(_GAP_S)
            began = time.monotonic()
            if kind == "async":
                manager.submit(anoop, number).result(30)
            else:
                manager.options(pool="process").submit(noop, number).result(30)
            times.append((time.monotonic() - began) * 1000)
    return times[_WARM:]


def _latencies_arq(poll_s: float, bench: Bench) -> list[float]:
    with closing(Arq(redis_url(bench, "relaxed"), poll_s)) as side:
        return side.latencies(_WARM + _less(bench, 60 if poll_s < 0.5 else 10))[_WARM:]


def _less(bench: Bench, count: int) -> int:
    return count // (5 if bench.quick else 1)


_SIDES: tuple[tuple[str, str, Callable[[Bench], list[float]]], ...] = (
    (DRAIN["process"], OURS, partial(_drain, "process")),
    (DRAIN["process"], PREFORK, _drain_prefork),
    (DRAIN["process"], RQ, _drain_rq),
    (DRAIN["async"], OURS, partial(_drain, "async")),
    *((DRAIN["async"], who, partial(_drain_arq, poll_s)) for poll_s, who in ARQ.items()),
    (RESULT["process"], OURS, partial(_latencies, "process")),
    (RESULT["async"], OURS, partial(_latencies, "async")),
    *((RESULT["async"], who, partial(_latencies_arq, poll_s)) for poll_s, who in ARQ.items()),
)
