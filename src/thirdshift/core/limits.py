"""How many tasks of one queue or key may run at once, and how many of a queue may start in a second."""

import math
from dataclasses import dataclass

from thirdshift.core.errors import UsageError

_SLOWEST_RATE = 1 / 86_400


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueLimits:
    """The limits of a queue, for all workers together; ``None`` stands for no limit.

    Raises ``UsageError`` for limits that make no sense.
    """

    concurrency: int | None = None
    """Most tasks that run at once, claimed ahead ones included."""
    rate: float | None = None
    """Most starts a second, on average."""
    burst: int | None = None
    """Most starts at once after a quiet time; default: those of one second, at least one."""

    def __post_init__(self) -> None:
        if self.concurrency is not None:
            check_concurrency(self.concurrency)
        if self.rate is not None and not (math.isfinite(self.rate) and self.rate >= _SLOWEST_RATE):
            raise UsageError(f"rate is {self.rate}; it is in starts a second, at least one a day")
        if self.burst is not None and (self.rate is None or self.burst < 1):
            raise UsageError(f"burst is {self.burst}; it must be 1 or more, and belongs to a rate")

    @property
    def bucket(self) -> int | None:
        """How many starts are saved up at most."""
        if self.rate is None:
            return None
        return self.burst or max(1, math.ceil(self.rate))


def check_concurrency(concurrency: int) -> None:
    """Raise ``UsageError`` for a limit that would let nothing run."""
    if concurrency < 1:
        raise UsageError(f"concurrency is {concurrency}; it must be 1 or more. To start nothing, pause the queue.")


NO_LIMITS = QueueLimits()


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket: *starts* are free to be taken at a moment, and *rate* more each second, up to *size*."""

    rate: float
    size: int
    starts: float

    def after(self, seconds: float) -> "Bucket":
        """Return the bucket that many seconds later; a clock that was set back takes nothing away."""
        return Bucket(self.rate, self.size, min(self.size, self.starts + max(0.0, seconds) * self.rate))

    def less(self, count: int) -> "Bucket":
        """Return the bucket after *count* starts."""
        return Bucket(self.rate, self.size, self.starts - count)

    @property
    def free(self) -> int:
        """How many may start now."""
        return int(self.starts + 1e-9)

    @property
    def wait_s(self) -> float:
        """How long until one more may start."""
        return max(0.0, (1 - self.starts) / self.rate)
