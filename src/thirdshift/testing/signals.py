"""Signals between a test and the functions it runs, in any thread or process: lines through a named pipe.

A test waits for what it needs to know instead of sleeping and hoping.
"""

import os
import select
from pathlib import Path
from types import TracebackType
from typing import Self

TIMEOUT_S = 120.0
"""Longest wait for a signal; reached only when something is broken."""


class Signal:
    """A named pipe at *path*: the test hears what :func:`send` says there, and releases :func:`receive`."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path, 0o600)
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._unread = b""

    def wait(self, timeout_s: float = TIMEOUT_S) -> str:
        """Return the next line that was sent; raises :class:`TimeoutError`."""
        while b"\n" not in self._unread:
            readable, _, _ = select.select([self._descriptor], [], [], timeout_s)
            if not readable:
                raise TimeoutError(f"nothing was said at {self.path} for {timeout_s} s")
            self._unread += os.read(self._descriptor, 4096)
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def release(self, times: int = 1) -> None:
        """Let *times* callers of :func:`receive` go on, now or when they come."""
        os.write(self._descriptor, b"\n" * times)

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def send(path: str, line: str = "") -> None:
    """Say *line* to the test that listens at *path*."""
    _write(path, os.O_WRONLY, line)


def append(path: str, line: str) -> None:
    """Add *line* to the file *path* in one write, which no other process can tear apart."""
    _write(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, line)


def receive(path: str) -> None:
    """Wait until the test releases one caller at *path*."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.read(descriptor, 1)
    finally:
        os.close(descriptor)


def _write(path: str, flags: int, line: str) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)
