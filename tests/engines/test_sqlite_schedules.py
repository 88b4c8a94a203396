"""Schedules in the file: the suite for all who store schedules, and what only several processes can show."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from thirdshift.core.clock import Clock
from thirdshift.core.schedule import Overlap, Schedule
from thirdshift.core.schedule_store import NewSchedule
from thirdshift.core.task import PoolKind, TaskSpec
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.testing.clock import START, FakeClock
from thirdshift.testing.schedule_conformance import ScheduleConformance


class TestSQLiteSchedules(ScheduleConformance):
    """The whole suite."""

    def open_engine(self, folder: Path, clock: Clock) -> SQLiteEngine:
        """Open one file."""
        return SQLiteEngine.shared(folder / "tasks.db", clock=clock)


class _InterruptedClock(FakeClock):
    """Whoever asks it for the time may find that another process went first."""

    meanwhile: Callable[[], object] | None = None

    def now(self) -> datetime:
        """Let the other process do its work, once."""
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return super().now()


@pytest.fixture
def clock() -> _InterruptedClock:
    """The clock of the process that is interrupted."""
    return _InterruptedClock()


@pytest.fixture
def ours(tmp_path: Path, clock: _InterruptedClock) -> Iterator[SQLiteEngine]:
    """The process that is interrupted."""
    with closing(SQLiteEngine.shared(tmp_path / "tasks.db", clock=clock)) as engine:
        yield engine


@pytest.fixture
def theirs(ours: SQLiteEngine, tmp_path: Path) -> Iterator[SQLiteEngine]:
    """The process that goes first."""
    with closing(SQLiteEngine(tmp_path / "tasks.db", clock=FakeClock())) as engine:
        yield engine


def _new(every_s: float, overlap: Overlap = Overlap.SKIP) -> NewSchedule:
    spec = TaskSpec(name="echo", function="thirdshift.testing.functions:echo", queue="default", pool=PoolKind.THREAD)
    rule = Schedule(every=every_s, overlap=overlap)
    return NewSchedule(name="sync", schedule=rule, task=spec, arguments=b"[1,[],{}]")


def test_tasks_of_an_older_file_get_their_fire_times(tmp_path: Path) -> None:
    """Those whose fires are known yet; the others have none."""
    path = tmp_path / "tasks.db"
    with closing(SQLiteEngine(path, clock=FakeClock())) as engine:
        schedule = engine.schedules.put(_new(60, Overlap.QUEUE))
        fires = [engine.schedules.run_now(schedule.id) for _ in range(2)]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            "ALTER TABLE task DROP COLUMN schedule_name; ALTER TABLE task DROP COLUMN scheduled_for;"
            "DELETE FROM fire WHERE nominal = (SELECT max(nominal) FROM fire); PRAGMA user_version = 13;"
        )
    with closing(SQLiteEngine(path, clock=FakeClock())) as engine:
        first, second = (engine.get(fire.task) for fire in fires if fire is not None and fire.task is not None)
    assert first is not None
    assert (first.schedule, first.scheduled_for) == ("sync", START)
    assert second is not None
    assert (second.schedule, second.scheduled_for) == (None, None)


def test_what_is_fired_now_follows_the_rule_of_that_moment(
    ours: SQLiteEngine, theirs: SQLiteEngine, clock: _InterruptedClock
) -> None:
    """Not that of a moment ago, when its tasks were not to queue yet."""
    schedule = ours.schedules.put(_new(60))
    ours.schedules.run_now(schedule.id)
    clock.meanwhile = lambda: theirs.schedules.put(_new(60, Overlap.QUEUE))
    fire = ours.schedules.run_now(schedule.id)
    assert fire is not None
    assert fire.task is not None


def test_what_goes_on_follows_the_rule_of_that_moment(
    ours: SQLiteEngine, theirs: SQLiteEngine, clock: _InterruptedClock
) -> None:
    """Its next fire time is not that of the rule it had a moment ago."""
    schedule = ours.schedules.put(_new(60))
    ours.schedules.set_paused(schedule.id, True)
    clock.meanwhile = lambda: theirs.schedules.put(_new(3600))
    assert ours.schedules.set_paused(schedule.id, False)
    assert ours.schedules.all()[0].next_at == START + timedelta(hours=1)


def test_a_schedule_that_took_the_place_of_a_deleted_one_is_left_alone(
    ours: SQLiteEngine, theirs: SQLiteEngine, clock: _InterruptedClock
) -> None:
    """What was meant for the deleted one does not reach it."""
    schedule = ours.schedules.put(_new(60))

    def replace_it() -> None:
        theirs.schedules.delete(schedule.id)
        theirs.schedules.put(_new(60))

    clock.meanwhile = replace_it
    assert not ours.schedules.end(schedule.id)
    assert [state.state for state in ours.schedules.all()] == ["active"]
