"""Time as the engine and the runtime see it: two readings, injected, so that tests need not wait."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Durations come from :meth:`monotonic`, stored moments from :meth:`now`; the two are never mixed."""

    def now(self) -> datetime:
        """Return the moment, aware and in UTC."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never steps."""
