"""Prunes finished tasks while a worker works: rarely, and one small batch at a time."""

from collections.abc import Mapping

from thirdshift.core.clock import Clock
from thirdshift.core.engine import Engine
from thirdshift.core.pruning import PruningConfig
from thirdshift.core.status import TaskStatus

_FIRST_S = 10.0
"""An application that looks up at its start how its tasks ended still finds them."""
_INTERVAL_S = 60.0
_NEXT_BATCH_S = 1.0
"""After a full batch there is probably more, but the worker's own work comes first."""
_BATCH = 500


class Pruner:
    """Deletes what the rules no longer keep. Used from one thread; several workers may prune one file."""

    def __init__(self, engine: Engine, rules: PruningConfig, clock: Clock) -> None:
        self._engine = engine
        self._rules = rules
        self._clock = clock
        self._due = clock.monotonic() + _FIRST_S

    def tick(self) -> Mapping[TaskStatus, int]:
        """Delete one batch if it is time to; returns how many of each status."""
        now = self._clock.monotonic()
        if not self._rules.enabled or now < self._due:
            return {}
        self._due = now + _INTERVAL_S  # also after an error
        deleted = self._engine.prune(self._rules.limits(self._clock.now()), most=_BATCH)
        if sum(deleted.values()) == _BATCH:
            self._due = now + _NEXT_BATCH_S
        return {status: count for status, count in deleted.items() if count}
