"""The first SIGTERM or SIGINT asks a daemon to stop, the second one ends it.

The handler only sets a flag and writes one byte into a pipe. A ``threading.Event`` would be shorter and wrong: a
signal that arrives while the main thread is inside ``Event.wait`` deadlocks on the event's own lock. Python runs the
handler between two bytecodes of the main thread, so a signal that arrives just before ``poll``, or on another thread,
would be noticed only when ``poll`` ends by itself; the wake-up descriptor is written to at once.
"""

import contextlib
import faulthandler
import os
import select
import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def exit_at_once(signal_number: int) -> None:
    """End the process without any clean-up, with the exit code shells give a killed program (130, 143)."""
    os._exit(128 + signal_number)


def dump_stacks_on_request() -> None:
    """Write the stacks of all threads to standard error whenever SIGUSR2 comes; nothing is stopped by it."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no standard error: nobody would read it
        faulthandler.register(signal.SIGUSR2, all_threads=True)


class StopSignals:
    """While entered, SIGTERM and SIGINT ask for a stop instead of ending the process.

    Enter and leave it in the main thread (Python allows handlers nowhere else); ask and wait from any thread. The
    second signal calls *on_second* in the main thread, between two bytecodes of whatever it is doing. A forked child
    inherits the handlers; one that must die of SIGTERM sets ``signal.SIG_DFL`` first thing.
    """

    def __init__(self, on_second: Callable[[int], None] = exit_at_once) -> None:
        self._on_second = on_second
        self._received: signal.Signals | None = None
        self._old: dict[signal.Signals, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._old_wakeup = -1
        self._waits_are_over = False

    @property
    def received(self) -> signal.Signals | None:
        """The signal that asked for the stop, ``None`` as long as there was none."""
        return self._received

    @property
    def stop_requested(self) -> bool:
        """Whether a stop was asked for."""
        return self._received is not None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until a stop is asked for, at most *timeout* seconds (``None``: for ever); whether it was."""
        poller = select.poll()
        poller.register(self.fileno(), select.POLLIN)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            is_woken = bool(poller.poll(None if left_s is None else left_s * 1000))
            if self.stop_requested or self._waits_are_over or not is_woken:
                return self.stop_requested
            with contextlib.suppress(BlockingIOError):  # another signal, which somebody else handles
                os.read(self.fileno(), 512)

    def end_waits(self) -> None:
        """Let every :meth:`wait` return at once from now on: there is another reason to stop. From any thread."""
        self._waits_are_over = True
        if self._pipe is not None:
            os.write(self._pipe[1], b"!")

    def fileno(self) -> int:
        """A descriptor that becomes and stays readable with the first signal, for a loop that waits for more."""
        if self._pipe is None:
            raise ValueError("StopSignals can be waited for only inside its with block")
        return self._pipe[0]

    def __enter__(self) -> Self:
        self._received = None
        self._waits_are_over = False
        self._pipe = os.pipe()
        for descriptor in self._pipe:
            os.set_blocking(descriptor, False)
        self._old_wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            # None stands for a handler that was not set from Python and cannot be given back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._old_wakeup)
        pipe, self._pipe = self._pipe, None
        for descriptor in pipe or ():
            os.close(descriptor)

    def _handle(self, signal_number: int, _frame: FrameType | None) -> None:
        if self._received is not None:
            self._on_second(signal_number)
            return
        self._received = signal.Signals(signal_number)
        if self._pipe is not None:
            os.write(self._pipe[1], b"!")
