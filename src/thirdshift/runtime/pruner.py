"""Prunes finished tasks beside a worker: rarely, one small batch at a time, from a thread of its own.

Finding what is to go can take a tenth of a second in a large file, for which no claim should wait.
"""

from thirdshift.core.clock import Clock
from thirdshift.core.engine import Engine
from thirdshift.core.events import Observer, TasksPruned
from thirdshift.core.pruning import PruningConfig
from thirdshift.host.loop import Loop

_FIRST_S = 10.0
"""An application that looks up at its start how its tasks ended still finds them."""
_INTERVAL_S = 60.0
_NEXT_BATCH_S = 1.0
"""After a full batch there is probably more, but other writers come first."""
_BATCH = 500


class Pruner:
    """Deletes what the rules no longer keep. Start it once, stop it once; several may prune one file."""

    def __init__(self, engine: Engine, rules: PruningConfig, *, clock: Clock, observe: Observer) -> None:
        self._engine = engine
        self._rules = rules
        self._clock = clock
        self._observe = observe
        self._loop = Loop("pruner", self.tick, first_s=_FIRST_S, retry_s=_INTERVAL_S)

    def start(self) -> None:
        """Start, unless the rules say that nothing is pruned without being asked."""
        if self._rules.enabled:
            self._loop.start()

    def stop(self) -> None:
        """Stop; waits for the batch in hand."""
        self._loop.stop()

    def tick(self) -> float:
        """Delete one batch; returns the seconds until the next one is due."""
        deleted = self._engine.prune(self._rules.limits(self._clock.now()), most=_BATCH)
        counts = {status: count for status, count in deleted.items() if count}
        if counts:
            self._observe(TasksPruned(counts))
        return _NEXT_BATCH_S if sum(counts.values()) == _BATCH else _INTERVAL_S
