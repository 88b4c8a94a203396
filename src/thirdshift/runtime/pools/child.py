"""The child's side of a process pool: ``main`` of a process that runs attempts one after another.

It never outlives its worker: the kernel kills it with the worker's thread where it can (Linux), and everywhere a thread
of its own ends the process when the worker's end of the socket closes.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from thirdshift.core.outcome import Ending
from thirdshift.core.reference import adopt_aliases
from thirdshift.host.lock import FileLock
from thirdshift.runtime.attempt import run_attempt
from thirdshift.runtime.clock import SystemClock
from thirdshift.runtime.context import StopReason, TaskContext
from thirdshift.runtime.pools.channel import Channel

_PR_SET_PDEATHSIG = 1


def main(descriptor: int, parent: int, lock_path: str, moved: Mapping[str, str]) -> NoReturn:
    """Serve the worker *parent* over the socket *descriptor* until it closes; hold *lock_path* meanwhile.

    *moved* are the worker's aliases of functions and classes.
    """
    _die_with(parent)
    adopt_aliases(moved)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches all; the worker decides
    signal.signal(signal.SIGTERM, _exit)
    lock = FileLock(Path(lock_path))
    if not lock.try_acquire():
        sys.exit(f"the lock {lock_path} of this child is held by another process")
    channel = Channel(socket.socket(fileno=descriptor))
    calls = _Calls(channel)
    threading.Thread(target=calls.listen, name="thirdshift-channel", daemon=True).start()
    channel.send("ready", pid=os.getpid())
    while True:
        _serve(channel, calls.next())


class _Calls:
    """Takes messages from the worker; the main thread waits for calls, stop requests reach the running context."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._arrived = threading.Condition()
        self._call: tuple[dict[str, Any], TaskContext] | None = None
        self._context: TaskContext | None = None

    def listen(self) -> None:
        try:
            while (message := self._channel.receive()) is not None:
                self._take(message)
        finally:
            os._exit(0)  # the worker is gone: nobody wants the result, and the main thread may be deep in C

    def _take(self, message: dict[str, Any]) -> None:
        with self._arrived:
            context = self._context
            if message["kind"] == "call":
                self._context = TaskContext(message["id"], message["name"], message["attempt"], self._send_progress)
                self._call = message, self._context
                self._arrived.notify()
            elif context is not None and (context.id, context.attempt) == (message["id"], message["attempt"]):
                context.stop_reason = StopReason(message["reason"])

    def next(self) -> tuple[dict[str, Any], TaskContext]:
        with self._arrived:
            while self._call is None:
                self._arrived.wait()
            call, self._call = self._call, None
            return call

    def _send_progress(self, facts: Mapping[str, Any]) -> None:
        self._channel.send("progress", facts=dict(facts))


def _serve(channel: Channel, call: tuple[dict[str, Any], TaskContext]) -> None:
    message, context = call
    arguments = message["arguments"].encode("utf-8", "surrogatepass")
    ending = run_attempt(message["function"], arguments, context, SystemClock())
    channel.send("ended", **_facts(ending))


def _facts(ending: Ending) -> dict[str, Any]:
    error = ending.error
    result = ending.encoded_result
    return {
        "outcome": ending.outcome.value,
        "started_at": ending.started_at and ending.started_at.isoformat(),
        "finished_at": ending.finished_at.isoformat(),
        "result": None if result is None else result.decode("utf-8", "surrogatepass"),
        "error": None if error is None else [error.type, error.message, error.traceback],
        "after_s": ending.after_s,
    }


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    """Let ``finally`` blocks of the function run within the grace time."""
    raise SystemExit(128 + number)


def _die_with(parent: int) -> None:
    """Ask the kernel for SIGKILL when the thread that started us ends; leave at once if the worker is gone already."""
    with contextlib.suppress(OSError, AttributeError):  # only Linux has it; the socket is the second line
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
