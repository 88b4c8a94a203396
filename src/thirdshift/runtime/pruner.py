"""Prunes finished tasks beside a worker: rarely, one small batch at a time, from a thread of its own.

Finding what is to go can take a tenth of a second in a large file, for which no claim should wait.
"""

import logging
import threading

from thirdshift.core.clock import Clock
from thirdshift.core.engine import Engine
from thirdshift.core.errors import StoreError
from thirdshift.core.events import Observer, TasksPruned
from thirdshift.core.pruning import PruningConfig

_logger = logging.getLogger("thirdshift.pruner")

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
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="thirdshift-pruner", daemon=True)

    def start(self) -> None:
        """Start, unless the rules say that nothing is pruned without being asked."""
        if self._rules.enabled:
            self._thread.start()

    def stop(self) -> None:
        """Stop; waits for the batch in hand."""
        self._is_stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def tick(self) -> float:
        """Delete one batch; returns the seconds until the next one is due."""
        deleted = self._engine.prune(self._rules.limits(self._clock.now()), most=_BATCH)
        counts = {status: count for status, count in deleted.items() if count}
        if counts:
            self._observe(TasksPruned(counts))
        return _NEXT_BATCH_S if sum(counts.values()) == _BATCH else _INTERVAL_S

    def _run(self) -> None:
        wait_s = _FIRST_S
        while not self._is_stopping.wait(wait_s):
            try:
                wait_s = self.tick()
            except StoreError:  # the worker meets it too, and says so
                wait_s = _INTERVAL_S
            except Exception:  # a fault of ours: nothing is lost by pruning less
                _logger.exception("pruner.failed")
                wait_s = _INTERVAL_S
