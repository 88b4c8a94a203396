"""Moves the write-ahead log into the database file: one owner for each file, and only under the write lock.

SQLite before 3.51.3 can lose committed pages when a checkpoint overlaps a commit that resets the log. A checkpoint that
runs while we hold the write lock cannot overlap a commit, so it is safe on every version (docs/adr/0001).
"""

import contextlib
import sqlite3
import threading
from pathlib import Path

from thirdshift.core.errors import StoreError
from thirdshift.engines.sqlite.connection import LOG_LIMIT_BYTES, open_guard
from thirdshift.host.lock import FileLock

_INTERVAL_S = 1.0


class Checkpointer:
    """Watches the log's size from a thread of its own. Every process that writes has one; a lock picks the owner."""

    def __init__(self, path: Path, lock_path: Path) -> None:
        self._path = path
        self._log_path = path.with_name(path.name + "-wal")
        self._lock = FileLock(lock_path)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._done_at_ns = 0
        self._at_work = threading.Lock()
        self.checkpoints = 0
        """Checkpoints this process has made."""

    def start(self) -> None:
        """Start watching, unless it was started."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._watch, name="thirdshift-checkpoint", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching and give the ownership away."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._lock.release()

    def pause(self, timeout_s: float) -> bool:
        """Keep from making checkpoints until :meth:`go_on`; False when the one in hand takes longer."""
        return self._at_work.acquire(timeout=timeout_s)

    def go_on(self) -> None:
        """Make checkpoints again."""
        self._at_work.release()

    def log_size_bytes(self) -> int:
        """Return the size of the log; ``stat`` opens nothing."""
        try:
            return self._log_path.stat().st_size
        except FileNotFoundError:
            return 0

    def checkpoint(self) -> bool:
        """Make one checkpoint if this process is, or can become, the owner; returns whether it did."""
        if not (self._lock.held or self._lock.try_acquire()):
            return False
        with (
            self._at_work,
            contextlib.closing(open_guard(self._path)) as guard,
            contextlib.closing(open_guard(self._path)) as worker,
        ):
            guard.execute("BEGIN IMMEDIATE")
            try:
                changed_at_ns = self._log_changed_at_ns()
                _, pages, moved = worker.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            finally:
                guard.execute("ROLLBACK")
        if moved == pages:  # else a reader still needs the log: look again
            self._done_at_ns = changed_at_ns
        self.checkpoints += 1
        return True

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            # Busy or full now: the next round tries again, and the engine's own writes report a sick file.
            with contextlib.suppress(sqlite3.Error, StoreError, OSError):
                if self._is_due():
                    self.checkpoint()

    def _is_due(self) -> bool:
        """Whether the log is long and not moved yet: it keeps its length until somebody writes again."""
        return self.log_size_bytes() > LOG_LIMIT_BYTES and self._log_changed_at_ns() != self._done_at_ns

    def _log_changed_at_ns(self) -> int:
        return self._log_path.stat().st_mtime_ns
