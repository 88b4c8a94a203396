"""The embedded engine: the contract of ``thirdshift.core.engine`` on one SQLite file.

It reads on one connection that cannot write and writes through the process's one :class:`Writer`. What was committed is
announced afterwards, never before.
"""

import contextlib
import os
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from thirdshift.core.clock import Clock
from thirdshift.core.engine import (
    Capabilities,
    ClaimRequest,
    Exchange,
    QueueState,
    Rescue,
    TaskFilter,
    WorkerState,
)
from thirdshift.core.errors import QueueFull
from thirdshift.core.outcome import Settlement
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import BackgroundTask, Claim, NewTask, TaskId
from thirdshift.engines.sqlite import wake, work
from thirdshift.engines.sqlite.checkpoint import Checkpointer
from thirdshift.engines.sqlite.connection import closed, errors_of, forked, open_reader
from thirdshift.engines.sqlite.liveness import SQLiteRegistration, dead_workers
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.engines.sqlite.rows import attempt_of_row, from_us, row_of_new, task_of_row, to_us
from thirdshift.engines.sqlite.writer import Writer
from thirdshift.host.files import make_folders

_DELETE_BATCH = 1_000


class SQLiteEngine:
    """One database file. Use :meth:`shared`: a process holds one engine, and so one write connection, for each file."""

    capabilities = Capabilities(name="sqlite", survives_power_loss=True, strict_priority=True, shared_by_processes=True)

    _open: dict[Path, "SQLiteEngine"] = {}  # noqa: RUF012  # one table for the process, guarded by _open_mutex
    _open_mutex = threading.Lock()
    _inherited: dict[Path, "SQLiteEngine"] = {}  # noqa: RUF012  # in a forked child: what its parent had open

    @classmethod
    def shared(cls, path: Path, *, clock: Clock) -> "SQLiteEngine":
        """Return this process's engine for *path*, opening (and creating) it at the first call.

        Each call must be answered by one :meth:`close`. Raises ``StoreError``.
        """
        path = path.expanduser().resolve()  # one file has one folder of locks, by whatever link it is opened
        with cls._open_mutex:
            if path in cls._inherited:
                raise forked(path)
            engine = cls._open.get(path)
            if engine is None:
                engine = cls._open[path] = cls(path, clock)
            engine._users += 1
            return engine

    @classmethod
    def forget_in_forked_child(cls) -> None:
        """Leave the engines of the process that was forked: here they refuse every call, and are never closed.

        The files stay closed to this process. SQLite keeps the locks of a file in tables of the process; the fork
        copied the tables but not the locks, so even a new connection would trust locks that nobody holds.
        """
        for engine in cls._open.values():
            engine._abandon()  # noqa: SLF001  # one class
        cls._inherited = {**cls._inherited, **cls._open}
        cls._open, cls._open_mutex = {}, threading.Lock()

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._users = 0
        self._identity = uuid4().hex
        self._folder = path.with_name(path.name + ".run")
        with errors_of(path):
            make_folders(path.parent)
            self._folder.mkdir(mode=0o700, exist_ok=True)
        self._reader_mutex = threading.Lock()
        with contextlib.ExitStack() as opened:
            self._writer = Writer(path)
            opened.callback(self._writer.close)
            self._reader = open_reader(path)
            opened.callback(self._reader.close)
            with errors_of(path):
                self._hub = wake.WakeHub(self._folder, self._identity)
            opened.pop_all()
        self._checkpointer = Checkpointer(path, self._folder / "checkpoint.lock")
        self._checkpointer.start()
        self._known_queues: frozenset[str] = frozenset()
        self._last_now_us = 0
        self._is_closed = False

    def _abandon(self) -> None:
        """Hold the connections for ever: the end of the interpreter would close them, inside SQLite's copied locks."""
        import ctypes  # noqa: PLC0415  # only forked children need it

        for connection in (self._reader, self._writer.connection):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))

    @property
    def location(self) -> str:
        """The absolute path of the database file."""
        return str(self._path)

    def close(self) -> None:
        """Close when the last user closes."""
        self._writer.demand_own_process()
        with self._open_mutex:
            self._users -= 1
            if self._users > 0:
                return
            self._open.pop(self._path, None)
        self._checkpointer.stop()
        self._hub.close()
        with self._reader_mutex:
            self._is_closed = True
            self._reader.close()
        self._writer.close()

    # Submitting

    def submit(self, tasks: Sequence[NewTask], *, queue_size: int | None = None) -> None:
        """Store all *tasks* or none. See :class:`thirdshift.core.engine.Engine`."""
        now_us = self._now_us()
        rows = [row_of_new(task, now_us) for task in tasks]
        queues = {task.queue for task in tasks}
        new_queues = queues - self._known_queues

        def insert(connection: sqlite3.Connection) -> None:
            if queue_size is not None:
                _demand_room(connection, queue_size, len(rows))
            if new_queues:
                connection.executemany(QUERY["know_queue"], [(name,) for name in new_queues])
            if len(rows) == 1:
                connection.execute(QUERY["submit"], rows[0])
            else:
                connection.executemany(QUERY["submit"], rows)

        self._writer.run(insert, durable=any(task.durable for task in tasks))
        self._known_queues |= queues
        self._hub.announce(wake.WORK)

    # Reading

    def get(self, task_id: str) -> BackgroundTask | None:
        """Return the task as it stands, or ``None``."""
        with self._reading():
            return self._read_task(task_id)

    def find(self, task_filter: TaskFilter) -> Sequence[BackgroundTask]:
        """Return the tasks that match, newest first."""
        query, parameters = _find_query(task_filter)
        with self._reading():
            ids = [row[0] for row in self._reader.execute(query, parameters).fetchall()]
            found = [self._read_task(task_id) for task_id in ids]
        return [task for task in found if task is not None]

    def counts(self) -> Mapping[TaskStatus, int]:
        """Return how many tasks there are under every status."""
        found = dict(self._read(QUERY["counts"]))
        return {status: found.get(status.value, 0) for status in TaskStatus}

    def queues(self) -> Sequence[QueueState]:
        """Return every queue that ever held a task, by name."""
        counts: dict[str, dict[TaskStatus, int]] = {}
        for queue, status, count in self._read(QUERY["unfinished_by_queue"]):
            counts.setdefault(queue, {})[TaskStatus(status)] = count
        return [
            QueueState(
                name=name, counts=counts.get(name, {}), paused_at=None if paused_us is None else from_us(paused_us)
            )
            for name, paused_us in self._read(QUERY["queues"])
        ]

    def workers(self) -> Sequence[WorkerState]:
        """Return the workers that are registered, oldest first."""
        return [
            WorkerState(id=worker, pid=pid, host=host, started_at=from_us(started), slots=slots, busy=busy)
            for worker, pid, host, started, slots, busy in self._read(QUERY["workers"])
        ]

    # Managing

    def set_paused(self, queue: str, paused: bool) -> bool:
        """Pause or resume *queue*; returns whether that changed anything."""
        query = QUERY["pause_queue" if paused else "resume_queue"]
        parameters = {"queue": queue, "now": self._now_us()}
        changed = self._writer.run(lambda c: c.execute(query, parameters).rowcount > 0, durable=True)
        if not paused:
            self._hub.announce(wake.WORK)
        return changed

    def cancel(self, task_id: str) -> bool:
        """Cancel the task, or ask its worker to stop it."""
        parameters = {"id": task_id, "now": self._now_us()}

        def cancel(connection: sqlite3.Connection) -> str | None:
            for kind, query in (("cancelled", "cancel_waiting"), ("cancel_requested", "request_cancel")):
                if connection.execute(QUERY[query], parameters).rowcount:
                    connection.execute(QUERY["record_event"], {**parameters, "kind": kind, "detail": None})
                    return kind
            return None

        kind = self._writer.run(cancel, durable=True)
        if kind is not None:
            self._hub.announce(wake.WORK if kind == "cancel_requested" else wake.FINISHED)
        return kind is not None

    def retry(self, task_id: str) -> bool:
        """Make a finished task pending again with all its retries."""
        parameters = {"id": task_id, "now": self._now_us(), "kind": "retried", "detail": None}

        def retry(connection: sqlite3.Connection) -> bool:
            if not connection.execute(QUERY["retry"], parameters).rowcount:
                return False
            connection.execute(QUERY["record_event"], parameters)
            return True

        is_retried = self._writer.run(retry, durable=True)
        if is_retried:
            self._hub.announce(wake.WORK)
        return is_retried

    def delete_finished(self, *, before: datetime) -> int:
        """Delete tasks that finished before that moment; in batches, so that nobody waits long for the write lock."""
        parameters = {"before": to_us(before), "limit": _DELETE_BATCH}
        deleted = 0
        while True:
            count = self._writer.run(lambda c: c.execute(QUERY["delete_finished"], parameters).rowcount, durable=False)
            deleted += count
            if count < _DELETE_BATCH:
                return deleted

    def on_finished(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* after tasks finished."""
        return self._hub.listen(wake.FINISHED, callback)

    # Working

    def register(self, *, slots: int) -> SQLiteRegistration:
        """Make a new worker known."""
        registration = SQLiteRegistration(self._folder, forget=self._forget_worker)
        row = (registration.id, os.getpid(), socket.gethostname(), self._now_us(), slots)
        try:
            self._writer.run(lambda c: c.execute(QUERY["register_worker"], row), durable=False)
        except BaseException:
            registration.abandon()
            raise
        return registration

    def exchange(self, settlements: Sequence[Settlement], request: ClaimRequest | None) -> Exchange:
        """Record ended attempts, promote what is due and claim new tasks, in one transaction."""
        now = self._clock.now()
        if request is not None and not settlements and not self._has_runnable(now):
            request = None
        if request is None and not settlements:
            return Exchange(recorded=(), claims=(), next_due=work.next_due(self._read(QUERY["next_due"])))
        exchange = self._writer.run(
            lambda connection: work.exchange(connection, settlements, request, now),
            durable=any(settlement.report.claim.durable for settlement in settlements),
        )
        if any(exchange.recorded):
            self._hub.announce(wake.FINISHED)
        # Nothing may fail between the commit and here: the claims would be lost until this process ends.
        return exchange

    def give_back(self, claims: Sequence[Claim]) -> None:
        """Return claimed tasks whose function was never called."""
        now_us = self._now_us()
        self._writer.run(lambda connection: work.give_back(connection, claims, now_us), durable=False)
        self._hub.announce(wake.WORK)

    def record_progress(self, progress: Sequence[tuple[Claim, Mapping[str, Any]]]) -> None:
        """Store the newest progress of running attempts."""
        now_us = self._now_us()
        self._writer.run(lambda connection: work.record_progress(connection, progress, now_us), durable=False)

    def cancel_requests(self, owner: str) -> Sequence[TaskId]:
        """Return the running tasks of *owner* that somebody wants cancelled."""
        return [TaskId(task_id) for (task_id,) in self._read(QUERY["cancel_requests"], (owner,))]

    def rescue(self, owner: str) -> Sequence[Rescue]:
        """Make the tasks of dead workers runnable again."""
        others = [other for (other,) in self._read(QUERY["other_owners"], (owner, owner))]
        rescued: list[Rescue] = []
        for dead in dead_workers(self._folder, others):
            now = self._clock.now()
            rescued += self._writer.run(partial(work.rescue, dead=dead.id, now=now), durable=False)
            dead.forget()
        if rescued:
            self._hub.announce(wake.WORK)
        return rescued

    def on_work(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* when there may be something to claim or to cancel."""
        return self._hub.listen(wake.WORK, callback)

    # Inside

    def _forget_worker(self, worker: str) -> None:
        self._writer.run(lambda c: c.execute(QUERY["forget_worker"], (worker,)), durable=False)

    def _has_runnable(self, now: datetime) -> bool:
        return bool(self._read(QUERY["is_runnable"], (to_us(now),))[0][0])

    def _read(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._reading():
            return self._reader.execute(query, parameters).fetchall()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        self._writer.demand_own_process()
        with self._reader_mutex, errors_of(self._path):
            if self._is_closed:
                raise closed(self._path)
            yield

    def _read_task(self, task_id: str) -> BackgroundTask | None:
        """Read one task with its attempts as they stand at one moment; the reader's mutex is held."""
        self._reader.execute("BEGIN")
        try:
            row = self._reader.execute(QUERY["task"], (task_id,)).fetchone()
            if row is None:
                return None
            return task_of_row(row, [attempt_of_row(a) for a in self._reader.execute(QUERY["attempts"], (row[0],))])
        finally:
            self._reader.execute("COMMIT")

    def _now_us(self) -> int:
        """Return now; it never goes back within a process, so that a clock step does not reorder equal tasks."""
        self._last_now_us = now_us = max(self._last_now_us, to_us(self._clock.now()))
        return now_us


def _demand_room(connection: sqlite3.Connection, queue_size: int, more: int) -> None:
    (queued,) = connection.execute(QUERY["count_queued"], (queue_size,)).fetchone()
    if queued + more > queue_size:
        raise QueueFull(queue_size, 0.0)


def _find_query(wanted: TaskFilter) -> tuple[str, list[Any]]:
    """Build the one query whose conditions vary."""
    conditions: list[str] = []
    parameters: list[Any] = []
    if wanted.statuses:
        conditions.append(f"status IN ({', '.join('?' * len(wanted.statuses))})")
        parameters += sorted(status.value for status in wanted.statuses)
    for column, value in (("name", wanted.name), ("queue", wanted.queue)):
        if value is not None:
            conditions.append(f"{column} = ?")
            parameters.append(value)
    if wanted.tag is not None:
        conditions.append("EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ?)")
        parameters.append(wanted.tag)
    where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    return f"SELECT id FROM task {where}ORDER BY seq DESC LIMIT ?", [*parameters, wanted.limit]  # noqa: S608
