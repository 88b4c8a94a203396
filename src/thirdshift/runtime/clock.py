"""The one place that reads the machine's clocks."""

import time
from datetime import UTC, datetime


class SystemClock:
    """The machine's clocks, as :class:`thirdshift.core.clock.Clock`."""

    def now(self) -> datetime:
        """Return the moment, aware and in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds on a clock that never steps."""
        return time.monotonic()
