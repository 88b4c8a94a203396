"""The one write connection of a process, shared by its threads through group commit.

There is no writer thread. A caller that finds nobody writing writes on its own thread: alone, a commit costs what a
bare ``sqlite3`` commit costs. Callers that arrive meanwhile queue; when the leader is done, the first of them leads
the next batch and commits for everybody who queued by then. See docs/adr/0001.
"""

import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from thirdshift.core.errors import OutcomeUnknown, StoreBusy, StoreDamaged, StoreError
from thirdshift.engines.sqlite import blocks
from thirdshift.engines.sqlite.connection import OF_THE_OPERATION, closed, open_writer, primary_code, translated

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]

_BATCH_LIMIT = 256
BUSY_LIMIT_S = 5.0
"""How long the write lock is waited for."""
_BUSY_PAUSE_S = 0.001
"""SQLite's own busy handler backs off to waits of 100 ms and starves old waiters; a short constant pause is fair."""


class _Request(Generic[T]):
    """One caller's operation, waiting for somebody to commit it."""

    __slots__ = ("durable", "error", "is_abandoned", "is_done", "leads", "operation", "result", "turn")

    def __init__(self, operation: Operation[T], durable: bool) -> None:
        self.operation = operation
        self.durable = durable
        self.is_done = False
        self.is_abandoned = False
        self.leads = False
        self.result: T | None = None
        self.error: BaseException | None = None
        self.turn: threading.Lock | None = None

    def outcome(self) -> T:
        if self.error is not None:
            raise self.error
        return cast(T, self.result)


class Writer:
    """Runs operations in transactions. An operation may run more than once before it is committed, so all it does must
    be done through the connection it is given; it must not wait for anything."""

    def __init__(self, path: Path, on_reopened: Callable[[], None]) -> None:
        self._path = path
        self._on_reopened = on_reopened
        self._connection = open_writer(path)
        self._must_reopen = False
        self._is_durable = True
        self._mutex = threading.Lock()
        self._is_led = False
        self._waiting: deque[_Request[Any]] = deque()
        self._stopped_by: StoreError | None = None
        self._is_committing = False
        self.commits = 0
        """Committed transactions so far."""

    def run(self, operation: Operation[T], *, durable: bool) -> T:
        """Run *operation* and commit it; returns its value.

        When *durable*, the commit has reached the disk on return; otherwise it survives the death of this process.
        What the operation raises is raised here and undoes that operation alone. Raises ``StoreError`` when the store
        does not take the write, and ``UsageError`` inside a transaction of the application on the same file.
        """
        request = _Request(operation, durable)
        with self._mutex:
            if self._is_led:
                blocks.refuse_inside(self._path)
                request.turn = threading.Lock()
                request.turn.acquire()
                self._waiting.append(request)
            else:
                self._is_led = True
        if request.turn is not None:
            self._wait_for_turn(request, request.turn)
            if request.is_done:
                return request.outcome()
        self._lead(request)
        return request.outcome()

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, for who must know it and does not use it."""
        return self._connection

    def pause(self, timeout_s: float) -> bool:
        """Wait for the leadership, keep it and close the connection, until :meth:`go_on`; False when that takes longer.

        The connection is opened again when it is next needed.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with self._mutex:
                if not self._is_led:
                    self._is_led = True
                    break
                request = _Request[None](lambda _connection: None, durable=False)
                request.turn = turn = threading.Lock()
                turn.acquire()
                self._waiting.append(request)
            if not turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
                self._abandon(request)
                return False
            if request.leads:
                break
        self._connection.close()
        self._must_reopen = True
        return True

    def go_on(self) -> None:
        """Hand the leadership on that :meth:`pause` kept."""
        self._hand_on()

    def begin_anew(self) -> None:
        """Forget, in a forked child, the threads of the parent. The writer was paused when the process forked."""
        self._mutex = threading.Lock()
        self._is_led = False
        self._waiting.clear()

    def refuse(self, error: StoreError) -> None:
        """Answer every further call with *error*."""
        self._stopped_by = error

    def close(self) -> None:
        """Close the connection, after those calls of ``run`` that came first; later ones raise ``StoreError``."""
        with contextlib.suppress(StoreError):  # stopped already: then nobody uses the connection any more
            self.run(self._retire, durable=False)
        self._connection.close()

    def _retire(self, _connection: sqlite3.Connection) -> None:
        """Stop, as the last operation that anybody runs: leaders look at ``_stopped_by`` first."""
        self._stopped_by = closed(self._path)

    def _lead(self, own: _Request[Any]) -> None:
        self._is_committing = False
        with self._mutex:
            batch = [own]
            while self._waiting and len(batch) < _BATCH_LIMIT:
                batch.append(self._waiting.popleft())
        try:
            self._commit(batch)
        except BaseException:  # a signal's exception, or no memory: it belongs to the leader alone
            try:
                self._part_from(batch[1:])
            finally:
                self._hand_on()
            raise
        self._hand_on()
        self._release(batch[1:])

    def _part_from(self, others: list[_Request[Any]]) -> None:
        """Leave *others* when the leader's call ends too early: their work is committed, or led by another one."""
        if self._is_committing and not self._connection.in_transaction:  # it came after the commit
            self._release(others)
        else:
            with self._mutex:
                self._waiting.extendleft(reversed(others))
            self._roll_back()

    def _reopen(self) -> None:
        self._connection = open_writer(self._path)
        self._must_reopen = False
        self._is_durable = True
        self._on_reopened()

    def _release(self, done: list[_Request[Any]]) -> None:
        for request in done:
            request.is_done = True
            cast(threading.Lock, request.turn).release()

    def _hand_on(self) -> None:
        with self._mutex:
            while self._waiting:
                successor = self._waiting.popleft()
                if not successor.is_abandoned:
                    successor.leads = True
                    cast(threading.Lock, successor.turn).release()
                    return
            self._is_led = False

    def _wait_for_turn(self, request: _Request[Any], turn: threading.Lock) -> None:
        try:
            turn.acquire()
        except BaseException:  # a signal's exception
            self._abandon(request)
            raise

    def _abandon(self, request: _Request[Any]) -> None:
        """See that nobody counts on the caller of *request* any more."""
        with self._mutex:
            request.is_abandoned = True
            leads = request.leads
        if leads:
            self._hand_on()

    def _commit(self, batch: list[_Request[Any]]) -> None:
        """Commit *batch*; each request then has its result or its error."""
        try:
            if self._stopped_by is not None:
                raise self._stopped_by.with_traceback(None)
            self._demand_connection()
            self._set_durability(True in [request.durable for request in batch])
            self._begin()
            live = self._run_all(batch)
            if not live:
                self._roll_back()
                return
            self._end(live)
        except StoreError as error:
            for request in batch:
                request.error = request.error or error

    def _run_all(self, batch: list[_Request[Any]]) -> list[_Request[Any]]:
        """Run every operation in the open transaction; returns those that succeeded.

        The usual case, in which all do, needs no savepoints. When one fails the transaction starts again and the
        others run once more, each in a savepoint of its own.
        """
        for request in batch:
            try:
                request.result = request.operation(self._connection)
            except Exception as error:  # noqa: BLE001  # the caller's own error, given back to the caller
                self._refuse_store_errors(error)
                if len(batch) == 1:
                    request.error = error
                    return []
                self._begin_again()
                return self._run_apart(batch)
        return batch

    def _run_apart(self, batch: list[_Request[Any]]) -> list[_Request[Any]]:
        for request in batch:
            self._connection.execute("SAVEPOINT request")
            try:
                request.result = request.operation(self._connection)
            except Exception as error:  # noqa: BLE001  # the caller's own error, given back to the caller
                self._refuse_store_errors(error)
                request.error = error
                if not self._connection.in_transaction:  # SQLite has no memory: it has undone what the others did too
                    self._begin_again()
                    return self._run_apart([request for request in batch if request.error is None])
                self._connection.execute("ROLLBACK TO request")
            self._connection.execute("RELEASE request")
        return [request for request in batch if request.error is None]

    def _begin_again(self) -> None:
        self._roll_back()
        self._demand_connection()
        self._begin()

    def _begin(self) -> None:
        deadline = time.monotonic() + BUSY_LIMIT_S
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                if primary_code(error) != sqlite3.SQLITE_BUSY:
                    raise self._stopping(translated(error, self._path)) from error
                blocks.refuse_inside(self._path)
                if time.monotonic() > deadline:
                    raise StoreBusy(str(self._path), BUSY_LIMIT_S, blocks.holder(self._path)) from error
                time.sleep(_BUSY_PAUSE_S)
            else:
                return

    def _end(self, live: list[_Request[Any]]) -> None:
        self._is_committing = True
        try:
            self._connection.execute("COMMIT")
        except (sqlite3.Error, MemoryError) as error:
            self._is_committing = False
            self._roll_back()
            failure = self._stopping(translated(error, self._path, committing=True))
            for request in live:
                request.error = failure
            return
        self.commits += 1

    def _refuse_store_errors(self, error: Exception) -> None:
        """Raise when *error* is about the file and not about the operation: then the whole batch has failed."""
        if isinstance(error, sqlite3.Error) and not isinstance(error, OF_THE_OPERATION):
            self._roll_back()
            raise self._stopping(translated(error, self._path)) from error

    def _stopping(self, error: StoreError) -> StoreError:
        """Stop for good after damage or a commit of unknown outcome: what SQLite says afterwards proves nothing."""
        if isinstance(error, OutcomeUnknown | StoreDamaged):
            self._stopped_by = error
        return error

    def _roll_back(self) -> None:
        """Undo the open transaction, if there is one: without memory SQLite may have done it, or be unable to."""
        if self._must_reopen or not self._connection.in_transaction:
            return
        try:
            self._connection.execute("ROLLBACK")
        except (sqlite3.Error, MemoryError):  # closing undoes it too
            self._must_reopen = True
            self._connection.close()

    def _demand_connection(self) -> None:
        if self._must_reopen:
            self._reopen()

    def _set_durability(self, durable: bool) -> None:
        """FULL syncs the log at every commit, NORMAL does not. Must be set outside of a transaction."""
        if durable is not self._is_durable:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._is_durable = durable
