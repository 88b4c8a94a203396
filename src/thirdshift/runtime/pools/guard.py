"""The guard of one child: a small process between worker and child that leaves nothing of the child behind.

Whatever descends from the child stays below the guard, which adopts orphans. So the guard, and nobody else, can kill
all of it: when the worker says so, when the child has died, and when the worker is gone. It also empties the pipes
that the child and all its descendants write to, in bounded memory. See ``docs/adr/0006``.

================  =========================================================================================
worker to guard   ``end`` (SIGTERM to the child's group), ``collect`` (answer with ``traces``), ``kill``
guard to worker   ``traces`` (what was written since the last time), ``died`` (nothing is left; the last message)
================  =========================================================================================
"""

import contextlib
import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from thirdshift.host.lock import FileLock
from thirdshift.host.processes import (
    GUARD_SUFFIX,
    adopt_orphans,
    die_with_parent,
    end_all_descendants,
    send_signal_to_group,
)
from thirdshift.runtime.pools.channel import Channel
from thirdshift.runtime.tail import Tail

_CHUNK_BYTES = 256 * 1024
_PIPE_BYTES = 256 * 1024
_MOST_READS = 4
"""Empties a full pipe."""
_UNKILLABLE_S = 5.0
"""How long the guard waits for what SIGKILL does not end, before it says that it is over."""
_COUNTER = struct.Struct("<q")
_READS, _BEGUN = 0, _COUNTER.size
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024

STREAMS = ("stdout", "stderr", "log")


class ChildEnds(NamedTuple):
    """What the guard leaves to the child: where it logs, and how it knows whether anything was written."""

    log: int
    pipes: tuple[int, ...]
    """The writing end of each of :data:`STREAMS`."""
    counts: mmap.mmap
    """Shared: the guard's reads, each counted before it is made, and the attempts that the child has begun."""
    shown: int | None = None
    """Where log lines are written for all to see; ``None``: nowhere."""

    def count_reads(self) -> int:
        """Return how often the guard has begun to read."""
        return int(_COUNTER.unpack_from(self.counts, _READS)[0])

    def note_begun(self, attempts: int) -> None:
        """Note that the child has begun so many attempts."""
        _COUNTER.pack_into(self.counts, _BEGUN, attempts)


def fork_below_guard(control: int, channel: int, worker: int, lock_path: str, is_shown: bool) -> ChildEnds:
    """Fork: this process becomes the guard and never returns, the child returns from here with its ends of the pipes.

    *control* is the guard's socket to the process *worker*, *channel* the child's. *is_shown*: the child writes log
    lines where the worker does, to its standard error.
    """
    adopt_orphans()
    watched = _watch(worker)
    lock = FileLock(Path(guard_lock(lock_path)))
    if not lock.try_acquire():
        sys.exit(f"the lock {lock.path} of this guard is held by another process")
    pipes = [os.pipe() for _ in STREAMS]
    counts = mmap.mmap(-1, 2 * _COUNTER.size)
    guard = os.getpid()
    child = os.fork()
    if child:
        _run(control, channel, watched, pipes, counts, child)
    os.setpgid(0, 0)
    die_with_parent(guard)
    for descriptor in (control, watched, *(reader for reader, _ in pipes)):
        if descriptor is not None:
            os.close(descriptor)
    out, error, log = (writer for _, writer in pipes)
    shown = os.dup(2) if is_shown else None
    os.dup2(out, 1)
    os.dup2(error, 2)
    os.close(out)
    os.close(error)
    return ChildEnds(log, (1, 2, log), counts, shown)


def guard_lock(child_lock: str) -> str:
    """Return the path of the lock that the guard holds of the child that holds *child_lock*."""
    return f"{child_lock}{GUARD_SUFFIX}"


def _run(
    control: int, channel: int, watched: int | None, pipes: list[tuple[int, int]], counts: mmap.mmap, child: int
) -> NoReturn:
    status = 1
    try:
        with contextlib.suppress(OSError):
            os.setpgid(child, child)  # the child does it too: whoever comes first, a signal to its group finds it
        os.close(channel)
        for _, writer in pipes:
            os.close(writer)
        _Guard(control, watched, [reader for reader, _ in pipes], counts, child).run()
        status = 0
    finally:
        os._exit(status)  # what a forked interpreter does at its ordinary end is the child's business


class _Guard:
    """Watches the worker, the child and its pipes until the child is gone."""

    def __init__(self, control: int, watched: int | None, pipes: list[int], counts: mmap.mmap, child: int) -> None:
        self._channel = Channel(socket.socket(fileno=control))
        self._tails = {pipe: Tail() for pipe in pipes}
        self._counts = counts
        self._child = child
        self._death: dict[str, Any] | None = None
        self._is_over = False
        self._deaths = _wake_at_deaths()
        self._poll = select.poll()
        self._answers: dict[int, Callable[[], None]] = {control: self._obey, self._deaths: self._look_at_child}
        if watched is not None:
            self._answers[watched] = self._leave
        for pipe in pipes:
            _enlarge(pipe)
            os.set_blocking(pipe, False)
        for descriptor in (*self._answers, *pipes):
            self._poll.register(descriptor, select.POLLIN)

    def run(self) -> None:
        """Serve until the child is gone, or has to go; then end all that is left of it and say how it died."""
        self._look_at_child()
        while not self._is_over:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._answers:
                    self._answers[descriptor]()
                else:
                    self._count_read()
                    self._read(descriptor)
        end_all_descendants(self._reap, _UNKILLABLE_S)
        with contextlib.suppress(OSError):  # the worker is gone
            (begun,) = _COUNTER.unpack_from(self._counts, _BEGUN)
            self._channel.send("died", **(self._death or {}), **self._traces(), begun=begun)

    def _obey(self) -> None:
        if not self._channel.fill():  # the worker is gone
            self._leave()
        while (message := self._channel.next()) is not None:
            match message["kind"]:
                case "end":
                    send_signal_to_group(self._child, signal.SIGTERM)
                case "collect":
                    self._channel.send("traces", **self._traces())
                case "kill":
                    self._leave()

    def _leave(self) -> None:
        self._is_over = True

    def _look_at_child(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._deaths, 4096)
        self._reap()
        self._is_over |= self._death is not None

    def _reap(self) -> bool:
        """Take the exit statuses of the child and of the orphans; returns whether anybody is left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._child:
                self._death = {
                    "status": os.waitstatus_to_exitcode(status),
                    "cpu_s": usage.ru_utime + usage.ru_stime,
                    "peak_memory_bytes": usage.ru_maxrss * _MAXRSS_BYTES,
                }

    def _count_read(self) -> None:
        """Say that a read follows: what the child no longer sees in a pipe was counted before."""
        (count,) = _COUNTER.unpack_from(self._counts, _READS)
        _COUNTER.pack_into(self._counts, _READS, count + 1)

    def _read(self, pipe: int) -> bool:
        """Read once from *pipe*; False when nothing is there."""
        try:
            data = os.read(pipe, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if data:
            self._tails[pipe].add(data)
        else:  # nobody can write to it any more
            with contextlib.suppress(KeyError):
                self._poll.unregister(pipe)
        return bool(data)

    def _traces(self) -> dict[str, str | None]:
        """Return what was written until now, and begin anew."""
        for pipe in self._tails:
            for _ in range(_MOST_READS):  # not until the end: others may go on writing for ever
                if not self._read(pipe):
                    break
        return {name: tail.take() for name, tail in zip(STREAMS, self._tails.values(), strict=True)}


def _watch(worker: int) -> int | None:
    """Return a descriptor that becomes readable when *worker* dies, whoever else holds its sockets; Linux only."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        descriptor = os.pidfd_open(worker)
    except OSError:
        descriptor = None
    if os.getppid() != worker:
        sys.exit(0)  # it is gone already
    return descriptor


def _wake_at_deaths() -> int:
    """Return a descriptor that becomes readable when a child dies; the signals that end others do nothing here."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def _enlarge(pipe: int) -> None:
    """Make fewer switches between writer and guard necessary, where the system allows it."""
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
