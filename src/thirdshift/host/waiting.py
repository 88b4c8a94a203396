"""A loop that sleeps until there is something to do: a signal, something to read, or time that has passed."""

import contextlib
import logging
import os
import selectors
import threading
import time
from collections import deque
from types import TracebackType
from typing import Protocol, Self

from thirdshift.host.signals import StopSignals

_REMEMBERED = 1000
_logger = logging.getLogger("thirdshift.host")


class Readable(Protocol):
    """Something with a descriptor that becomes readable when its owner should be looked at."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def drain(self) -> None:
        """Read what is there, so that the descriptor is readable no more; called in the loop's thread."""


class LoopWait:
    """What a daemon's loop sleeps on: *signals*, and as many sources as are added. For one thread.

    A source that fails is dropped and told in the log: what it would have announced is found when time has passed.
    """

    def __init__(self, signals: StopSignals) -> None:
        self._signals = signals
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals, selectors.EVENT_READ)
        self._busy_s: deque[float] = deque(maxlen=_REMEMBERED)
        self._awake_since: float | None = None

    @property
    def stop_requested(self) -> bool:
        """Whether a signal asked for a stop."""
        return self._signals.stop_requested

    def add(self, source: Readable) -> None:
        """Wake up when *source* is readable."""
        self._selector.register(source, selectors.EVENT_READ, source)

    def wait(self, timeout_s: float) -> None:
        """Sleep until a stop is asked for or a source is readable, at most *timeout_s* seconds; drain the sources."""
        if self._awake_since is not None:
            self._busy_s.append(time.monotonic() - self._awake_since)
        ready = self._selector.select(timeout_s)
        self._awake_since = time.monotonic()
        for key, _ in ready:
            if key.data is None:
                self._signals.wait(0)  # takes signals that somebody else handles
            else:
                self._drain(key.data)

    def gaps_ms(self) -> dict[str, float]:
        """How long the loop did not look for news, of the last thousand times: median, 99th percentile, longest."""
        if not self._busy_s:
            return {}
        sorted_ms = sorted(seconds * 1000 for seconds in self._busy_s)
        return {
            "p50": round(sorted_ms[len(sorted_ms) // 2], 1),
            "p99": round(sorted_ms[len(sorted_ms) * 99 // 100], 1),
            "longest": round(sorted_ms[-1], 1),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._selector.close()

    def _drain(self, source: Readable) -> None:
        try:
            source.drain()
        except Exception:
            _logger.exception("waiting.source_failed")
            self._selector.unregister(source)


class Waker:
    """A source that any thread makes readable. Its owner closes it."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._is_closed = False
        self._reading, self._writing = os.pipe()
        for descriptor in (self._reading, self._writing):
            os.set_blocking(descriptor, False)

    def wake(self) -> None:
        """Let the loop wake up, also one that begins to sleep later; once closed, nothing happens."""
        with self._mutex, contextlib.suppress(BlockingIOError):  # it has been woken often enough
            if not self._is_closed:
                os.write(self._writing, b"!")

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._reading

    def drain(self) -> None:
        """Take all that was said."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._reading, 4096):
                pass

    def close(self) -> None:
        """Give the descriptors back."""
        with self._mutex:
            self._is_closed = True
            os.close(self._reading)
            os.close(self._writing)
