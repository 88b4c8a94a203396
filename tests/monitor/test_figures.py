"""Figures of ended attempts: values that add up, counted exactly once, in bounded room."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thirdshift import BackgroundTaskManager
from thirdshift.core.engine import ClaimRequest
from thirdshift.core.figures import OTHERS, RELATIVE_ERROR, Figures, Histogram, Span, bucket_of, lowest_of, total
from thirdshift.core.outcome import Ending, settle
from thirdshift.core.task import AttemptOutcome, Claim, PoolKind
from thirdshift.engines.sqlite import SQLiteEngine, figures
from thirdshift.testing.clock import START, FakeClock
from thirdshift.testing.conformance import new_task

COMPLETED = AttemptOutcome.COMPLETED


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def engine(tmp_path: Path, clock: FakeClock) -> Iterator[SQLiteEngine]:
    engine = SQLiteEngine.shared(tmp_path / "tasks.db", clock=clock)
    engine.count_ends()
    yield engine
    engine.close()


def claim(engine: SQLiteEngine, most: int = 1_000) -> list[Claim]:
    return list(engine.exchange([], ClaimRequest(owner="worker", free={PoolKind.THREAD: most})).claims)


def end(engine: SQLiteEngine, clock: FakeClock, run_s: float = 0.0, outcome: AttemptOutcome = COMPLETED) -> int:
    """Run all that can start, each for *run_s*; returns how many that were."""
    claims = claim(engine)
    started = clock.now()
    clock.advance(run_s)
    ending = Ending(outcome, started, clock.now())
    engine.exchange([settle(each, ending, 0.0) for each in claims], None)
    return len(claims)


def fold(engine: SQLiteEngine) -> None:
    while engine.fold_figures():
        pass


@given(st.integers(0, 2**45))
def test_a_value_lies_in_its_bucket_and_the_bucket_is_narrow(value: int) -> None:
    """So that a percentile is no further off than promised."""
    bucket = bucket_of(value)
    lowest, highest = lowest_of(bucket), lowest_of(bucket + 1) - 1
    assert lowest <= value <= highest
    assert abs((lowest + highest) / 2 - value) <= value * RELATIVE_ERROR


def test_the_store_and_the_code_mean_the_same_buckets(engine: SQLiteEngine) -> None:
    """The schema has them as a table."""
    with closing(sqlite3.connect(engine.location)) as connection:
        found = connection.execute("SELECT lowest_us, bucket FROM figure_bucket ORDER BY bucket").fetchall()
    assert found == [(lowest_of(bucket), bucket) for bucket in range(801)]


@given(st.lists(st.integers(0, 10**9), max_size=50), st.lists(st.integers(0, 10**9), max_size=50))
def test_percentiles_do_not_depend_on_how_they_were_added_up(first: list[int], second: list[int]) -> None:
    """An hour says what its minutes said."""
    assert histogram(first) + histogram(second) == histogram(first + second)


def histogram(values: list[int]) -> Histogram:
    whole = Histogram()
    for value in values:
        whole += Histogram({bucket_of(value): 1})
    return whole


def test_nothing_ended_is_no_rate_and_no_time() -> None:
    """Not zero: nobody knows."""
    assert (Figures().error_rate, Figures().average_run_s, Histogram().percentile_s(50)) == (None, None, None)


def test_what_ended_a_moment_ago_is_in_the_figures_before_and_after_it_is_folded(
    engine: SQLiteEngine, clock: FakeClock
) -> None:
    """Whoever asks adds up what nobody has folded yet."""
    engine.submit([new_task() for _ in range(3)])
    clock.advance(10)
    assert end(engine, clock, run_s=2) == 3
    before = {span: engine.buckets(span) for span in Span}
    fold(engine)
    assert {span: engine.buckets(span) for span in Span} == before
    figures = total(before[Span.EVER])
    assert (figures.executions, figures.average_run_s, figures.average_queue_s) == (3, 2.0, 10.0)


def test_a_retry_waits_from_its_due_moment_and_an_interrupted_task_from_its_interruption(
    engine: SQLiteEngine, clock: FakeClock
) -> None:
    """The time that an earlier attempt ran is no time in the queue."""
    engine.submit([new_task()])
    end(engine, clock, run_s=100, outcome=AttemptOutcome.INTERRUPTED)
    clock.advance(5)
    (interrupted,) = claim(engine)
    started = clock.now()
    failed = settle(interrupted, Ending(AttemptOutcome.FAILED, started, clock.now()), 30.0)
    engine.exchange([failed], None)
    clock.advance(37)
    end(engine, clock)
    assert total(engine.buckets(Span.EVER)).queue_us == (0 + 5 + 7) * 1_000_000


def test_deleted_tasks_keep_counting(engine: SQLiteEngine, clock: FakeClock) -> None:
    """However they go, and also when nobody had folded them before."""
    for delete in (
        lambda: engine.delete_finished(before=clock.now() + timedelta(days=1)),
        lambda: [engine.delete(task.id) for task in engine.find(everything())],
        lambda: engine.delete_all(everything()),
    ):
        engine.submit([new_task() for _ in range(7)])
        end(engine, clock, run_s=1)
        delete()
    assert sum(engine.counts().values()) == 0
    assert total(engine.buckets(Span.EVER)).executions == 21


def everything():
    from thirdshift import TaskFilter

    return TaskFilter()


def test_two_that_fold_at_once_count_once(engine: SQLiteEngine, clock: FakeClock, tmp_path: Path) -> None:
    """The second finds that the rows it has read are folded."""
    engine.submit([new_task()])
    end(engine, clock)
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as connection:
        stale = figures._read(connection, most_rows=-1)
    assert stale is not None
    fold(engine)
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as connection, connection:
        figures._apply(connection, stale)
    assert total(engine.buckets(Span.EVER)).executions == 1


def test_one_process_folds_at_a_time(engine: SQLiteEngine, tmp_path: Path) -> None:
    """The others leave it alone."""
    from thirdshift.host.lock import FileLock

    with FileLock(tmp_path / "tasks.db.run" / "figures.lock"):
        assert engine.fold_figures() is None
    assert engine.fold_figures() is False


def test_where_nobody_counts_nothing_is_written(tmp_path: Path) -> None:
    """monitor_enabled=False costs nothing: no thread, no row."""
    path = tmp_path / "tasks.db"
    with BackgroundTaskManager(database=path, monitor_enabled=False, pools={"process": 0}) as manager:
        manager.submit(int, 1).result(timeout=120)
        assert manager.monitor.get_task_metrics("int").total_executions == 0
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM feed").fetchone() == (0,)


def test_minutes_are_kept_for_hours_and_hours_for_months(engine: SQLiteEngine, clock: FakeClock) -> None:
    """All time stays."""
    for _ in range(100):
        engine.submit([new_task()])
        end(engine, clock)
        clock.advance(86_400)
    fold(engine)
    now = clock.now()
    assert all(bucket.started_at > now - timedelta(hours=9) for bucket in engine.buckets(Span.MINUTE))
    assert len(engine.buckets(Span.HOUR)) in (89, 90)
    assert total(engine.buckets(Span.EVER)).executions == 100


def test_the_file_is_bounded_whatever_names_tasks_have(engine: SQLiteEngine, clock: FakeClock) -> None:
    """A name for each task: from 500 on they are counted together, and of each few details are kept."""
    engine.keep_executions(5)
    for start in range(0, 1_200, 300):
        engine.submit([new_task(name=f"name {number}") for number in range(start, start + 300)])
        end(engine, clock)
        fold(engine)
    engine.submit([new_task(name="often") for _ in range(300)])
    end(engine, clock)
    fold(engine)
    names = {bucket.name for bucket in engine.buckets(Span.EVER)}
    assert len(names) == 501
    assert total(bucket for bucket in engine.buckets(Span.EVER) if bucket.name == OTHERS).executions == 1_000
    assert len(engine.executions("often", 1_000)) == 5
    with closing(sqlite3.connect(engine.location)) as connection:
        assert connection.execute("SELECT count(*) FROM feed").fetchone() == (1,)


def test_executions_are_kept_in_detail(engine: SQLiteEngine, clock: FakeClock) -> None:
    """The newest first."""
    ids = engine.submit([new_task(name="mine")])
    clock.advance(3)
    end(engine, clock, run_s=4, outcome=AttemptOutcome.FAILED)
    (execution, *_) = engine.executions("mine", 10)
    assert (execution.task_id, execution.outcome.value, execution.run_s, execution.queue_s) == (ids[0], "failed", 4, 3)
    assert execution.finished_at == START + timedelta(seconds=7)
