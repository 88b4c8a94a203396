"""The child's side of a process pool: ``main`` of a process that runs attempts one after another.

It never outlives its worker: its guard kills it and all that descends from it (``guard``), the kernel kills it with the
guard where it can (Linux), and everywhere a thread of its own ends the process when the worker's end of the socket
closes.
"""

import contextlib
import ctypes
import faulthandler
import fcntl
import itertools
import logging
import os
import queue
import signal
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from thirdshift.core.errors import StepNotStored
from thirdshift.core.outcome import Ending
from thirdshift.core.reference import adopt_aliases
from thirdshift.core.task import Fence, Step
from thirdshift.host.lock import FileLock
from thirdshift.runtime.attempt import run_attempt
from thirdshift.runtime.clock import SystemClock
from thirdshift.runtime.context import StopReason, TaskContext
from thirdshift.runtime.lines import show_lines
from thirdshift.runtime.pools.channel import Channel, step_of_facts
from thirdshift.runtime.pools.guard import ChildEnds
from thirdshift.runtime.pools.meter import Meter, cpu_s
from thirdshift.runtime.records import Keep, watch_records

_ALIVE_INTERVAL_S = 0.05
"""The worker hears of log records not more often than this."""


def main(
    descriptor: int, ends: ChildEnds, lock_path: str, moved: Mapping[str, str], shown: Mapping[str, str] | None
) -> NoReturn:
    """Serve the worker over the socket *descriptor* until it closes; hold *lock_path* meanwhile.

    *ends* lead to the guard, *moved* are the worker's aliases of functions and classes, *shown* says how it writes log
    lines, if it does.
    """
    faulthandler.enable()
    sys.stdout, sys.stderr = _printer(1), _printer(2)
    adopt_aliases(moved)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches all; the worker decides
    signal.signal(signal.SIGTERM, _exit)
    lock = FileLock(Path(lock_path))
    if not lock.try_acquire():
        sys.exit(f"the lock {lock_path} of this child is held by another process")
    channel = Channel(socket.socket(fileno=descriptor))
    calls = _Calls(channel, ends.log)
    logging.getLogger().setLevel(logging.INFO)  # nothing is shown for it: records are kept with the attempt
    watch_records(calls.keeper, calls.marks)
    if shown is not None and ends.shown is not None:
        show_lines(**shown, descriptor=ends.shown)
    threading.Thread(target=calls.listen, name="thirdshift-channel", daemon=True).start()
    meter, writings = Meter(), _Writings(ends)
    channel.send("ready", cpu_s=cpu_s())
    for attempts in itertools.count(1):
        call = calls.next()
        ends.note_begun(attempts)
        _serve(channel, call, meter, writings)
    raise AssertionError("attempts have no end")


def _printer(descriptor: int) -> TextIO:
    """Return a stream that writes line by line: what was printed before a crash tells of it."""
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


class _Calls:
    """Takes messages from the worker; the main thread waits for calls, stop requests reach the running context."""

    def __init__(self, channel: Channel, log: int) -> None:
        self._channel = channel
        self._log = log
        self._alive_at = 0.0
        self._arrived = threading.Condition()
        self._call: tuple[dict[str, Any], TaskContext] | None = None
        self._context: TaskContext | None = None
        self._fence: Fence | None = None
        self.clock = SystemClock()
        self._asking = threading.Lock()
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

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
                nominal = message["scheduled_for"]
                self._context = TaskContext(
                    message["id"], message["name"], message["attempt"], self,
                    queue=message["queue"], worker=message["worker"], schedule=message["schedule"],
                    scheduled_for=None if nominal is None else datetime.fromisoformat(nominal),
                )  # fmt: skip
                self._context.keep = self._keep
                self._fence = None
                self._call = message, self._context
                self._arrived.notify_all()
            elif message["kind"] == "fence":
                self._fence = Fence(*message["fence"])
                self._arrived.notify_all()
            elif message["kind"] in ("steps", "kept"):
                self._answers.put(message)
            elif context is not None and (context.id, context.attempt) == (message["id"], message["attempt"]):
                context.stop_reason = StopReason(message["reason"])

    def next(self) -> tuple[dict[str, Any], TaskContext]:
        with self._arrived:
            while self._call is None:
                self._arrived.wait()
            call, self._call = self._call, None
            return call

    def keeper(self) -> Keep | None:
        """Return what keeps log records: here all are the running attempt's, whichever thread writes them."""
        return None if self._context is None else self._keep

    def marks(self) -> Mapping[str, Any] | None:
        """Return what a log line says of the running attempt."""
        return None if self._context is None else self._context.marks

    def _keep(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._log, data) :]
        now = time.monotonic()
        if now - self._alive_at >= _ALIVE_INTERVAL_S:
            self._alive_at = now
            self._channel.send("alive")

    # The place of its attempts

    def progressed(self, context: TaskContext, facts: Mapping[str, Any]) -> None:
        """Tell the worker."""
        if context is self._context:
            self._channel.send("progress", facts=dict(facts))

    def fence(self, context: TaskContext) -> Fence | None:
        """Ask the worker, once for each attempt that wants to know."""
        with self._arrived:
            if context is self._context and self._fence is None:
                self._channel.send("fence")
            while context is self._context and self._fence is None:
                self._arrived.wait()
            return self._fence if context is self._context else None

    def committed(self, context: TaskContext) -> None:
        """Tell the worker."""
        if context is self._context:
            self._channel.send("committed", id=context.id, attempt=context.attempt)

    def steps(self, context: TaskContext) -> Sequence[Step]:
        """Return what the worker finds in the store."""
        if context is not self._context:
            return ()
        return [step_of_facts(facts) for facts in self._ask("recall")["steps"]]

    def keep_step(self, context: TaskContext, name: str, inputs: str, encoded_result: bytes) -> None:
        """Have the worker store it. Raises ``StepNotStored``."""
        if context is not self._context:
            raise StepNotStored(name, "its attempt is over")
        result = encoded_result.decode("utf-8", "surrogatepass")
        refusal = self._ask("keep", name=name, inputs=inputs, result=result)["refusal"]
        if refusal is not None:
            raise StepNotStored(name, refusal)

    def _ask(self, kind: str, **facts: Any) -> dict[str, Any]:
        """Return the worker's answer. Several threads of the function ask one after another."""
        with self._asking:
            self._channel.send(kind, **facts)
            return self._answers.get()


class _Writings:
    """Tells whether anything was written to the standard streams or the log, by whomever."""

    def __init__(self, ends: ChildEnds) -> None:
        self._ends = ends
        self._seen = 0
        self._flush_c = ctypes.CDLL(None).fflush

    def are_new(self) -> bool:
        """Return whether the guard has, or will find, something that it had not when this was last asked."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the function may have put anything there, or closed it
                stream.flush()
        self._flush_c(None)
        is_waiting = any(_waiting_bytes(pipe) for pipe in self._ends.pipes)  # before the guard's count is read
        seen, self._seen = self._seen, self._ends.count_reads()
        return is_waiting or self._seen != seen


def _waiting_bytes(pipe: int) -> int:
    """Return how many bytes wait in *pipe*; 1 where nobody can say."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0"))[0])
    except OSError:
        return 1


def _serve(channel: Channel, call: tuple[dict[str, Any], TaskContext], meter: Meter, writings: _Writings) -> None:
    message, context = call
    arguments = message["arguments"].encode("utf-8", "surrogatepass")
    meter.begin()

    def begin() -> None:
        channel.send("began")  # a module was imported, which does not count against the time limit
        meter.begin()

    is_known = message["function"].partition(":")[0] in sys.modules
    ending = run_attempt(message["function"], arguments, context, SystemClock(), began=None if is_known else begin)
    usage = meter.read()
    channel.send("ended", **_facts(ending), **usage._asdict(), has_written=writings.are_new())


def _facts(ending: Ending) -> dict[str, Any]:
    error = ending.error
    result = ending.encoded_result
    return {
        "outcome": ending.outcome.value,
        "started_at": ending.started_at and ending.started_at.isoformat(),
        "finished_at": ending.finished_at.isoformat(),
        "result": None if result is None else result.decode("utf-8", "surrogatepass"),
        "error": None if error is None else [error.type, error.message, error.traceback, error.where],
        "after_s": ending.after_s,
        **({} if error is None else _facts_of_failure(ending)),
    }


def _facts_of_failure(ending: Ending) -> dict[str, Any]:
    """Return what the worker must know of an attempt that failed, and of no other one."""
    backoff = ending.backoff
    return {
        "is_final": ending.is_final,
        "backoff": None if backoff is None else [backoff.first_s, backoff.most_s],
        "is_unknown": ending.is_unknown,
    }


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    """Let ``finally`` blocks of the function run within the grace time."""
    raise SystemExit(128 + number)
