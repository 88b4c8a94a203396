"""Transactions on the application's own connection to the file, in which tasks are stored and outcomes recorded.

What is written goes through the same fenced queries as everything else. The connection is brought under the rules of
ours (docs/adr/0012); the write lock is waited for as the :class:`Writer` waits, in short constant pauses.
"""

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from thirdshift.core.errors import LostAttempt, ReadSnapshot, StoreBusy, UsageError, WrongDatabase
from thirdshift.core.outcome import Ending
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import Fence, NewTask, TaskId
from thirdshift.engines.sqlite import blocks, submit, unique, work
from thirdshift.engines.sqlite.connection import OF_THE_OPERATION, errors_of, open_guard, primary_code, translated
from thirdshift.engines.sqlite.figures import COMMITTED
from thirdshift.engines.sqlite.links import Link, link_of
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.engines.sqlite.rows import row_of_new, rows_of_ending, to_us
from thirdshift.engines.sqlite.writer import BUSY_LIMIT_S

_logger = logging.getLogger("thirdshift.transaction")

R = TypeVar("R")

_FULL_SYNC = 2
"""``PRAGMA synchronous`` from here on syncs the log at every commit."""


def join(connection: Any, location: str | None, durable: bool) -> "SQLiteJoined":
    """Return a transaction on *connection*, not yet begun; see :data:`thirdshift.core.engine.Join`."""
    return SQLiteJoined(link_of(connection), None if location is None else Path(location), durable)


class SQLiteJoined:
    """One transaction; see :class:`thirdshift.core.engine.Joined`. Belongs to one thread or coroutine at a time."""

    def __init__(self, link: Link, path: Path | None, durable: bool) -> None:
        self._link = link
        self._path = path
        self._durable = durable
        self._deadline: float | None = None
        self._busy_timeout_ms = 0
        self._block: blocks.OpenBlock | None = None
        self._is_full = False
        self._has_lock = False
        self._has_begun = False
        self._is_over = False
        self.is_own = True

    @property
    def connection(self) -> Any:
        return self._link.connection

    @property
    def is_async(self) -> bool:
        return self._link.is_async

    async def run(self, step: Callable[[], R]) -> R:
        return await self._link.run(step)

    def begin(self) -> bool:
        if self._is_over or self._has_begun:
            raise UsageError("a transaction is used once; make a new one for each block")
        with self._errors():
            try:
                if self._deadline is None:
                    self._deadline = time.monotonic() + BUSY_LIMIT_S
                    self._prepare()
                self._has_begun = self._has_lock or self._begins(self._deadline)
            except BaseException:
                self.roll_back()
                raise
        return self._has_begun

    def enter(self) -> None:
        self._block = blocks.enter(self._path, self._link.connection)

    def leave(self) -> None:
        if self._block is not None:
            blocks.leave(self._block)

    def submit(self, tasks: Sequence[NewTask], now: datetime, queue_size: int | None) -> list[TaskId]:
        self._demand_open()
        if not self._is_full and any(task.spec.durable for task in tasks):
            raise UsageError(
                "this transaction is not durable enough for a task with durability='full'. Begin it by "
                "manager.transaction(connection, durability='full'), or with PRAGMA synchronous = FULL."
            )
        now_us, queues = to_us(now), {task.spec.queue for task in tasks}
        with self._errors():
            if any(task.spec.unique is not None or task.spec.after for task in tasks):
                landings = unique.submit_all(self._link, tasks, lambda: now_us, queue_size, queues)
                return [landing.id for landing in landings]
            submit.insert(self._link, [row_of_new(task, now_us) for task in tasks], queue_size, queues)
        return [task.id for task in tasks]

    def check(self, fence: Fence) -> None:
        self._demand_open()
        with self._errors():
            found = self._link.execute(QUERY["is_held"], (fence.seq, fence.id, fence.attempt, fence.owner)).fetchall()
        if not found:
            raise LostAttempt(fence.id, fence.attempt, "it is recorded as ended, or another worker has the task")
        if found[0][0]:
            raise LostAttempt(fence.id, fence.attempt, "the task was cancelled while it ran")

    def complete(self, fence: Fence, ending: Ending) -> None:
        self._demand_open()
        rows = rows_of_ending(
            (fence.seq, fence.id, fence.attempt, fence.owner), ending, TaskStatus.COMPLETED, None, crashes=0
        )
        with self._errors():
            if work.record(self._link, [rows], COMMITTED if fence.is_counted else None) != [True]:
                raise LostAttempt(fence.id, fence.attempt, "it is recorded as ended, or another worker has the task")

    def commit(self) -> None:
        if self.is_own and self._link.is_in_transaction:  # else the caller commits, or has committed by itself
            try:
                self._link.flush()  # the application's own statements, so its own errors
                with self._errors(committing=True):
                    self._link.commit()
            except BaseException:
                self.roll_back()
                raise
        self._let_go()

    def roll_back(self) -> None:
        if self.is_own:
            for step in (self._restore_busy_timeout, self._link.roll_back):  # each, whatever becomes of the other
                try:
                    step()
                except Exception:  # why it is rolled back is on its way, and must not be hidden by this
                    _logger.debug("transaction.roll_back_failed", exc_info=True)
        self._let_go()

    # Inside

    def _prepare(self) -> None:
        """Bring the connection under our rules, and see in what state it is."""
        self._link.open()
        self.is_own = not self._link.is_callers
        if self._path is not None:
            self._demand_file(self._path)
            self._link.execute("PRAGMA wal_autocheckpoint = 0")
        self._is_full = self._synchronous() >= _FULL_SYNC
        if self._link.is_always_open and not blocks.is_inside(self._link.connection):
            self.is_own = True  # as in Python's own `with connection`, with what the caller has written before
            self._has_lock = self._path is None or self._can_write()
        elif not self.is_own:
            self._has_lock = self._path is None or self._holds_write_lock(self._path)
            if not self._has_lock:
                raise ReadSnapshot(str(self._path))
        if self._has_lock:
            return
        if self._link.is_in_transaction:  # one that has done nothing yet
            self._link.execute("ROLLBACK")
        if self._durable and not self._is_full:
            self._link.execute("PRAGMA synchronous = FULL")
            self._is_full = True
        ((self._busy_timeout_ms,),) = self._link.execute("PRAGMA busy_timeout").fetchall()
        self._link.execute("PRAGMA busy_timeout = 0")

    def _begins(self, deadline: float) -> bool:
        """Return whether the transaction could be begun now."""
        try:
            self._link.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_BUSY:
                raise
            if self._path is not None:
                blocks.refuse_inside(self._path)
            if time.monotonic() <= deadline:
                return False
            holder = None if self._path is None else blocks.holder(self._path)
            raise StoreBusy(str(self._path), BUSY_LIMIT_S, holder) from error
        self._restore_busy_timeout()
        return True

    def _demand_file(self, path: Path) -> None:
        """Raise unless the connection's main database is *path*, by whatever name. Only the names are looked at."""
        (_, _, name), *_ = self._link.execute("PRAGMA database_list").fetchall()  # the first is always "main"
        found = os.fsdecode(name or "")
        with contextlib.suppress(OSError):
            if found and os.path.samestat(os.stat(found), os.stat(path)):  # noqa: PTH116  # a name may be bytes
                return
        raise WrongDatabase(found, str(path))

    def _holds_write_lock(self, path: Path) -> bool:
        """Return whether the caller's transaction may write.

        SQLite tells nobody, so another connection asks for the lock. When that is refused, the lock is the caller's if
        it can write without waiting.
        """
        return self._link.is_in_transaction and not _is_free(path) and self._can_write()

    def _can_write(self) -> bool:
        """Return whether the open transaction can write now; then it holds the lock, and reads the newest state."""
        ((timeout_ms,),) = self._link.execute("PRAGMA busy_timeout").fetchall()
        self._link.execute("PRAGMA busy_timeout = 0")
        try:
            self._link.execute(QUERY["write_nothing"])
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_BUSY:
                raise
            return False
        finally:
            self._link.execute(f"PRAGMA busy_timeout = {timeout_ms:d}")
        return True

    def _synchronous(self) -> int:
        ((level,),) = self._link.execute("PRAGMA synchronous").fetchall()
        return int(level)

    def _restore_busy_timeout(self) -> None:
        if self._busy_timeout_ms:
            self._link.execute(f"PRAGMA busy_timeout = {self._busy_timeout_ms:d}")
            self._busy_timeout_ms = 0

    def _demand_open(self) -> None:
        if not self._has_begun or not self._link.is_in_transaction:
            raise UsageError(
                "the transaction is not open: its block is over, or it was ended by a commit or rollback inside"
            )

    def _let_go(self) -> None:
        self._has_begun = False
        self._is_over = True
        self._link.close()

    @contextmanager
    def _errors(self, *, committing: bool = False) -> Iterator[None]:
        """Turn what SQLite says about the file into errors of ours; what is about the application's own rows stays."""
        try:
            yield
        except Exception as error:
            cause = getattr(error, "orig", error)  # SQLAlchemy wraps the driver's error
            if self._path is None or not isinstance(cause, sqlite3.Error) or isinstance(cause, OF_THE_OPERATION):
                raise
            raise translated(cause, self._path, committing=committing) from error


def _is_free(path: Path) -> bool:
    """Return whether nobody holds the write lock of *path* at this moment."""
    with errors_of(path), closing(open_guard(path)) as probe:
        probe.execute("PRAGMA busy_timeout = 0")
        try:
            probe.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_BUSY:
                raise
            return False
        probe.execute("ROLLBACK")
        return True
