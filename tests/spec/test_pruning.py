"""How long finished tasks are kept: the rules, and the worker that keeps to them without being asked."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager, ConfigurationError, PruningConfig, TaskFilter, TaskStatus
from thirdshift.config import load_settings
from thirdshift.core.events import TasksPruned
from thirdshift.core.pruning import Limit
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.monitor.logs import log_event
from thirdshift.runtime import pruner as pruner_module
from thirdshift.runtime.pruner import Pruner
from thirdshift.testing import functions
from thirdshift.testing.clock import FakeClock
from thirdshift.testing.conformance import new_task

NOW = datetime(2030, 1, 31, tzinfo=UTC)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def engine(tmp_path: Path, clock: FakeClock) -> Iterator[SQLiteEngine]:
    engine = SQLiteEngine.shared(tmp_path / "tasks.db", clock=clock)
    yield engine
    engine.close()


def cancelled(engine: SQLiteEngine, count: int) -> None:
    """Store so many finished tasks."""
    engine.submit([new_task() for _ in range(count)])
    engine.cancel_all(TaskFilter())


def left(engine: SQLiteEngine) -> int:
    return sum(engine.counts().values())


def test_the_defaults_keep_a_week_of_successes_and_a_month_of_failures() -> None:
    """And a million of each."""
    week, month = NOW - timedelta(days=7), NOW - timedelta(days=30)
    assert PruningConfig().limits(NOW) == {
        TaskStatus.COMPLETED: Limit(before=week, rows=1_000_000),
        TaskStatus.FAILED: Limit(before=month, rows=1_000_000),
        TaskStatus.CANCELLED: Limit(before=month, rows=1_000_000),
    }


def test_null_is_no_limit() -> None:
    """Nor is an age from before the calendar begins."""
    rules = PruningConfig(completed_days=None, completed_rows=None, failed_days=1e9, cancelled_days=1e300)
    limits = rules.limits(NOW)
    assert limits[TaskStatus.COMPLETED] == Limit()
    assert limits[TaskStatus.FAILED].before is None
    assert limits[TaskStatus.CANCELLED].before is None


@pytest.mark.parametrize("rule", ["completed_days: -1", "failed_rows: -1", "cancelled_days: .nan", "failed_days: .inf"])
def test_a_limit_that_makes_no_sense_is_refused(tmp_path: Path, rule: str) -> None:
    """By name, with what may stand there; the file and the line are named too."""
    (tmp_path / "thirdshift.yaml").write_text(f"pruning:\n  {rule}\n")
    with pytest.raises(ConfigurationError, match=f"{rule.partition(':')[0]} is .*; it must be 0 or more, or null"):
        load_settings(tmp_path)


def test_rules_are_read_from_the_configuration(tmp_path: Path) -> None:
    """Unsaid ones keep their default."""
    (tmp_path / "thirdshift.yaml").write_text("pruning: {completed_days: 1, failed_rows: null, enabled: false}\n")
    assert load_settings(tmp_path).pruning == PruningConfig(completed_days=1.0, failed_rows=None, enabled=False)


def test_a_worker_prunes_by_itself_little_by_little(engine: SQLiteEngine, clock: FakeClock) -> None:
    """Not in its first seconds; then one batch, and the next a second later as long as there is more."""
    cancelled(engine, 1_100)
    pruner = Pruner(engine, PruningConfig(cancelled_rows=50), clock)
    assert (pruner.tick(), left(engine)) == ({}, 1_100)
    clock.advance(10)
    assert pruner.tick() == {TaskStatus.CANCELLED: 500}
    assert pruner.tick() == {}
    clock.advance(1)
    assert pruner.tick() == {TaskStatus.CANCELLED: 500}
    clock.advance(1)
    assert (pruner.tick(), left(engine)) == ({TaskStatus.CANCELLED: 50}, 50)


def test_a_worker_looks_once_a_minute(engine: SQLiteEngine, clock: FakeClock) -> None:
    """What finishes in between waits for the next look."""
    pruner = Pruner(engine, PruningConfig(cancelled_rows=0), clock)
    clock.advance(10)
    assert pruner.tick() == {}
    cancelled(engine, 1)
    clock.advance(59.9)
    assert pruner.tick() == {}
    clock.advance(0.1)
    assert pruner.tick() == {TaskStatus.CANCELLED: 1}


def test_a_look_that_finds_nothing_writes_nothing(engine: SQLiteEngine, clock: FakeClock) -> None:
    """It does not even take the write lock."""
    cancelled(engine, 3)
    before = engine._writer.commits
    pruner = Pruner(engine, PruningConfig(), clock)
    clock.advance(10)
    assert pruner.tick() == {}
    assert engine._writer.commits == before


def test_it_can_be_turned_off(engine: SQLiteEngine, clock: FakeClock) -> None:
    """Then finished tasks stay until somebody deletes them."""
    cancelled(engine, 1)
    pruner = Pruner(engine, PruningConfig(cancelled_rows=0, enabled=False), clock)
    clock.advance(1_000)
    assert (pruner.tick(), left(engine)) == ({}, 1)


def test_a_running_manager_prunes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its worker does it, and writes a line about it."""
    monkeypatch.setattr(pruner_module, "_FIRST_S", 0.0)
    monkeypatch.setattr(pruner_module, "_INTERVAL_S", 0.01)
    with (
        caplog.at_level("INFO", "thirdshift.worker"),
        BackgroundTaskManager(database=tmp_path / "a.db", pruning=PruningConfig(completed_rows=1)) as manager,
    ):
        for number in range(3):
            manager.submit(functions.add, number, 1).result(30)
        pause = threading.Event()
        for _ in range(1_000):
            if manager.get_stats()["completed"] == 1:
                break
            pause.wait(0.01)
        assert manager.get_stats()["completed"] == 1
    assert "tasks.pruned completed=" in caplog.text


def test_the_log_line_names_what_was_pruned(caplog: pytest.LogCaptureFixture) -> None:
    """Each status with its number."""
    with caplog.at_level("INFO", "thirdshift.worker"):
        log_event(TasksPruned({TaskStatus.COMPLETED: 3, TaskStatus.FAILED: 1}))
    assert caplog.messages == ["tasks.pruned completed=3 failed=1"]
