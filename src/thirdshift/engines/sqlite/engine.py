"""The embedded engine: the contract of ``thirdshift.core.engine`` on one SQLite file.

It reads on one connection that cannot write and writes through the process's one :class:`Writer`. What was committed is
announced afterwards, never before.
"""

import contextlib
import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any
from uuid import uuid4

from thirdshift.core.alerts import Alert, AlertChange, AlertStep, Trouble, steps
from thirdshift.core.clock import Clock
from thirdshift.core.dependency import Relatives
from thirdshift.core.engine import (
    SQLITE_JOIN,
    Announced,
    BulkProgress,
    Capabilities,
    ClaimRequest,
    Exchange,
    FailureGroup,
    KeyState,
    ProgressReport,
    QueueState,
    Rescue,
    ReserveSeat,
    Seat,
    TaskFilter,
    TellRefused,
    Vacuumed,
    WorkerDeath,
    WorkerState,
)
from thirdshift.core.errors import StoreError, UsageError
from thirdshift.core.figures import Bucket, Execution, QueueLoad, Span
from thirdshift.core.health import Finding, HealthLevel, HealthLimits
from thirdshift.core.limits import QueueLimits
from thirdshift.core.outcome import Settlement
from thirdshift.core.pruning import Limits
from thirdshift.core.reason import Reason
from thirdshift.core.search import Match, SearchState
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import BackgroundTask, Claim, NewTask, PoolKind, Step, TaskError, TaskId, TaskSpec
from thirdshift.engines.sqlite import manage, submit, unique, wake, work
from thirdshift.engines.sqlite.alerts import alert_of_row, change_of_row, update
from thirdshift.engines.sqlite.card import read_card
from thirdshift.engines.sqlite.checkpoint import Checkpointer
from thirdshift.engines.sqlite.connection import closed, errors_of, forked, open_reader, refuse_network
from thirdshift.engines.sqlite.dangers import dangers
from thirdshift.engines.sqlite.deaths import DeathWatch
from thirdshift.engines.sqlite.figures import FigureBook
from thirdshift.engines.sqlite.filters import count_query, find_query, groups_query, recheck_query, seqs_query
from thirdshift.engines.sqlite.gate import Gate
from thirdshift.engines.sqlite.health import Examination
from thirdshift.engines.sqlite.leftovers import leftovers
from thirdshift.engines.sqlite.liveness import SQLiteRegistration, dead_workers, is_alive
from thirdshift.engines.sqlite.queries import QUERY, leaving_out
from thirdshift.engines.sqlite.rows import (
    attempt_of_row,
    claim_of_new,
    from_us,
    group_of_row,
    relative_of_row,
    row_of_new,
    row_of_worker,
    step_of_row,
    task_of_row,
    to_us,
    worker_of_row,
)
from thirdshift.engines.sqlite.schedules import Access, SQLiteSchedules
from thirdshift.engines.sqlite.search import SearchIndex
from thirdshift.engines.sqlite.unknown import decline, found
from thirdshift.engines.sqlite.why import Inquiry
from thirdshift.engines.sqlite.writer import Writer
from thirdshift.host.files import make_folders
from thirdshift.host.lock import FileLock

_BATCH = 500
"""Rows that one transaction of a long change writes: some milliseconds under the write lock."""
_MOST_RELATIVES = 1_000
_QUIET_S = 30.0
"""How long a fork waits for what is being written or read. Much longer than a writer waits for a lock: that one
gives up in time, and a disk that takes seconds for one commit costs no child its file."""
_SPEC_OF = attrgetter("spec")
_LEAST_PAUSE_S = 0.002
"""Twice the pause after which another process that found the file locked looks again."""


class SQLiteEngine:
    """One database file. Use :meth:`shared`: a process holds one engine, and so one write connection, for each file."""

    capabilities = Capabilities(
        name="sqlite", survives_power_loss=True, strict_priority=True, shared_by_processes=True, join=SQLITE_JOIN
    )

    _open: dict[Path, "SQLiteEngine"] = {}  # noqa: RUF012  # one table for the process, guarded by _open_mutex
    _open_mutex = threading.Lock()
    _leaving: set["SQLiteEngine"] = set()  # noqa: RUF012  # those that close just now

    @classmethod
    def shared(cls, path: Path, *, clock: Clock) -> "SQLiteEngine":
        """Return this process's engine for *path*, opening (and creating) it at the first call.

        Each call must be answered by one :meth:`close`. Raises ``StoreError``.
        """
        path = path.expanduser().resolve()  # one file has one folder of locks, by whatever link it is opened
        with cls._open_mutex:
            engine = cls._open.get(path)
            if engine is None:
                engine = cls._open[path] = cls(path, clock)
            engine._users += 1
            return engine

    @classmethod
    def before_fork(cls) -> None:
        """Close the connections of all engines: SQLite's must not cross a fork.

        SQLite keeps the locks of a file in tables of the process. A fork copies the tables but not the locks, so even a
        new connection of the child would trust locks that nobody holds. See docs/adr/0007.
        """
        cls._open_mutex.acquire()
        for engine in cls._engines():
            engine._is_quiet = engine._quiesce()  # noqa: SLF001  # one class

    @classmethod
    def after_fork_in_parent(cls) -> None:
        """Go on; connections are opened when they are needed."""
        for engine in cls._engines():
            if engine._is_quiet:  # noqa: SLF001
                engine._go_on()  # noqa: SLF001
        cls._open_mutex.release()

    @classmethod
    def after_fork_in_child(cls) -> None:
        """Begin anew with the same files and none of the parent's threads."""
        cls._open_mutex = threading.Lock()
        cls._leaving.clear()
        for engine in cls._open.values():
            engine._begin_anew()  # noqa: SLF001

    @classmethod
    def _engines(cls) -> list["SQLiteEngine"]:
        return [*cls._open.values(), *cls._leaving]

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._users = 0
        self._identity = uuid4().hex
        self._folder = path.with_name(path.name + ".run")
        refuse_network(path)  # before anything is made there
        with errors_of(path):
            make_folders(path.parent)
            self._folder.mkdir(mode=0o700, exist_ok=True)
        self._reader_mutex = threading.Lock()
        self._long_readers = Gate()
        with contextlib.ExitStack() as opened:
            self._writer = Writer(path, self._on_reopened)
            opened.callback(self._writer.close)
            self._reader = open_reader(path)
            opened.callback(self._reader.close)
            with errors_of(path):
                self._hub = self._new_hub()
            opened.pop_all()
        self._checkpointer = self._new_checkpointer()
        self._checkpointer.start()
        self._deaths = DeathWatch()
        self.schedules = SQLiteSchedules(
            Access(
                write=self._writer.run,
                read=self._read,
                now=clock.now,
                announce=self._announce,
                listen=self._listen,
            )
        )
        self._known_queues: frozenset[str] = frozenset()
        self._figures = FigureBook(self._writer, self._long_reader, self._read)
        self._figures_lock = self._new_figures_lock()
        self._search = SearchIndex(path, self._folder, self._writer, self._read)
        self._counting = 0
        self._reserves: tuple[ReserveSeat, ...] = ()
        self._last_now_us = 0
        self._is_quiet = False
        self._must_reopen = False
        self._refused_by: StoreError | None = None

    def _new_hub(self) -> wake.WakeHub:
        return wake.WakeHub(self._folder, self._identity, self._path.with_name(self._path.name + "-wal"))

    def _new_checkpointer(self) -> Checkpointer:
        return Checkpointer(self._path, self._folder / "checkpoint.lock")

    def _new_figures_lock(self) -> FileLock:
        return FileLock(self._folder / "figures.lock")

    def _on_reopened(self) -> None:
        self._checkpointer.start()

    def _quiesce(self) -> bool:
        """Close the connections and let nobody open them; False, and as it was, when they are too busy for that.

        Long readers come first: they may need any of the others to get to their end.
        """
        with contextlib.ExitStack() as paused:
            for part in (self._long_readers, self._checkpointer, self._search, self._writer):
                if not part.pause(_QUIET_S):
                    return False
                paused.callback(part.go_on)
            if not self._reader_mutex.acquire(timeout=_QUIET_S):
                return False
            paused.pop_all()
        self._reader.close()
        self._must_reopen = True
        return True

    def _go_on(self) -> None:
        self._reader_mutex.release()
        for part in (self._writer, self._search, self._checkpointer, self._long_readers):
            part.go_on()

    def _begin_anew(self) -> None:
        """Share the file, in a forked child, as any other process does."""
        self._writer.begin_anew()
        self._search.begin_anew()
        self._reader_mutex = threading.Lock()
        self._long_readers = Gate()
        self._reserves = ()
        if not self._is_quiet:
            self._refused_by = forked(self._path)
            self._writer.refuse(self._refused_by)
            self._hold_for_ever()
            return
        self._identity = uuid4().hex
        self._hub.abandon()
        self._hub = self._new_hub()
        self._checkpointer = self._new_checkpointer()
        self._deaths = DeathWatch()
        self._figures_lock = self._new_figures_lock()
        self._counting = 0

    def _hold_for_ever(self) -> None:
        """Keep the connections: the end of the interpreter would close them, inside SQLite's copied locks."""
        import ctypes  # noqa: PLC0415  # only forked children need it

        for connection in (self._reader, self._writer.connection):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))

    @property
    def location(self) -> str:
        """The absolute path of the database file."""
        return str(self._path)

    def close(self) -> None:
        """Close when the last user closes."""
        with self._open_mutex:
            self._users -= 1
            if self._users > 0:
                return
            self._open.pop(self._path, None)
            self._leaving.add(self)
        self._checkpointer.stop()
        self._deaths.close()
        self._figures_lock.release()
        with self._reader_mutex:
            self._refused_by = closed(self._path)
            self._reader.close()
        self._writer.close()
        self._leaving.discard(self)
        self._hub.close()  # last: who is woken by it finds the engine closed

    # Submitting

    def submit(self, tasks: Sequence[NewTask], *, queue_size: int | None = None) -> Sequence[TaskId]:
        """Store all *tasks* or none. See :class:`thirdshift.core.engine.Engine`."""
        if len(tasks) == 1 and tasks[0].spec.unique is None and not tasks[0].spec.after:
            self._submit_one(tasks[0], self._now_us(), queue_size)
            return [tasks[0].id]
        specs = [spec for spec, _ in groupby(map(_SPEC_OF, tasks))]  # the tasks of one submit mostly share theirs
        if any(spec.unique is not None or spec.after for spec in specs):
            return self._submit_in_order(tasks, specs, queue_size)
        now_us = self._now_us()
        rows = [row_of_new(task, now_us) for task in tasks]
        queues = {spec.queue for spec in specs}
        new_queues = queues - self._known_queues

        def insert(connection: sqlite3.Connection) -> None:
            submit.insert(connection, rows, queue_size, new_queues)

        self._writer.run(insert, durable=any(spec.durable for spec in specs))
        self._known_queues |= queues
        self._hub.announce(wake.WORK)
        return [task.id for task in tasks]

    def _submit_in_order(
        self, tasks: Sequence[NewTask], specs: Sequence[TaskSpec], queue_size: int | None
    ) -> list[TaskId]:
        """Store *tasks*, of which some have a unique key or wait for others, one after another in one transaction.

        Its moment is read under the write lock: who takes a key was submitted after the task before it had finished.
        """
        queues = {spec.queue for spec in specs}

        def insert(connection: sqlite3.Connection) -> list[unique.Landing]:
            return unique.submit_all(connection, tasks, self._now_us, queue_size, queues - self._known_queues)

        landings = self._writer.run(insert, durable=any(spec.durable for spec in specs))
        self._known_queues |= queues
        if any(landing.is_new or landing.is_replaced for landing in landings):
            self._hub.announce(wake.WORK)
        if any(landing.is_replaced for landing in landings):
            self._hub.announce(wake.FINISHED)  # what it waits for now may have failed already
        return [landing.id for landing in landings]

    def _submit_one(self, task: NewTask, now_us: int, queue_size: int | None) -> None:
        """Store *task*, claimed already when a worker of this process has a free slot and nothing should come first."""
        seat = self._seat_for(task, now_us)
        try:
            claim = self._store(task, now_us, queue_size, seat)
        except BaseException:
            if seat is not None:
                seat.leave()
            raise
        if seat is None or claim is None:
            if seat is not None:
                seat.leave()
            self._hub.announce_task(Announced(task.id, task.spec.queue, task.spec.pool))
        elif not seat.take(claim):
            self.give_back([claim])

    def _store(self, task: NewTask, now_us: int, queue_size: int | None, seat: Seat | None) -> Claim | None:
        spec = task.spec
        row = row_of_new(task, now_us)
        new_queues = () if spec.queue in self._known_queues else (spec.queue,)

        def insert(connection: sqlite3.Connection) -> int | None:
            if new_queues or queue_size is not None:
                submit.prepare(connection, queue_size, 1, new_queues)
            if seat is not None:
                cursor = connection.execute(QUERY["submit_claimed"], (*row, seat.owner))
                if cursor.rowcount:
                    return cursor.lastrowid
            connection.execute(QUERY["submit"], row)
            if spec.limit_key is not None:
                submit.enter_lines(connection, [row])
            return None

        seq = self._writer.run(insert, durable=spec.durable)
        if new_queues:
            self._known_queues |= {spec.queue}
        return None if seq is None or seat is None else claim_of_new(task, seq, seat.owner, now_us)

    def _seat_for(self, task: NewTask, now_us: int) -> Seat | None:
        """Return a free slot of a worker of this process for *task*, if it is due and has no limit key."""
        spec = task.spec
        if not self._reserves or spec.limit_key is not None:
            return None
        if spec.run_at is not None and to_us(spec.run_at) > now_us:
            return None
        for reserve in self._reserves:
            seat = reserve(spec.queue, spec.pool)
            if seat is not None:
                return seat
        return None

    # Reading

    def get(self, task_id: str) -> BackgroundTask | None:
        """Return the task as it stands, or ``None``."""
        with self._reading():
            return self._read_task(task_id)

    def status(self, task_id: str) -> TaskStatus | None:
        """Return the task's status, or ``None``."""
        rows = self._read(QUERY["status"], (task_id,))
        return TaskStatus(rows[0][0]) if rows else None

    def statuses(self, task_ids: Collection[str]) -> Mapping[str, TaskStatus]:
        """Return the status of each of these tasks that is known."""
        ((found,),) = self._read(QUERY["statuses"], (json.dumps(list(task_ids)),))
        return {task_id: TaskStatus(status) for task_id, status in json.loads(found).items()}

    def find(self, task_filter: TaskFilter) -> Sequence[BackgroundTask]:
        """Return the tasks that match, newest first."""
        query, parameters = find_query(task_filter)
        with self._reading():
            ids = [row[0] for row in self._reader.execute(query, parameters).fetchall()]
            found = [self._read_task(task_id, with_texts=False) for task_id in ids]
        return [task for task in found if task is not None]

    def counts(self, task_filter: TaskFilter | None = None) -> Mapping[TaskStatus, int]:
        """Return how many tasks there are under every status, of those that match when a filter is given."""
        if task_filter is None:
            found = dict(self._read(QUERY["counts"]))
        else:
            found = dict(self._read_long(*count_query(task_filter)))
        return {status: found.get(status.value, 0) for status in TaskStatus}

    def failure_groups(self, task_filter: TaskFilter) -> Sequence[FailureGroup]:
        """Group the tasks that match by the error of their last attempt, the largest group first."""
        return [group_of_row(row) for row in self._read_long(*groups_query(task_filter))]

    def why(self, task_id: str) -> Sequence[Reason]:
        """Return why the task is where it is and does not run, most telling first."""
        with self._reading(), _one_moment(self._reader):
            return Inquiry(self._reader, self._clock.now(), partial(is_alive, self._folder)).reasons(task_id)

    def relatives(self, task_id: str) -> Relatives:
        """Return what the task waits for or has waited for, and what waits or waited for it."""
        with self._reading(), _one_moment(self._reader):
            parents, dependants = (
                tuple(map(relative_of_row, self._reader.execute(QUERY[query], (task_id, _MOST_RELATIVES))))
                for query in ("parents_of", "dependants_of")
            )
        return Relatives(parents, dependants)

    def steps(self, task_id: str) -> Sequence[Step]:
        """Return the steps that the task has done, in their order."""
        return [step_of_row(row) for row in self._read(QUERY["steps"], (task_id,))]

    def queues(self) -> Sequence[QueueState]:
        """Return every queue that ever held a task, by name."""
        counts: dict[str, dict[TaskStatus, int]] = {}
        for queue, status, count in self._read(QUERY["unfinished_by_queue"]):
            counts.setdefault(queue, {})[TaskStatus(status)] = count
        return [
            QueueState(
                name=name,
                counts=counts.get(name, {}),
                paused_at=None if paused_us is None else from_us(paused_us),
                limits=QueueLimits(concurrency=concurrency, rate=rate, burst=burst),
            )
            for name, paused_us, concurrency, rate, burst in self._read(QUERY["queues"])
        ]

    def has_work(
        self, queues: AbstractSet[str] | None, excluded: AbstractSet[str], unknown: AbstractSet[str] = frozenset()
    ) -> bool:
        """Return whether anything is left to run, now or later, in those queues that are not paused."""
        ours = [name for (name,) in self._read(QUERY["open_queues"]) if name not in excluded]
        query, left_out = leaving_out("has_work", unknown)
        return any(self._read(query, (name, *left_out))[0][0] for name in ours if queues is None or name in queues)

    def workers(self) -> Sequence[WorkerState]:
        """Return the workers that are registered, oldest first."""
        return [self._seen(worker_of_row(row)) for row in self._read(QUERY["workers"])]

    def examine(self, level: HealthLevel, limits: HealthLimits) -> Sequence[Finding]:
        """Look at the file and its workers. See :class:`thirdshift.core.engine.Engine`."""
        with self._long_reader() as reader:
            examination = Examination(self._path, reader, self.workers, limits, self._clock.now())
            if level is HealthLevel.MINIMAL:
                return examination.minimal()
            is_thorough = level is HealthLevel.DOCTOR
            found = examination.complete(
                lambda: self._writer.run(lambda _: None, durable=False), self._hub.reach, is_thorough=is_thorough
            )
            if level is HealthLevel.DOCTOR:
                found += dangers(self._path, reader, limits, to_us(self._clock.now()))
                found += leftovers(self._folder, self.workers())
            return found

    def functions(self) -> Mapping[str, int]:
        """Return the functions of unfinished tasks, and how many of these call each."""
        return dict(self._read_long(QUERY["functions"], ()))

    # Managing

    def limit_queue(self, queue: str, limits: QueueLimits) -> None:
        """Set the limits of *queue*, known or not, in place of those it had."""
        row = queue, limits.concurrency, limits.rate, limits.bucket, self._now_us()
        self._writer.run(lambda connection: connection.execute(QUERY["limit_queue"], row), durable=True)
        self._hub.announce(wake.WORK)

    def limit_key(self, key: str, concurrency: int) -> None:
        """Let so many tasks of the limit key run at once. A row says only what is not so without it."""
        query, row = ("set_key_limit", (key, concurrency)) if concurrency != 1 else ("forget_key_limit", (key,))
        self._writer.run(lambda connection: connection.execute(QUERY[query], row), durable=True)
        self._hub.announce(wake.WORK)

    def limit_keys(self, limit: int) -> Sequence[KeyState]:
        """Return the limit keys that have tasks due or running or a limit of their own, by name."""
        return [
            KeyState(key=key, concurrency=concurrency, pending=pending, running=running)
            for key, concurrency, pending, running in self._read_long(QUERY["limit_keys"], (limit,))
        ]

    def set_paused(self, queue: str, paused: bool) -> bool:
        """Pause or resume *queue*; returns whether that changed anything."""
        query = QUERY["pause_queue" if paused else "resume_queue"]
        parameters = {"queue": queue, "now": self._now_us()}
        changed = self._writer.run(lambda c: c.execute(query, parameters).rowcount > 0, durable=True)
        self._hub.announce(wake.WORK)  # a paused queue gets back what was claimed ahead
        return changed

    def cancel(self, task_id: str, *, unless_running: bool = False) -> bool:
        """Cancel the task, or ask its worker to stop it."""
        return self._change(manage.cancel_waiting if unless_running else manage.cancel, task_id)

    def retry(self, task_id: str) -> bool:
        """Make a finished task pending again with all its retries."""
        return self._change(manage.retry, task_id)

    def delete(self, task_id: str) -> bool:
        """Delete a finished task with its attempts."""
        return self._change(manage.delete, task_id)

    def cancel_all(self, task_filter: TaskFilter, report: BulkProgress | None = None) -> int:
        """Cancel all tasks that match now. See :class:`thirdshift.core.engine.Engine`."""
        return self._change_all(manage.cancel, task_filter, report)

    def retry_all(
        self, task_filter: TaskFilter, report: BulkProgress | None = None, refused: TellRefused | None = None
    ) -> int:
        """Make all finished tasks that match now pending again."""
        return self._change_all(manage.retry, task_filter, report, refused)

    def delete_all(
        self, task_filter: TaskFilter, report: BulkProgress | None = None, refused: TellRefused | None = None
    ) -> int:
        """Delete all finished tasks that match now."""
        self._figures.fold_all()
        return self._change_all(manage.delete, task_filter, report, refused)

    def delete_finished(self, *, before: datetime) -> int:
        """Delete tasks that finished before that moment."""
        batch = partial(manage.delete_finished_batch, before_us=to_us(before), limit=_BATCH)
        self._figures.fold_all()
        deleted = 0
        for _ in _paced():
            count = self._writer.run(batch, durable=False)
            deleted += count
            if count < _BATCH:
                break
        return deleted

    def prunable(self, limits: Limits) -> Mapping[TaskStatus, int]:
        """Return how many tasks of each status :meth:`prune` would delete."""
        with self._long_reader() as reader, _one_moment(reader):
            found = manage.count_prunable(reader, manage.bounds(reader, limits))
        return {status: found.get(status, 0) for status in limits}

    def prune(
        self, limits: Limits, *, most: int | None = None, report: BulkProgress | None = None
    ) -> Mapping[TaskStatus, int]:
        """Delete finished tasks beyond *limits*, *most* of them at most; returns how many of each status."""
        with self._long_reader() as reader:
            bounds = manage.bounds(reader, limits)
            total = 0 if report is None else sum(manage.count_prunable(reader, bounds).values())
            now_us = self._now_us()
            (has_expired_key,) = reader.execute(QUERY["has_expired_key"], (now_us,)).fetchone()
        if has_expired_key:
            self._forget_expired_keys(now_us)
        if bounds:
            self._figures.fold_all()
        deleted = dict.fromkeys(limits, 0)
        for _ in _paced() if bounds else ():
            room = _BATCH if most is None else min(_BATCH, most - sum(deleted.values()))
            batch = self._writer.run(partial(manage.prune_batch, found=bounds, limit=room), durable=False)
            for status, count in batch.items():
                deleted[status] += count
            if report is not None:
                report(sum(deleted.values()), total)
            if sum(batch.values()) < _BATCH or sum(deleted.values()) == most:
                break
        return deleted

    def _forget_expired_keys(self, now_us: int) -> None:
        forget = partial(unique.forget_expired_keys, now_us=now_us, limit=_BATCH)
        for _ in _paced():
            if self._writer.run(forget, durable=False) < _BATCH:
                return

    def vacuum(self, report: BulkProgress | None = None) -> Vacuumed:
        """Give the space of deleted tasks back to the disk, in small steps."""
        before, free = self._pages()
        left = free
        for _ in _paced() if free else ():
            self._writer.run(manage.vacuum_batch, durable=False)
            was, (_pages, left) = left, self._pages()
            if report is not None:
                report(max(0, free - left), free)
            if not left or left >= was:  # done, or others delete as fast as this gives back
                break
        with contextlib.suppress(sqlite3.Error, StoreError):  # the file is cut by the next checkpoint, if not by this
            self._checkpointer.checkpoint()
        ((page_bytes,),) = self._read("PRAGMA page_size")
        return Vacuumed(
            before_bytes=before * page_bytes,
            after_bytes=self._pages()[0] * page_bytes,
            file_bytes=self._path.stat().st_size,
        )

    def on_finished(
        self,
        callback: Callable[[], None],
        of_others: Callable[[], None] | None = None,
        told: Callable[[Sequence[TaskId]], None] | None = None,
    ) -> Callable[[], None]:
        """Call one of these after tasks finished. See :class:`thirdshift.core.engine.Engine`."""
        others = None if of_others is None else lambda _announced: of_others()
        return self._hub.listen(wake.FINISHED, callback, others, told)

    def announce_commit(self, finished: Sequence[TaskId] = ()) -> None:
        """Wake who waits, after a commit of the application."""
        self._hub.announce(wake.WORK)
        if finished:
            self._hub.announce(wake.FINISHED, finished)

    def on_room(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* after tasks were claimed or cancelled."""
        return self._hub.listen(wake.ROOM, callback)

    # Working

    def register(
        self,
        *,
        slots: int,
        spare_slots: int = 0,
        queues: frozenset[str] | None = None,
        excluded: frozenset[str] = frozenset(),
        pools: Mapping[PoolKind, int] | None = None,
        name: str | None = None,
    ) -> SQLiteRegistration:
        """Make a new worker known, and what it takes."""
        with errors_of(self._path):
            registration = SQLiteRegistration(self._folder, slots + spare_slots, forget=self._forget_worker, name=name)
        worker = WorkerState(
            id=registration.id,
            pid=os.getpid(),
            host=socket.gethostname(),
            started_at=from_us(self._now_us()),
            slots=slots,
            busy=0,
            queues=queues,
            excluded=excluded,
            pools=pools or {},
        )
        try:
            self._writer.run(lambda c: c.execute(QUERY["register_worker"], row_of_worker(worker)), durable=False)
        except BaseException:
            registration.abandon()
            raise
        return registration

    def exchange(self, settlements: Sequence[Settlement], request: ClaimRequest | None) -> Exchange:
        """Record ended attempts, promote what is due and claim new tasks, in one transaction."""
        now = self._clock.now()
        if request is not None and request.first is not None and not settlements:
            owner, first = request.owner, request.first
            found = self._writer.run(lambda connection: work.claim_first(connection, owner, first, now), durable=False)
            if found is not None:
                self._hub.announce(wake.ROOM)
                return found
        if not settlements:  # idle: look before taking the write lock
            ((is_runnable, due_us),) = self._read(QUERY["look"], (to_us(now),))
            if request is None or not is_runnable:
                return Exchange(recorded=(), claims=(), next_due=None if due_us is None else from_us(due_us))
        exchange = self._writer.run(
            lambda connection: work.exchange(connection, settlements, request, now, is_counted=self.counts_ends),
            durable=any(settlement.claim.durable for settlement in settlements),
        )
        if any(exchange.recorded):
            finished = None if exchange.has_cancelled else [settlement.claim.id for settlement in settlements]
            self._hub.announce(wake.FINISHED, finished)
        if exchange.claims or exchange.has_cancelled:
            self._hub.announce(wake.ROOM)
        if exchange.has_released or exchange.has_freed_key or (exchange.is_limited and settlements):
            self._hub.announce(wake.WORK)
        # Nothing may fail between the commit and here: the claims would be lost until this process ends.
        return exchange

    def give_back(self, claims: Sequence[Claim]) -> None:
        """Return claimed tasks whose function was never called."""
        now_us = self._now_us()
        ripple = self._writer.run(lambda connection: work.give_back(connection, claims, now_us), durable=False)
        self._hub.announce(wake.WORK)
        finished = None if ripple.has_cancelled else [claim.id for claim in claims]  # one that was to be cancelled is
        self._hub.announce(wake.FINISHED, finished)

    def decline(self, refusals: Sequence[tuple[Claim, TaskError]], unknown_after: timedelta) -> Sequence[Settlement]:
        """Return claimed tasks whose function their worker cannot find, or fail them. See ``WorkerEngine``."""
        now = self._clock.now()
        failed = self._writer.run(
            lambda connection: decline(connection, refusals, now, unknown_after, is_counted=self.counts_ends),
            durable=any(claim.durable for claim, _ in refusals),
        )
        self._hub.announce(wake.WORK)
        # failed, or to be cancelled; of what waited for them nobody knows here
        self._hub.announce(wake.FINISHED, None if failed else [claim.id for claim, _ in refusals])
        return failed

    def found(self, owner: str, functions: Collection[str]) -> None:
        """Take notice that *owner* finds functions now of which it has declined tasks."""
        now_us = self._now_us()
        self._writer.run(lambda connection: found(connection, owner, functions, now_us), durable=False)

    def record_progress(self, progress: Sequence[tuple[Claim, Mapping[str, Any]]]) -> None:
        """Store the newest progress of running attempts."""
        now_us = self._now_us()
        self._writer.run(lambda connection: work.record_progress(connection, progress, now_us), durable=False)

    def record_step(self, claim: Claim, name: str, inputs: str, encoded_result: bytes) -> bool:
        """Store a step of the attempt; False when the task is no longer this attempt's."""
        step = name, inputs, encoded_result, self._now_us()
        return self._writer.run(lambda connection: work.record_step(connection, claim, *step), durable=claim.durable)

    def paused_queues(self) -> AbstractSet[str]:
        """Return the queues that are paused now."""
        return {name for (name,) in self._read(QUERY["paused_queues"])}

    def cancel_requests(self, owner: str) -> Sequence[TaskId]:
        """Return the running tasks of *owner* that somebody wants cancelled."""
        return [TaskId(task_id) for (task_id,) in self._read(QUERY["cancel_requests"], (owner,))]

    def rescue(self, owner: str) -> Sequence[Rescue]:
        """Make the tasks of dead workers runnable again."""
        others = [other for (other,) in self._read(QUERY["other_owners"], (owner, owner))]
        self._deaths.watch({pid for (pid,) in self._read(QUERY["other_pids"], (owner,))} if others else set())
        rescued: list[Rescue] = []
        for dead in dead_workers(self._folder, others):
            now = self._clock.now()
            rescue = partial(work.rescue, dead=dead, now=now, is_counted=self.counts_ends)
            rescued += self._writer.run(rescue, durable=False)
            dead.forget()
        if rescued:
            self._hub.announce(wake.WORK)
            is_given_up = any(rescue.is_given_up for rescue in rescued)  # it has failed, and so have those that need it
            self._hub.announce(wake.FINISHED, None if is_given_up else [rescue.id for rescue in rescued])
        return rescued

    def on_death(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* when the process of another worker has died, where the system tells that."""
        return self._deaths.listen(callback)

    def recover(self, owner: str, known: AbstractSet[tuple[int, int]]) -> Sequence[Rescue]:
        """Make runnable what *owner* holds in the store but not by its own account."""
        held = {(seq, attempt) for seq, _, _, attempt, _ in self._read(QUERY["held_by"], (owner,))}
        if held <= known:
            return ()
        now_us = self._now_us()
        return self._writer.run(partial(work.recover, owner=owner, known=known, now_us=now_us), durable=False)

    def on_submit(self, reserve: ReserveSeat) -> Callable[[], None]:
        """Let submitters of this process ask *reserve* for a free slot."""
        with self._open_mutex:
            self._reserves = (*self._reserves, reserve)

        def end() -> None:
            with self._open_mutex:
                self._reserves = tuple(each for each in self._reserves if each is not reserve)

        return end

    def on_work(
        self,
        callback: Callable[[], None],
        of_others: Callable[[Announced | None], None] | None = None,
        of_strangers: Callable[[], None] | None = None,
    ) -> Callable[[], None]:
        """Call *callback* when there may be something to claim or to cancel."""
        return self._hub.listen(wake.WORK, callback, of_others, of_strangers=of_strangers)

    # Figures

    @property
    def counts_ends(self) -> bool:
        """Whether the ends of attempts that this process records are counted."""
        return self._counting > 0

    def count_ends(self) -> Callable[[], None]:
        """Count from now on the ends that this process records; returns what ends it."""
        with self._open_mutex:
            self._counting += 1

        def end() -> None:
            with self._open_mutex:
                self._counting = max(0, self._counting - 1)  # a forked child begins at none

        return end

    def fold_figures(self) -> bool | None:
        """Fold a batch of what ended, forget a batch of what is kept no longer. See ``WorkerEngine``."""
        if not (self._figures_lock.held or self._figures_lock.try_acquire()):
            return None
        has_more = self._figures.fold()
        return self._figures.forget(self._now_us()) or has_more

    def keep_executions(self, most: int) -> None:
        """Keep so many executions of each name in detail."""
        self._figures.keep_executions(most)

    def buckets(self, span: Span, since: datetime | None = None, name: str | None = None) -> Sequence[Bucket]:
        """Return the figures of every stretch of time, name and queue. See :class:`thirdshift.core.engine.Engine`."""
        return self._figures.buckets(span, None if since is None else to_us(since) // 1_000_000, name)

    def executions(self, name: str, most: int) -> Sequence[Execution]:
        """Return the newest executions of *name* in detail, the newest first."""
        self._figures.fold_all()
        return self._figures.executions(name, most)

    def executions_after(self, number: int, most: int) -> Sequence[tuple[int, Execution]]:
        """Return executions of all names in the order of their numbers, which come with them."""
        return self._figures.executions_after(number, most)

    def forget_executions(self, up_to: int) -> None:
        """Delete the details of executions up to that number."""
        self._figures.forget_executions(up_to)

    def search(self, text: str, limit: int) -> Sequence[Match]:
        """Return the newest tasks whose texts have the words of *text*. See :class:`thirdshift.core.engine.Engine`."""
        if not self.search_state().is_on:
            raise UsageError(
                f"no index of words is kept for {self._path}: no worker has run on it yet, or their configuration has "
                "monitoring.search_enabled, or the monitor itself, off."
            )
        return self._search.find(text, limit)

    def search_state(self) -> SearchState:
        """Return how far the index of words is behind."""
        return self._search.state()

    def catch_up_search(self) -> bool:
        """Put a batch of what is missing into the index of words; returns whether there may be more."""
        return self._search.catch_up()

    def forget_search(self) -> None:
        """Delete the index of words."""
        self._search.forget()

    def switch_search(self, is_on: bool) -> None:
        """Keep an index of the words of tasks from now on, or none."""
        self._search.switch(is_on)

    def alerts(self, past: int) -> Sequence[Alert]:
        """Return the active alerts, and so many past ones."""
        opened = map(alert_of_row, self._read(QUERY["open_alerts"]))
        return [
            *(alert for alert in opened if alert.is_active),
            *map(alert_of_row, self._read(QUERY["past_alerts"], (past,))),
        ]

    def worker_deaths(self, since: datetime) -> Sequence[WorkerDeath]:
        """Return the workers that were found dead since then."""
        return [
            WorkerDeath(worker=worker, pid=pid, host=host, at=from_us(at_us), tasks=tasks)
            for worker, pid, host, at_us, tasks in self._read(QUERY["deaths"], (to_us(since),))
        ]

    def reports(self, before: datetime) -> Sequence[ProgressReport]:
        """Return the running attempts that have reported progress, the last time *before* that moment."""
        return [
            ProgressReport(task_id=TaskId(task_id), name=name, queue=queue, at=from_us(at_us))
            for task_id, name, queue, at_us in self._read(QUERY["reports"], (to_us(before),))
        ]

    def update_alerts(self, troubles: Sequence[Trouble]) -> Sequence[AlertStep]:
        """Open, fire and clear alerts by what was found now."""
        now = self._clock.now()
        opened = [alert_of_row(row) for row in self._read(QUERY["open_alerts"])]
        if not steps(opened, troubles, now):  # the usual case takes no write lock
            return ()
        return self._writer.run(partial(update, troubles=troubles, now=now), durable=True)

    def alert_changes(self, after: int, most: int) -> Sequence[AlertChange]:
        """Return what fired and cleared after the change of that number."""
        return [change_of_row(row) for row in self._read(QUERY["alert_changes"], (after, most))]

    def last_alert_change(self) -> int:
        """Return the number of the newest change."""
        return int(self._read(QUERY["last_alert_change"])[0][0])

    def alert_told(self, reader: str) -> int | None:
        """Return the number of the last change that *reader* has heard of."""
        rows = self._read(QUERY["told"], (reader,))
        return rows[0][0] if rows else None

    def tell_alert(self, reader: str, number: int) -> None:
        """Remember what *reader* has heard of."""
        self._writer.run(lambda connection: connection.execute(QUERY["tell"], (reader, number)), durable=True)

    def loads(self) -> Sequence[QueueLoad]:
        """Return what stands in every queue now, by name."""
        now_us = to_us(self._clock.now())
        found = {row[0]: row[1:] for row in self._read_long(QUERY["loads"], (now_us,))}
        return [
            QueueLoad(
                queue=name,
                waiting=waiting,
                later=later,
                running=running,
                oldest_due_at=None if oldest_us is None else from_us(oldest_us),
                is_paused=paused_us is not None,
            )
            for name, paused_us, *_ in self._read(QUERY["queues"])
            for waiting, later, running, oldest_us in [found.get(name, (0, 0, 0, None))]
        ]

    # Inside

    def _announce(self, topic: str) -> None:
        self._hub.announce(topic)  # a forked child has a hub of its own

    def _listen(self, topic: str, callback: Callable[[], None]) -> Callable[[], None]:
        return self._hub.listen(topic, callback)

    def _change(self, change: manage.Change, task_id: str) -> bool:
        now_us = self._now_us()
        kind = self._writer.run(lambda connection: change(connection, task_id, now_us), durable=True)
        self._announce_changes([] if kind is None else [kind], [TaskId(task_id)])
        return kind is not None

    def _change_all(
        self,
        change: manage.Change,
        task_filter: TaskFilter,
        report: BulkProgress | None,
        tell_refused: TellRefused | None = None,
    ) -> int:
        """Change all that matches now: the rows are found once, and written and looked at again batch by batch."""
        recheck = recheck_query(task_filter)
        seqs = sorted(seq for (seq,) in self._read_long(*seqs_query(task_filter)))
        changed = 0
        for start, _ in zip(range(0, len(seqs), _BATCH), _paced(), strict=False):
            batch = seqs[start : start + _BATCH]
            write = partial(manage.change_batch, change=change, recheck=recheck, seqs=batch, now_us=self._now_us())
            kinds, refused = self._writer.run(write, durable=True)
            self._announce_changes(kinds)
            changed += len(kinds)
            if tell_refused is not None:
                for task_id, conflict in refused:
                    tell_refused(task_id, conflict)
            if report is not None:
                report(start + len(batch), len(seqs))
        return changed

    def _announce_changes(self, kinds: Sequence[str], tasks: Sequence[TaskId] | None = None) -> None:
        if manage.CANCELLED in kinds or manage.RIPPLED in kinds:
            self._hub.announce(wake.FINISHED, None if manage.RIPPLED in kinds else tasks)
            self._hub.announce(wake.ROOM)
        if not {manage.RIPPLED, manage.CANCEL_REQUESTED, manage.RETRIED}.isdisjoint(kinds):
            self._hub.announce(wake.WORK)

    def _seen(self, worker: WorkerState) -> WorkerState:
        """Return *worker* with what stands beside the store: whether it lives, and what it says of itself."""
        card = read_card(self._folder, worker.id)
        return replace(
            worker,
            is_alive=is_alive(self._folder, worker.id),
            name=card.name,
            lost_wakes=card.lost_wakes,
            lost_wake_at=card.lost_at,
        )

    def _pages(self) -> tuple[int, int]:
        """Return how many pages the database has, and how many of them are free."""
        ((pages,),), ((free,),) = self._read("PRAGMA page_count"), self._read("PRAGMA freelist_count")
        return pages, free

    def _forget_worker(self, worker: str) -> None:
        self._writer.run(lambda c: c.execute(QUERY["forget_worker"], (worker,)), durable=False)

    def _read(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._reading():
            return self._reader.execute(query, parameters).fetchall()

    def _read_long(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._long_reader() as reader:
            return reader.execute(query, parameters).fetchall()

    @contextmanager
    def _long_reader(self) -> Iterator[sqlite3.Connection]:
        """Give a connection of its own to what may walk the whole file: nobody's short question waits behind it."""
        with self._long_readers.inside():
            with self._reading():
                reader = open_reader(self._path)
            with contextlib.closing(reader), errors_of(self._path):
                yield reader

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._reader_mutex, errors_of(self._path):
            if self._refused_by is not None:
                raise self._refused_by.with_traceback(None)
            if self._must_reopen:
                self._reader = open_reader(self._path)
                self._must_reopen = False
            yield

    def _read_task(self, task_id: str, *, with_texts: bool = True) -> BackgroundTask | None:
        """Read one task with its attempts as they stand at one moment; the reader's mutex is held.

        *with_texts*: also what the attempts wrote.
        """
        with _one_moment(self._reader):
            row = self._reader.execute(QUERY["task"], (task_id,)).fetchone()
            if row is None:
                return None
            attempts = self._reader.execute(QUERY["attempts"], (row[0], with_texts))
            return task_of_row(row, [attempt_of_row(attempt) for attempt in attempts])

    def _now_us(self) -> int:
        """Return now; it never goes back within a process, so that a clock step does not reorder equal tasks."""
        self._last_now_us = now_us = max(self._last_now_us, to_us(self._clock.now()))
        return now_us


def _paced() -> Iterator[None]:
    """Yield for each batch of a long change; in between, leave the write lock to others for as long as it was held."""
    while True:
        begun = time.monotonic()
        yield
        time.sleep(max(_LEAST_PAUSE_S, time.monotonic() - begun))


@contextmanager
def _one_moment(reader: sqlite3.Connection) -> Iterator[None]:
    """Let all that is read inside be of one moment."""
    reader.execute("BEGIN")
    try:
        yield
    finally:
        reader.execute("COMMIT")


os.register_at_fork(
    before=SQLiteEngine.before_fork,
    after_in_parent=SQLiteEngine.after_fork_in_parent,
    after_in_child=SQLiteEngine.after_fork_in_child,
)
