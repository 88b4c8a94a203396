"""What all suites for engines begin with: an empty engine, a clock that is turned by hand, one registered worker."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest

from thirdshift.core.clock import Clock
from thirdshift.core.engine import Registration, WorkerEngine
from thirdshift.testing.clock import FakeClock


class EngineSuite(ABC):
    """Subclass one of the suites that are made of it, and define :meth:`open_engine`."""

    clock: FakeClock
    engine: WorkerEngine
    worker: Registration

    @abstractmethod
    def open_engine(self, folder: Path, clock: Clock) -> WorkerEngine:
        """Return an open, empty engine that keeps its tasks in *folder*."""

    @pytest.fixture(autouse=True)
    def an_open_engine(self, tmp_path: Path) -> Iterator[None]:
        """Give every test an empty engine with one registered worker."""
        self.clock = FakeClock()
        self.engine = self.open_engine(tmp_path, self.clock)
        self.worker = self.engine.register(slots=8)
        yield
        self.worker.close()
        self.engine.close()
