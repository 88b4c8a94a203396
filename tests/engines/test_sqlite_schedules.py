"""Schedules in the file: the suite for all who store schedules, and what only several processes can show."""

from pathlib import Path

from thirdshift.core.clock import Clock
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.testing.schedule_conformance import ScheduleConformance


class TestSQLiteSchedules(ScheduleConformance):
    """The whole suite."""

    def open_engine(self, folder: Path, clock: Clock) -> SQLiteEngine:
        """Open one file."""
        return SQLiteEngine.shared(folder / "tasks.db", clock=clock)
