"""Hearing of a process's death at once, from the kernel (pidfd; Linux). It is a hint to look: the locks decide.

Elsewhere, and across containers that do not see each other's processes, nothing is heard and the safety interval finds
the dead.
"""

import contextlib
import os
import select
import threading
from collections.abc import Callable
from collections.abc import Set as AbstractSet

Callback = Callable[[], None]


class DeathWatch:
    """Calls back when a watched process has died. It has a thread while it watches any. Any thread may use it."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._callbacks: tuple[Callback, ...] = ()
        self._watched: dict[int, int] = {}
        """The pidfd of each process."""
        self._waiter: _Waiter | None = None

    def listen(self, callback: Callback) -> Callback:
        """Call *callback* after a death; returns what ends that. It must be quick."""
        with self._mutex:
            self._callbacks = (*self._callbacks, callback)
        return lambda: self._unlisten(callback)

    def watch(self, pids: AbstractSet[int]) -> None:
        """Watch these processes, and no others any more."""
        if not hasattr(os, "pidfd_open"):
            return
        with self._mutex:
            for pid in self._watched.keys() - pids:
                self._forget(pid)
            for pid in pids - self._watched.keys() - {os.getpid()}:
                self._add(pid)

    def close(self) -> None:
        """Watch nothing any more."""
        with self._mutex:
            for pid in list(self._watched):
                self._forget(pid)
            waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.close()

    def _unlisten(self, callback: Callback) -> None:
        with self._mutex:
            self._callbacks = tuple(other for other in self._callbacks if other is not callback)

    def _add(self, pid: int) -> None:
        with contextlib.suppress(OSError):  # dead, of another container, or too many files: found later
            descriptor = os.pidfd_open(pid)
            self._watched[pid] = descriptor
            if self._waiter is None:
                self._waiter = _Waiter(self._died)
            self._waiter.add(descriptor)

    def _forget(self, pid: int) -> None:
        descriptor = self._watched.pop(pid)
        if self._waiter is not None:
            self._waiter.remove(descriptor)
        os.close(descriptor)

    def _died(self, descriptor: int) -> None:
        with self._mutex:
            for pid in [pid for pid, each in self._watched.items() if each == descriptor]:
                self._forget(pid)
            callbacks = self._callbacks
        for callback in callbacks:
            callback()


class _Waiter:
    """The thread that waits for any of the descriptors."""

    def __init__(self, ready: Callable[[int], None]) -> None:
        self._ready = ready
        self._epoll = select.epoll()
        self._stop_read, self._stop_write = os.pipe()
        self._epoll.register(self._stop_read, select.EPOLLIN)
        self._thread = threading.Thread(target=self._wait, name="thirdshift-deaths", daemon=True)
        self._thread.start()

    def add(self, descriptor: int) -> None:
        self._epoll.register(descriptor, select.EPOLLIN)

    def remove(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)

    def close(self) -> None:
        os.close(self._stop_write)
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._epoll.close()
        os.close(self._stop_read)

    def _wait(self) -> None:
        while True:
            for descriptor, _ in self._epoll.poll():
                if descriptor == self._stop_read:
                    return
                self._ready(descriptor)
