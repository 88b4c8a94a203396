"""The figures of the monitor are those of the task history, whatever dies and whatever is deleted."""

import math
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager
from thirdshift.core.figures import RELATIVE_ERROR, Bucket, Span, total
from thirdshift.testing import coroutines, functions

PROGRAM = Path(__file__).with_name("figures_worker.py")
TASKS = int(os.environ.get("THIRDSHIFT_TASKS") or 2_000)
KILLS = 12
SEED = 20_260_711
TIMEOUT_S = 60 + TASKS / 100
EXECUTIONS = ("completed", "failed", "timed_out")


def submit(manager: BackgroundTaskManager, count: int, ledger: Path, chance: random.Random) -> None:
    """Store so many random tasks: they succeed, fail, retry, snooze, commit and are cancelled."""
    kinds = [
        (functions.add, (1, 2)),
        (functions.fail, ("on purpose",)),
        (functions.try_again_before_attempt, (3,)),
        (functions.snooze_before_attempt, (2,)),
        (functions.call_off, ("not needed",)),
        (functions.sleep, (0.003,)),
        (coroutines.echo, (1,)),
        (functions.credit, (str(ledger), 1)),
    ]
    for start in range(0, count, 50):
        function, arguments = chance.choice(kinds)
        options = manager.options(
            name=chance.choice(["", "one", "two"]) or None,
            queue=chance.choice(["mail", "default"]),
            max_retries=chance.randrange(4),
            pool="process" if function is functions.add and chance.random() < 0.3 else None,
        )
        if function is functions.fail:
            options = manager.options(max_retries=0)
        options.submit_many(function, [arguments] * min(50, count - start))


@pytest.mark.skipif(sys.platform != "linux", reason="the workers are killed as Linux does it")
def test_the_figures_are_those_of_the_history_after_many_tasks_and_kills(tmp_path: Path) -> None:
    """Counted once more from the rows of the attempts; each exactly once, also when the worker died while it folded."""
    chance = random.Random(SEED)
    path = tmp_path / "tasks.db"
    with BackgroundTaskManager(database=path, start=False) as manager:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE entry (amount INTEGER)")
        submit(manager, TASKS, path, chance)
        worker = start_worker(path)
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.05, 0.4))  # no event says when a fold is half done
            worker.kill()
            worker.communicate()
            worker = start_worker(path)
        assert manager.wait_until_drained(TIMEOUT_S)
        worker.terminate()
        worker.communicate()
        spans = {span: list(manager._engine.buckets(span)) for span in Span}
        minutes = spans.pop(Span.MINUTE)
        assert total(minutes).attempts >= TASKS
        demand_equal(path, minutes, spans)


def start_worker(path: Path) -> subprocess.Popen[bytes]:
    worker = subprocess.Popen([sys.executable, str(PROGRAM), str(path)], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"ready\n"
    return worker


@dataclass
class Count:
    """What ended under one key."""

    outcomes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    run_us: list[int] = field(default_factory=list)
    queue_us: list[int] = field(default_factory=list)


def recount(path: Path) -> dict[tuple[int, str, str, str], Count]:
    """Return what ended by minute (seconds since 1970), name, queue and worker."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT task.seq, name, queue, worker, outcome, attempt.due_at, started_at, attempt.finished_at"
            " FROM attempt JOIN task ON task.seq = attempt.task ORDER BY task.seq, number"
        ).fetchall()
    found: dict[tuple[int, str, str, str], Count] = defaultdict(Count)
    ended_before: dict[int, int] = {}
    for seq, name, queue, worker, outcome, due, started, finished in rows:
        count = found[finished // 60_000_000 * 60, name, queue, worker]
        count.outcomes[outcome] += 1
        if started is not None:
            if outcome in EXECUTIONS and finished >= started:
                count.run_us.append(finished - started)
            count.queue_us.append(max(0, started - max(due, ended_before.get(seq, due))))
        ended_before[seq] = max(finished, ended_before.get(seq, 0))
    return dict(found)


def demand_equal(path: Path, minutes: list[Bucket], others: dict[Span, list[Bucket]]) -> None:
    """The monitor's buckets of minutes are the recount, and those of all other spans add up to the same."""
    counted = recount(path)
    for bucket in minutes:
        assert bucket.started_at is not None
        assert bucket.worker is not None
        key = int(bucket.started_at.timestamp()), bucket.name, bucket.queue, bucket.worker
        demand_same(bucket, counted.pop(key))
    assert not counted, f"nobody has counted {counted}"
    whole = total(minutes)
    for buckets in others.values():
        assert total(buckets) == whole


def demand_same(bucket: Bucket, count: Count) -> None:
    figures = bucket.figures
    assert {outcome.value: number for outcome, number in figures.outcomes.items()} == dict(count.outcomes)
    assert (figures.run_us, figures.run_times.total) == (sum(count.run_us), len(count.run_us))
    assert (figures.queue_us, figures.queue_times.total) == (sum(count.queue_us), len(count.queue_us))
    assert figures.longest_us == max(count.run_us, default=0)
    for histogram, values in ((figures.run_times, count.run_us), (figures.queue_times, count.queue_us)):
        for percent in (1, 50, 95, 99, 100):
            demand_near(histogram.percentile_s(percent), values, percent)


def demand_near(percentile_s: float | None, values: list[int], percent: int) -> None:
    """The percentile is as near to the true one as is promised."""
    if not values:
        assert percentile_s is None
        return
    true_us = sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]
    assert percentile_s is not None
    assert abs(percentile_s * 1e6 - true_us) <= true_us * RELATIVE_ERROR
