"""A thread that looks again and again: the one shape of everything that is done beside a worker."""

import logging
import threading
from collections.abc import Callable

from thirdshift.core.errors import StoreError


class Loop:
    """Calls *tick* in a thread of its own, and again after as many seconds as it returned, or when it is woken.

    Start it once, stop it once; from any thread. A ``StoreError`` is the worker's to tell, which meets it too; any
    other error of *tick* is logged. Neither ends the loop: it goes on after *retry_s*, after a logged one after
    *fault_s* where that is given.
    """

    def __init__(
        self,
        name: str,
        tick: Callable[[], float],
        *,
        retry_s: float,
        fault_s: float | None = None,
        first_s: float = 0.0,
    ) -> None:
        self._logger = logging.getLogger(f"thirdshift.{name}")
        self._failed = f"{name}.failed"
        self._tick = tick
        self._retry_s = retry_s
        self._fault_s = retry_s if fault_s is None else fault_s
        self._first_s = first_s
        self._woken = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name=f"thirdshift-{name}", daemon=True)

    def start(self) -> None:
        """Begin, after the first wait."""
        self._thread.start()

    def wake(self) -> None:
        """Tick at once."""
        self._woken.set()

    def stop(self) -> None:
        """Tick no more; waits for the one in hand."""
        self._is_stopping = True
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        self._woken.wait(self._first_s)
        while not self._is_stopping:
            self._woken.clear()
            wait_s = self._look()
            if not self._is_stopping:  # asked after the clear, so that a stop in between is not slept over
                self._woken.wait(wait_s)

    def _look(self) -> float:
        try:
            return self._tick()
        except StoreError:
            return self._retry_s
        except Exception:
            self._logger.exception(self._failed)
            return self._fault_s
