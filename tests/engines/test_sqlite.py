"""The embedded engine passes the suite of all engines, and keeps the rules of its own file."""

from pathlib import Path

from thirdshift.core.clock import Clock
from thirdshift.core.engine import WorkerEngine
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.testing.dependency_conformance import DependencyConformance


class TestSQLiteEngine(DependencyConformance):
    """The conformance suite on one SQLite file."""

    def open_engine(self, folder: Path, clock: Clock) -> WorkerEngine:
        return SQLiteEngine.shared(folder / "tasks.db", clock=clock)
