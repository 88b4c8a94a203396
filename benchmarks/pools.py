"""The process pool and the event loop: drain and result latency of no-op tasks, beside Celery's prefork pool."""

import time
from collections import defaultdict
from pathlib import Path

from bench import OURS, Bench, Skipped, python
from functions import anoop, noop
from peers import Celery, redis_url

from thirdshift import BackgroundTaskManager

CHILDREN = 2
PREFORK = "celery redis prefork (not durable)"
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
        if not bench.alone:
            try:
                rates[DRAIN["process"], PREFORK].append(_drain_prefork(bench))
            except (ImportError, Skipped) as reason:
                bench.skip(PREFORK, reason)
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
