"""How long finished tasks are kept: the rules, and the worker that keeps to them without being asked."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager, ConfigurationError, PruningConfig, StoreBusy, TaskFilter, TaskStatus
from thirdshift.config import load_settings
from thirdshift.core.events import Event, TasksPruned
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


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def pruner(engine: SQLiteEngine, clock: FakeClock, told: list[Event]) -> Pruner:
    """Keeps fifty cancelled tasks."""
    return Pruner(engine, PruningConfig(cancelled_rows=50), clock=clock, observe=told.append)


def test_a_worker_prunes_little_by_little(engine: SQLiteEngine, pruner: Pruner, told: list[Event]) -> None:
    """One batch, the next a second later as long as there is more, then a look each minute."""
    cancelled(engine, 1_100)
    assert [pruner.tick() for _ in range(4)] == [1.0, 1.0, 60.0, 60.0]
    assert told == [TasksPruned({TaskStatus.CANCELLED: count}) for count in (500, 500, 50)]
    assert left(engine) == 50


def test_a_look_that_finds_nothing_writes_nothing(engine: SQLiteEngine, pruner: Pruner, told: list[Event]) -> None:
    """It does not even take the write lock, and says nothing."""
    cancelled(engine, 50)
    before = engine._writer.commits
    assert pruner.tick() == 60.0
    assert (engine._writer.commits, told) == (before, [])


def test_it_can_be_turned_off(engine: SQLiteEngine, clock: FakeClock) -> None:
    """Then there is not even a thread; what is asked for is done in any case."""
    threads = threading.active_count()
    pruner = Pruner(engine, PruningConfig(enabled=False), clock=clock, observe=log_event)
    pruner.start()
    assert threading.active_count() == threads
    pruner.stop()


@pytest.mark.parametrize(("error", "line"), [(StoreBusy("a.db", 5.0), ""), (ValueError("a fault"), "pruner.failed")])
def test_it_goes_on_after_an_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    line: str,
) -> None:
    """The work is not harmed; the next look is made as usual."""
    monkeypatch.setattr(pruner_module, "_FIRST_S", 0.0)
    monkeypatch.setattr(pruner_module, "_INTERVAL_S", 0.01)
    looks = threading.Semaphore(0)

    def fail(*_args: object, **_options: object) -> None:
        looks.release()
        raise error

    monkeypatch.setattr(SQLiteEngine, "prune", fail)
    with BackgroundTaskManager(database=tmp_path / "a.db") as manager:
        for _ in range(3):
            assert looks.acquire(timeout=30)
        assert manager.submit(functions.add, 1, 1).result(120) == 2
    assert {record.message for record in caplog.records if record.name == "thirdshift.pruner"} == ({line} - {""})


def test_a_running_manager_prunes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By itself, beside its worker, and writes a line about it."""
    monkeypatch.setattr(pruner_module, "_FIRST_S", 0.0)
    monkeypatch.setattr(pruner_module, "_INTERVAL_S", 0.01)
    with (
        caplog.at_level("INFO", "thirdshift.worker"),
        BackgroundTaskManager(database=tmp_path / "a.db", pruning=PruningConfig(completed_rows=1)) as manager,
    ):
        for number in range(3):
            manager.submit(functions.add, number, 1).result(120)
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
