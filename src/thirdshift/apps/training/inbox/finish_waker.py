"""Wakes a sleeping loop when one of its tasks has ended, so that it need not look again and again."""

import threading

from thirdshift import BackgroundTaskManager
from thirdshift.core.errors import ThirdshiftError
from thirdshift.host.waiting import Waker

_THREADS = 8
"""Tasks that are waited for at once; the end of any other is found by looking."""
_LONGEST_WAIT_S = 600.0


class FinishWaker:
    """A source for a loop that sleeps, readable when a task that it was told to watch has ended."""

    def __init__(self, manager: BackgroundTaskManager) -> None:
        self._manager = manager
        self._waker = Waker()
        self._mutex = threading.Lock()
        self._watched = 0
        self._is_closed = False

    def watch(self, task_id: str) -> None:
        """Wake the loop when the task *task_id* ends."""
        with self._mutex:
            if self._watched >= _THREADS:
                return
            self._watched += 1
        threading.Thread(target=self._wait, args=(task_id,), name="thirdshift-checks", daemon=True).start()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._waker.fileno()

    def drain(self) -> None:
        """Take what was said."""
        self._waker.drain()

    def close(self) -> None:
        """Wake nobody any more."""
        with self._mutex:
            self._is_closed = True
            self._waker.close()

    def _wait(self, task_id: str) -> None:
        try:
            self._manager.wait_for(task_id, _LONGEST_WAIT_S)
        except (ThirdshiftError, RuntimeError):
            pass  # deleted, too long, or the manager is closed: whoever looks finds out
        finally:
            with self._mutex:
                self._watched -= 1
                if not self._is_closed:  # its descriptor may be another's by now
                    self._waker.wake()
