"""The monitor's thread beside a worker: it folds what ended into figures, a little at a time.

It is never on the way of a task: when it does not come to it, readers add up more by themselves, and nothing is lost.
"""

import logging
import time
from collections.abc import Callable, Sequence

from thirdshift.core.engine import WorkerEngine
from thirdshift.core.errors import StoreError
from thirdshift.host.loop import Loop

_logger = logging.getLogger("thirdshift.monitor")

_INTERVAL_S = 5.0
_LEAST_PAUSE_S = 0.01
"""Between two batches, so that others write in between; longer when a batch took longer."""

_POLITENESS = 9
"""Words are indexed for a tenth of the time, so that the work hardly feels it."""

Chore = Callable[[], None]


class MonitorKeeper:
    """Keeps the figures of one store up to date, in one process at a time. Start it once, stop it once.

    *chores*, each with the seconds between two times, are done in the same process only; *everywhere* in all of them.
    """

    def __init__(
        self,
        engine: WorkerEngine,
        *,
        history: int,
        has_search: bool,
        chores: Sequence[tuple[Chore, float]] = (),
        everywhere: Sequence[tuple[Chore, float]] = (),
    ) -> None:
        self._engine = engine
        self._history = history
        self._has_search = has_search
        self._chores = [_Due(*each) for each in chores]
        self._everywhere = [_Due(*each) for each in everywhere]
        self._uncount: Callable[[], None] | None = None
        self._is_set_up = False
        self._loop = Loop("monitor", self._look, retry_s=_INTERVAL_S)

    def start(self) -> None:
        """Count what ends from now on."""
        self._uncount = self._engine.count_ends()
        self._loop.start()

    def stop(self) -> None:
        """Stop; waits for the batch in hand. What ends from now on is counted until :meth:`end`."""
        self._loop.stop()

    def end(self) -> None:
        """Count no more; for when the worker is over."""
        if self._uncount is not None:
            self._uncount()

    def tick(self) -> float:
        """Fold a batch of figures, or index one of words; returns the seconds until the next is due."""
        began = time.monotonic()
        is_folding = self._engine.fold_figures()
        for due in (*(self._chores if is_folding is not None else ()), *self._everywhere):
            due.look()
        if is_folding:
            return max(_LEAST_PAUSE_S, time.monotonic() - began)
        if is_folding is not None and self._has_search and self._engine.catch_up_search():
            return max(_LEAST_PAUSE_S, _POLITENESS * (time.monotonic() - began))
        return _INTERVAL_S

    def _look(self) -> float:
        if self._is_set_up:
            return self.tick()
        self._engine.keep_executions(self._history)
        self._engine.switch_search(self._has_search)
        self._is_set_up = True
        return _INTERVAL_S  # programs that are over by then need no files for what nobody asks


class _Due:
    """A chore and when it is due next."""

    def __init__(self, chore: Chore, interval_s: float) -> None:
        self._chore = chore
        self._interval_s = interval_s
        self._at_s = 0.0

    def look(self) -> None:
        """Do the chore if it is due."""
        if time.monotonic() < self._at_s:
            return
        self._at_s = time.monotonic() + self._interval_s
        try:
            self._chore()
        except StoreError:  # the worker meets it too, and says so
            _logger.debug("monitor.store_unavailable", exc_info=True)
        except Exception:  # a fault of ours: the other chores go on
            _logger.exception("monitor.failed")
