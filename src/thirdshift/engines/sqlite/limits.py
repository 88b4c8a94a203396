"""What the limits of queues leave to a claim: read and written in the transaction that claims, so none is exceeded."""

import math
import sqlite3
from dataclasses import dataclass

from thirdshift.core.limits import Bucket
from thirdshift.engines.sqlite.queries import QUERY


@dataclass(slots=True)
class _Allowance:
    left: float
    """How many more may be claimed."""
    bucket: Bucket | None = None
    taken: int = 0
    is_stale: bool = False
    """The clock was set back behind the moment at which the bucket was last written."""


class Allowances:
    """The limited queues that one claim meets."""

    def __init__(self, connection: sqlite3.Connection, now_us: int) -> None:
        self._connection = connection
        self._now_us = now_us
        self._found: dict[str, _Allowance] = {}

    def read(self, queue: str) -> float:
        """Return how many tasks of the limited *queue* may be claimed."""
        if queue not in self._found:
            self._found[queue] = self._read(queue)
        return self._found[queue].left

    def take(self, queue: str) -> bool:
        """Take one task of *queue*, if its limits allow that."""
        if not self.allow(queue):
            return False
        allowance = self._found.get(queue)
        if allowance is not None:
            allowance.left -= 1
            allowance.taken += 1
        return True

    def allow(self, queue: str) -> bool:
        """Return whether one more task of *queue* may be claimed."""
        allowance = self._found.get(queue)
        return allowance is None or allowance.left > 0

    @property
    def are_used_up(self) -> bool:
        """Whether a limit was reached, so that tasks may be left which others could run."""
        return any(allowance.left <= 0 for allowance in self._found.values())

    def write(self) -> int | None:
        """Store what was taken from the buckets; returns when the next start of one that is empty is free."""
        moments = [moment for queue, each in self._found.items() if (moment := self._write(queue, each)) is not None]
        return min(moments, default=None)

    def _read(self, queue: str) -> _Allowance:
        row = self._connection.execute(QUERY["limits"], (queue,)).fetchone()
        concurrency, rate, burst, starts, filled_us, running = row
        allowance = _Allowance(math.inf if concurrency is None else max(0, concurrency - running))
        if rate is not None:
            bucket = Bucket(rate, burst, starts).after((self._now_us - filled_us) / 1e6)
            allowance = _Allowance(min(allowance.left, bucket.free), bucket, is_stale=self._now_us < filled_us)
        return allowance

    def _write(self, queue: str, allowance: _Allowance) -> int | None:
        if allowance.bucket is None:
            return None
        bucket = allowance.bucket.less(allowance.taken)
        if allowance.taken or allowance.is_stale:
            self._connection.execute(QUERY["take_starts"], (queue, bucket.starts, self._now_us))
        return None if bucket.free else self._now_us + math.ceil(bucket.wait_s * 1e6)
