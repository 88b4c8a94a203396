"""Lets threads in, counts them, and can be shut: behind it are connections of threads that nobody else knows of."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Open until :meth:`pause`. Any thread may use it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._is_shut = False

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Be behind the gate; waits while it is shut."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_shut)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def pause(self, timeout_s: float) -> bool:
        """Let nobody in until :meth:`go_on`, and wait until all are out; False, and open, when they take longer."""
        with self._changed:
            self._is_shut = True
            if self._changed.wait_for(lambda: not self._inside, timeout_s):
                return True
        self.go_on()
        return False

    def go_on(self) -> None:
        """Open again."""
        with self._changed:
            self._is_shut = False
            self._changed.notify_all()
