"""A clock that a test turns by hand, so that nothing waits for an hour to pass."""

import mmap
import struct
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

START = datetime(2030, 1, 1, tzinfo=UTC)


class FakeClock:
    """A :class:`thirdshift.core.clock.Clock` that stands still until it is told otherwise. For any thread."""

    def __init__(self, start: datetime = START) -> None:
        self._mutex = threading.Lock()
        self._now = start
        self._monotonic_s = 0.0

    def now(self) -> datetime:
        """Return the moment, aware and in UTC."""
        with self._mutex:
            return self._now

    def monotonic(self) -> float:
        """Return seconds on a clock that never steps."""
        with self._mutex:
            return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass on both clocks."""
        if seconds < 0:
            raise ValueError(f"time does not go back by {-seconds} s; use step() for a wall clock that was set back")
        with self._mutex:
            self._now += timedelta(seconds=seconds)
            self._monotonic_s += seconds

    def step(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an administrator does; no time passes.

        Forward is also what a machine finds that was suspended: its monotonic clock stood still.
        """
        with self._mutex:
            self._now += timedelta(seconds=seconds)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SharedClock:
    """A wall clock that several processes read from the file *path*, and any of them turns; durations are real ones.

    *start* sets it; without it, it stands where others have set it.
    """

    def __init__(self, path: Path, start: datetime | None = None) -> None:
        if not path.exists():
            path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._moment = mmap.mmap(file.fileno(), 8)
        if start is not None:
            self.set(start)

    def now(self) -> datetime:
        """Return the moment, aware and in UTC."""
        return _EPOCH + timedelta(microseconds=struct.unpack("<q", self._moment[:8])[0])

    def set(self, moment: datetime) -> None:
        """Set it, forward or back."""
        self._moment[:8] = struct.pack("<q", (moment - _EPOCH) // timedelta(microseconds=1))

    def monotonic(self) -> float:
        """Return seconds on a clock that never steps."""
        return time.monotonic()
