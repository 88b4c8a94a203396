"""``BackgroundTaskManager``: the one object an application needs."""

import atexit
import inspect
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload
from weakref import WeakSet

from thirdshift.batch import Batch
from thirdshift.config import (
    DATABASE_NAME,
    BackgroundTaskConfig,
    MonitoringConfig,
    SchedulerConfig,
    auto_load_config,
    find_file,
    find_workspace,
)
from thirdshift.core.clock import Clock
from thirdshift.core.dependency import Relatives
from thirdshift.core.engine import (
    BulkProgress,
    FailureGroup,
    Join,
    KeyState,
    QueueState,
    TaskFilter,
    TellRefused,
    Vacuumed,
    WorkerEngine,
    WorkerState,
)
from thirdshift.core.errors import NotSupported, TaskNotFound, UsageError
from thirdshift.core.events import Event, Observer
from thirdshift.core.health import Finding, HealthCode, HealthLevel, HealthLimits
from thirdshift.core.limits import QueueLimits, check_concurrency
from thirdshift.core.outcome import LONGEST_WAIT_S
from thirdshift.core.pruning import PruningConfig
from thirdshift.core.reason import Reason
from thirdshift.core.recycling import RecyclingConfig
from thirdshift.core.reference import add_aliases, resolve
from thirdshift.core.schedule import Schedule
from thirdshift.core.search import Match, SearchState
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import BackgroundTask, NewTask, PoolKind, Step
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.handle import Submitter, TaskHandle
from thirdshift.monitor.alerts import ALERT_INTERVAL_S, AlertWatch, Webhook
from thirdshift.monitor.exports import ExecutionFile
from thirdshift.monitor.keeper import MonitorKeeper
from thirdshift.monitor.logs import log_event
from thirdshift.monitor.task_monitor import TaskMonitor
from thirdshift.runtime.clock import SystemClock
from thirdshift.runtime.pools.event_loop import DEFAULT_SLOTS, EventLoopPool
from thirdshift.runtime.pools.pool import Pool
from thirdshift.runtime.pools.processes import ProcessPool
from thirdshift.runtime.pools.threads import ThreadPool
from thirdshift.runtime.pruner import Pruner
from thirdshift.runtime.scheduler import Scheduler
from thirdshift.runtime.worker import SAFETY_INTERVAL_S, Worker
from thirdshift.scheduling import TaskScheduler
from thirdshift.submission import (
    DEFAULT_QUEUE,
    DURABILITIES,
    NO_OPTIONS,
    Call,
    SubmitOptions,
    TaskMaker,
    calls_of,
    check_key,
    ids_of,
    known,
    refuse_ambiguous,
    refuse_below_one,
    refuse_wait,
    tags_of,
)
from thirdshift.transaction import Transaction
from thirdshift.waiting import Finishes, FinishWait, RoomLine

P = ParamSpec("P")
R = TypeVar("R")

_POOL_OF_WORKER_TYPE = {"threaded": PoolKind.THREAD, "process": PoolKind.PROCESS, "async": PoolKind.THREAD}
"""Where plain functions run that declare no pool."""
_POOLS: Mapping[PoolKind, Callable[[int, Clock], Pool]] = {
    PoolKind.THREAD: ThreadPool,
    PoolKind.PROCESS: ProcessPool,
    PoolKind.ASYNC: EventLoopPool,
}
_DEFAULT_WORKERS = 4
_MOST_HOURS = LONGEST_WAIT_S / 3600
_CATCH_UP_S = 2.0
_FAILURES = frozenset({TaskStatus.FAILED, TaskStatus.RETRYING})
_HEALTH_LEVELS = {level.value: level for level in HealthLevel}
_all: WeakSet["BackgroundTaskManager"] = WeakSet()
_running: set["BackgroundTaskManager"] = set()
"""Managers that run tasks: kept here until their shutdown, so that the end of the program waits for all of them."""


class BackgroundTaskManager:
    """Submits tasks, runs them in this process unless ``start=False``, and answers questions about them.

    Use it as a context manager, or call :meth:`shutdown`. All methods may be called from any thread.

    ``worker_type``
        ``threaded`` or ``process``: where plain functions run that declare no pool. ``async``: in threads; it is meant
        for applications whose tasks are ``async def`` functions, which run in the event loop anyway.
    ``max_workers``
        How many tasks run at once in threads, and as many in child processes; default 4. With ``worker_type="async"``:
        how many coroutines, default 100, which is also their number with the other types.
    ``pools``
        The same for single pools: ``{"thread": 8, "process": 0, "async": 500}``. A pool of 0 is left out; its tasks
        wait for a worker that has one.
    ``queue_size``
        Most tasks that may wait to run; a submit beyond it raises :class:`QueueFull`. ``None``: no limit, the queue
        lies on disk.
    ``queue_wait_seconds``
        How long a submit to a full queue waits for room before it raises; ``options(wait=…)`` overrides it.
    ``monitor_enabled``
        Whether what ends here is counted in the figures of :attr:`monitor`, while tasks run here.
    ``monitoring``
        What the monitor keeps.
    ``database``
        The SQLite file; made when it does not exist.
    ``durability``
        ``full``: a submit that returned survives power loss. ``relaxed``: it survives the death of the process.
    ``queues``
        The queues that this process works on; ``None``: all but those in ``excluded_queues``.
    ``start``
        Whether to run tasks here; ``False`` only submits, another process works.
    ``shutdown_timeout_seconds``
        How long leaving the ``with`` block, and the end of the program, wait for the work in hand.
    ``pruning``
        How long finished tasks are kept. Default: completed ones 7 days, failed and cancelled ones 30 days, and at most
        a million of each.
    ``recycling``
        When child processes are replaced by fresh ones. Default: after 1,000 tasks, or when one has grown by 512 MiB.
    ``aliases``
        Functions and classes that were moved or renamed, so that tasks stored before still run:
        ``{"old.module:send": "new.module:send"}``. They hold for the whole process and its children.
    ``unknown_after_hours``
        A task fails when no worker could find its function for so long.
    ``scheduler``
        Whether this process, while it runs tasks, makes those of schedules, and how long it sleeps at most.
    ``name``
        What people call this worker, in lists and log lines.
    ``observe``
        Is told every event of the worker (``thirdshift.core.events``), on whatever thread it happens; must be quick.
    ``clock``
        What the tasks' moments are read from; for tests. The first manager of a file decides for the whole process.
    """

    def __init__(
        self,
        worker_type: str = "threaded",
        max_workers: int | None = None,
        queue_size: int | None = None,
        monitor_enabled: bool = True,
        *,
        monitoring: MonitoringConfig | None = None,
        database: str | Path = "thirdshift.db",
        durability: str = "full",
        queues: Iterable[str] | None = None,
        excluded_queues: Iterable[str] = (),
        start: bool = True,
        shutdown_timeout_seconds: float = 30.0,
        pruning: PruningConfig | None = None,
        recycling: RecyclingConfig | None = None,
        queue_wait_seconds: float = 0.0,
        aliases: Mapping[str, str] | None = None,
        pools: Mapping[str, int] | None = None,
        unknown_after_hours: float = 24.0,
        scheduler: SchedulerConfig | None = None,
        name: str | None = None,
        observe: Observer | None = None,
        clock: Clock | None = None,
        broker_url: str | None = None,
        result_backend: str | None = None,
        default_queue: str | None = None,
        priority_queue: str | None = None,
    ) -> None:
        _refuse_celery(worker_type, broker_url, result_backend, priority_queue)
        refuse_below_one(max_workers=max_workers, queue_size=queue_size)
        refuse_wait(queue_wait_seconds=queue_wait_seconds)
        pool: PoolKind = known("worker_type", worker_type, _POOL_OF_WORKER_TYPE)
        sizes = _pool_sizes(worker_type, max_workers, pools or {})
        if not 0 <= unknown_after_hours <= _MOST_HOURS:
            raise UsageError(f"unknown_after_hours is {unknown_after_hours}; it must be from 0 to {_MOST_HOURS:.0f}")
        durable = known("durability", durability, DURABILITIES)
        add_aliases(aliases or {})
        self.worker_type = worker_type
        self.queue_size = queue_size
        self._monitoring = monitoring or MonitoringConfig()
        self.monitor_enabled = monitor_enabled and self._monitoring.enabled
        self.pruning = pruning or PruningConfig()
        self._recycling = recycling or RecyclingConfig()
        self._shutdown_timeout_s = shutdown_timeout_seconds
        self._clock = clock or SystemClock()
        self._queue_wait_s = queue_wait_seconds
        self._durable = durable
        self._maker = TaskMaker(self._clock, queue=default_queue or DEFAULT_QUEUE, pool=pool, durable=durable)
        self._engine: WorkerEngine = SQLiteEngine.shared(Path(database), clock=self._clock)
        self._finishes = Finishes(self._engine)
        self._line = RoomLine(self._engine)
        self._is_open = True
        _all.add(self)
        self._closing = threading.Lock()
        self._queues = None if queues is None else frozenset(queues)
        self._excluded_queues = frozenset(excluded_queues)
        self._worker: Worker | None = None
        self._pruner = Pruner(self._engine, self.pruning, clock=self._clock, observe=log_event)
        self._monitor = TaskMonitor(self._engine, self._clock, history=self._monitoring.max_history_size)
        self._keeper = self._new_keeper()
        self._schedules = TaskScheduler(self._engine, self._maker, self._clock)
        self._scheduling = scheduler or SchedulerConfig()
        self._unknown_after = timedelta(hours=unknown_after_hours)
        self._name = name
        self._observe = observe
        self._scheduler = self.new_scheduler(self._tell)
        self._sizes = sizes
        if start:
            try:
                self.start()
            except BaseException:
                self._engine.close()
                raise

    def __repr__(self) -> str:
        role = "submits only" if self._worker is None else f"{self.worker_type}, {self._worker.slots} slots"
        return f"<BackgroundTaskManager {self.database} ({role})>"

    @property
    def database(self) -> str:
        """The absolute path of the database file."""
        return self._engine.location

    @property
    def clock(self) -> Clock:
        """What the moments of the tasks are read from."""
        return self._clock

    @property
    def monitor(self) -> TaskMonitor:
        """What is known of how the tasks do: figures of the whole store, whichever process ran them."""
        return self._monitor

    @property
    def schedules(self) -> TaskScheduler:
        """The schedules of the store: add, look at and change them."""
        return self._schedules

    @property
    def is_working(self) -> bool:
        """Whether this manager runs tasks itself."""
        return self._worker is not None

    # Submitting

    def submit_task(
        self,
        func: Callable[..., Any],
        *args: Any,
        name: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        timeout: float | None = None,
        tags: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> str:
        """Store a call of *func* and return the task's id; on return it is on disk.

        The options are those named here; all other keywords go to the function. For more options, and for functions
        that have a parameter of such a name, use :meth:`options`. Raises ``UsageError`` when the call cannot be stored,
        ``QueueFull`` and ``StoreError``.
        """
        options = _options_beside(func, name, priority, max_retries, timeout, tags)
        return self.submit_calls(options, func, [(args, kwargs)])[0]

    @overload
    def submit(
        self, func: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[R]: ...
    @overload
    def submit(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]: ...
    def submit(self, func: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[Any]:
        """Store a call of *func* and return a typed handle of it."""
        return TaskHandle(self, self.submit_calls(NO_OPTIONS, func, [(args, kwargs)])[0])

    def submit_many(
        self,
        func: Callable[..., Any],
        args: Iterable[Sequence[Any]],
        *,
        kwargs: Iterable[Mapping[str, Any]] | None = None,
    ) -> list[str]:
        """Store one call of *func* for each tuple of *args*, all in one commit; returns their ids."""
        return self.submit_calls(NO_OPTIONS, func, calls_of(args, kwargs))

    def options(
        self,
        *,
        name: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        run_at: datetime | None = None,
        max_retries: int | None = None,
        timeout: float | None = None,
        stall_timeout: float | None = None,
        tags: Iterable[str] = (),
        pool: str | None = None,
        durability: str | None = None,
        task_id: str | None = None,
        wait: float | None = None,
        unique_key: str | None = None,
        unique_for: timedelta | float | None = None,
        on_conflict: str = "keep",
        after: Iterable[TaskHandle[Any] | str] = (),
        after_any_outcome: Iterable[TaskHandle[Any] | str] = (),
        limit_key: str | None = None,
    ) -> Submitter:
        """Return a submitter with these options: ``manager.options(queue="mail").submit(send, "a@example.org")``.

        ``wait`` is how many seconds a submit to a full queue waits for room. While a task with a ``unique_key`` is
        unfinished, and for ``unique_for`` (seconds or a ``timedelta``) from its submit, no other task of the store gets
        that key: ``on_conflict`` says what a submit does that finds it held. ``keep`` returns the task that holds it,
        ``replace`` also gives that one the new call and options if it has not started, ``error`` raises
        :class:`UniqueConflict`.

        A task waits for those in ``after`` to complete, and for those in ``after_any_outcome`` to end, however; both
        take handles and ids. When one in ``after`` fails for good or is cancelled, the task is cancelled too; retrying
        that one opens it again. Submitting raises :class:`ParentNotFound` where one is not there.

        Of all tasks with one ``limit_key`` one runs at a time, over all queues, workers and processes, or as many as
        :meth:`limit_key` says; the others stay pending, and hold up no task without that key.
        """
        refuse_wait(wait=wait)
        options = SubmitOptions(
            name=name,
            queue=queue,
            priority=priority,
            run_at=run_at,
            max_retries=max_retries,
            timeout=timeout,
            stall_timeout=stall_timeout,
            tags=tags_of(tags),
            pool=pool,
            durability=durability,
            task_id=task_id,
            wait=wait,
            unique_key=unique_key,
            unique_for=unique_for,
            on_conflict=on_conflict,
            after=ids_of("after", after),
            after_any_outcome=ids_of("after_any_outcome", after_any_outcome),
            limit_key=limit_key,
        )
        return Submitter(self, options)

    def batch(self) -> Batch:
        """Return a block whose submits are stored together, in one commit, when it is left.

        ::

            with manager.batch() as batch:
                pages = [batch.submit(fetch, url) for url in urls]
                report = batch.submit(summarise, [page.output for page in pages])
            report.result()

        All are stored or none: an exception inside the block stores nothing. ``async with`` does not block the loop.
        """
        return Batch(self, self._maker)

    def transaction(self, connection: Any, *, durability: str | None = None) -> Transaction:
        """Return a transaction on *connection*, in which tasks are stored with the application's rows or not at all.

        ::

            with manager.transaction(connection) as tx:
                connection.execute("INSERT INTO parcel (id) VALUES (?)", [parcel])
                tx.submit(send, parcel)

        *connection* is open on :attr:`database`: a ``sqlite3.Connection``, or a ``Session``, ``Connection`` or
        ``Engine`` of SQLAlchemy; with ``async with`` its asynchronous ones too. The block begins to write when it is
        entered, commits when it is left, and rolls back when it is left by an exception. Keep it short: nobody else can
        write meanwhile. In a transaction of the caller that has written already it does neither: the caller commits.

        *durability* is the most that a task submitted inside asks for; default: the manager's. Entering raises
        ``StoreBusy`` after 5 seconds, :class:`WrongDatabase`, and :class:`ReadSnapshot` in a transaction of the caller
        that has written nothing.
        """
        reference = self._engine.capabilities.join
        if reference is None:
            raise NotSupported("manager.transaction", "Submit after the commit.")
        durable = self._durable if durability is None else known("durability", durability, DURABILITIES)
        join: Join = resolve(reference)
        return Transaction(self, self._maker, join(connection, self._engine.location, durable))

    # Submitting without blocking an event loop

    async def asubmit_task(
        self,
        func: Callable[..., Any],
        *args: Any,
        name: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the task's own option
        tags: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> str:
        """Do what :meth:`submit_task` does, for coroutines: the event loop runs on while the task is written to disk.

        A caller that is cancelled meanwhile does not learn whether the task was stored.
        """
        options = _options_beside(func, name, priority, max_retries, timeout, tags)
        return (await self.asubmit_calls(options, func, [(args, kwargs)]))[0]

    @overload
    async def asubmit(
        self, func: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[R]: ...
    @overload
    async def asubmit(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]: ...
    async def asubmit(self, func: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[Any]:
        """Do what :meth:`submit` does, for coroutines."""
        return TaskHandle(self, (await self.asubmit_calls(NO_OPTIONS, func, [(args, kwargs)]))[0])

    async def asubmit_many(
        self,
        func: Callable[..., Any],
        args: Iterable[Sequence[Any]],
        *,
        kwargs: Iterable[Mapping[str, Any]] | None = None,
    ) -> list[str]:
        """Do what :meth:`submit_many` does, for coroutines."""
        return await self.asubmit_calls(NO_OPTIONS, func, calls_of(args, kwargs))

    # Scheduling

    def schedule_task_once(
        self,
        func: Callable[..., Any],
        run_at: datetime,
        *args: Any,
        name: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        timeout: float | None = None,
        tags: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> str:
        """Store a call of *func* that is due at *run_at* and return the task's id; a naive moment is local time.

        It is a task as any other. The options are those of :meth:`submit_task`.
        """
        options = _options_beside(func, name, priority, max_retries, timeout, tags)
        return self.submit_calls(replace(options, run_at=run_at), func, [(args, kwargs)])[0]

    def schedule_task_interval(
        self,
        func: Callable[..., Any],
        interval: timedelta | float,
        *args: Any,
        name: str | None = None,
        missed: str | None = None,
        overlap: str | None = None,
        jitter: timedelta | float | None = None,
        **kwargs: Any,
    ) -> str:
        """Call *func* every *interval* (a span, or seconds), first after one, and return the schedule's id.

        The schedule is stored: it goes on after a restart, and saying it again changes nothing. The id works with
        :meth:`get_task_status` (of its newest task) and :meth:`cancel_task` (ends it). ``missed``, ``overlap`` and
        ``jitter`` are those of :class:`Schedule`; all other keywords go to the function. :attr:`schedules` has more.
        """
        _refuse_policies_beside(func, name=name, missed=missed, overlap=overlap, jitter=jitter)
        schedule = Schedule(every=interval, **_policies(missed, overlap, jitter))
        return self._schedules.add(func, schedule, args=args, kwargs=kwargs, name=name).id

    def schedule_task_cron(
        self,
        func: Callable[..., Any],
        expression: str,
        *args: Any,
        timezone: str | None = None,
        name: str | None = None,
        missed: str | None = None,
        overlap: str | None = None,
        jitter: timedelta | float | None = None,
        **kwargs: Any,
    ) -> str:
        """Call *func* whenever clocks in *timezone* (default ``UTC``) show what the cron *expression* says.

        Returns the schedule's id; all else is as with :meth:`schedule_task_interval`. docs/schedules.md says what
        happens when clocks change.
        """
        _refuse_policies_beside(func, timezone=timezone, name=name, missed=missed, overlap=overlap, jitter=jitter)
        schedule = Schedule(cron=expression, timezone=timezone or "UTC", **_policies(missed, overlap, jitter))
        return self._schedules.add(func, schedule, args=args, kwargs=kwargs, name=name).id

    # Asking

    def get_task_status(self, task_id: str) -> TaskStatus | None:
        """Return the task's status, ``None`` for an unknown id; for the id of a schedule that of its newest task."""
        found = self._engine.status(task_id)
        return self._schedules.status_of(task_id) if found is None else found

    def get_task(self, task_id: str) -> BackgroundTask | None:
        """Return the task with its result, error, times and attempts; ``None`` for an unknown id."""
        return self._engine.get(task_id)

    async def aget_task(self, task_id: str) -> BackgroundTask | None:
        """Do what :meth:`get_task` does, for coroutines."""
        from thirdshift import aio  # noqa: PLC0415  # only applications with an event loop need it

        return await aio.in_thread(self.get_task, task_id)

    def find_tasks(self, task_filter: TaskFilter | None = None) -> Sequence[BackgroundTask]:
        """Return the tasks that match, newest first."""
        return self._engine.find(task_filter or TaskFilter())

    def count_tasks(self, task_filter: TaskFilter | None = None) -> Mapping[TaskStatus, int]:
        """Return how many tasks match, under every status; the filter's ``limit`` does not matter."""
        return self._engine.counts(task_filter)

    def failure_groups(self, task_filter: TaskFilter | None = None) -> Sequence[FailureGroup]:
        """Group failed tasks by what their last errors share, the largest group first.

        A filter without statuses means tasks that failed for good or wait to be tried again. One group is retried by
        ``retry_tasks(TaskFilter(fingerprint=group.fingerprint))``.
        """
        wanted = task_filter or TaskFilter()
        return self._engine.failure_groups(wanted if wanted.statuses else replace(wanted, statuses=_FAILURES))

    def why(self, task_id: str) -> Sequence[Reason]:
        """Return why the task does not run, or how far it is, most telling first; raises :class:`TaskNotFound`.

        For the id of a schedule: when it fires next, or why it does not.

        Each reason is data; :func:`thirdshift.monitor.reasons.sentence` says it in words.
        """
        reasons = self._engine.why(task_id) or self._schedules.why(task_id)
        if not reasons:
            raise TaskNotFound(task_id)
        return reasons

    def handle(self, task_id: str) -> TaskHandle[Any]:
        """Return a handle of a task that was submitted earlier or elsewhere; raises :class:`TaskNotFound`."""
        if self._engine.get(task_id) is None:
            raise TaskNotFound(task_id)
        return TaskHandle(self, task_id)

    def get_stats(self) -> dict[str, int]:
        """Return a count for each status under its word, and the sums below.

        ``total`` tasks are stored, ``queue_size`` of them wait to run; ``workers`` have ``slots``, of which ``busy``
        run a task now.
        """
        counts = self._engine.counts()
        workers = self._engine.workers()
        queued = (TaskStatus.PENDING, TaskStatus.SCHEDULED, TaskStatus.RETRYING, TaskStatus.WAITING)
        return {
            **{status.value: count for status, count in counts.items()},
            "total": sum(counts.values()),
            "queue_size": sum(counts[status] for status in queued),
            "workers": len(workers),
            "slots": sum(worker.slots for worker in workers),
            "busy": sum(worker.busy for worker in workers),
        }

    def steps(self, task_id: str) -> Sequence[Step]:
        """Return the steps that the task has done so far, in their order; nothing for an unknown id."""
        return self._engine.steps(task_id)

    def search_tasks(self, text: str, limit: int = 20) -> Sequence[Match]:
        """Return the newest tasks whose name, arguments, tags, errors or results have all the words of *text*.

        ``error:timeout`` looks in errors only (or ``name``, ``arguments``, ``tags``, ``result``), ``"two words"`` for a
        phrase, ``invoi*`` for a beginning. Workers keep the index, beside the work; this call brings it up to date
        first, for two seconds at most, and :meth:`search_state` says what is missing. Raises ``UsageError`` when no
        index is kept.
        """
        until = time.monotonic() + _CATCH_UP_S
        if self._engine.search_state().is_on:
            while self._engine.catch_up_search() and time.monotonic() < until:
                pass
        found = self._engine.search(text, 2 * limit)  # some may be deleted by now
        there = self._engine.statuses([match.id for match in found])
        return [match for match in found if match.id in there][:limit]

    def search_state(self) -> SearchState:
        """Return how far the index of words is behind the tasks."""
        return self._engine.search_state()

    def rebuild_search(self, report: BulkProgress | None = None) -> None:
        """Build the index of words anew, from the tasks; *report* is told how many are in it, of how many."""
        total = sum(self._engine.counts().values())
        self._engine.forget_search()
        while self._engine.catch_up_search():
            missing = self._engine.search_state().tasks
            if report is not None:
                report(total - min(missing, total), total)
            if not missing and self._engine.search_state().is_current:
                return

    def relatives(self, task_id: str) -> Relatives:
        """Return what the task waits or waited for, and what waits or waited for it; nothing for an unknown id."""
        return self._engine.relatives(task_id)

    def queues(self) -> Sequence[QueueState]:
        """Return every queue that ever held a task, by name."""
        return self._engine.queues()

    def workers(self) -> Sequence[WorkerState]:
        """Return the workers that are registered, in this and other processes."""
        return self._engine.workers()

    # Managing

    def cancel_task(self, task_id: str, *, unless_running: bool = False) -> bool:
        """Cancel a task. True: it will not complete (it was removed, or its worker was told to stop it).

        False: it is already finished, or unknown, or with *unless_running* it runs, and goes on. The id of a schedule
        ends that; the tasks that it made go on.
        """
        return self._engine.cancel(task_id, unless_running=unless_running) or self._engine.schedules.end(task_id)

    async def acancel_task(self, task_id: str, *, unless_running: bool = False) -> bool:
        """Do what :meth:`cancel_task` does, for coroutines."""
        from thirdshift import aio  # noqa: PLC0415  # only applications with an event loop need it

        return await aio.in_thread(self.cancel_task, task_id, unless_running=unless_running)

    def retry_task(self, task_id: str) -> bool:
        """Run a finished task again, with all its retries; False for an unknown or unfinished one.

        What its failing, or being cancelled, had cancelled is opened again with it. Raises :class:`UniqueConflict` when
        an unfinished task has its unique key by now, and :class:`ParentsFailed` when it needs tasks that have failed.
        """
        return self._engine.retry(task_id)

    def delete_task(self, task_id: str) -> bool:
        """Delete a finished task with its attempts and result; False for an unknown or unfinished one.

        Raises :class:`StillNeeded` while unfinished tasks wait for it.
        """
        return self._engine.delete(task_id)

    def cancel_tasks(self, task_filter: TaskFilter, report: BulkProgress | None = None) -> int:
        """Cancel every unfinished task that matches now; returns how many.

        In batches, so that others can write in between; *report* is told after each how many tasks were looked at, and
        how many there are. :meth:`count_tasks` tells beforehand what is meant.
        """
        return self._engine.cancel_all(task_filter, report)

    def retry_tasks(
        self, task_filter: TaskFilter, report: BulkProgress | None = None, refused: TellRefused | None = None
    ) -> int:
        """Run every finished task that matches now again, in batches; returns how many.

        Tasks that :meth:`retry_task` refuses stay as they are; *refused* is told of each, and why.
        """
        return self._engine.retry_all(task_filter, report, refused)

    def delete_tasks(
        self, task_filter: TaskFilter, report: BulkProgress | None = None, refused: TellRefused | None = None
    ) -> int:
        """Delete every finished task that matches now, in batches; returns how many.

        Tasks that :meth:`delete_task` refuses stay as they are; *refused* is told of each, and why.
        """
        return self._engine.delete_all(task_filter, report, refused)

    def pause_queue(self, queue: str) -> bool:
        """Stop claiming from *queue*, for all workers and after restarts; returns whether that changed anything."""
        return self._engine.set_paused(queue, True)

    def limit_queue(
        self, queue: str, *, concurrency: int | None = None, rate: float | None = None, burst: int | None = None
    ) -> None:
        """Limit *queue* for all workers together, from now on and after restarts; without limits: lift those it has.

        At most *concurrency* of its tasks run at once; on average *rate* of them start in a second, and at most *burst*
        at once after a quiet time (default: those of a second). Raises ``UsageError``.
        """
        self._engine.limit_queue(queue, QueueLimits(concurrency=concurrency, rate=rate, burst=burst))

    def limit_key(self, key: str, concurrency: int) -> None:
        """Let *concurrency* tasks of a limit key run at once, from now on and after restarts. Raises ``UsageError``.

        1 is what every key has that nothing was said of. What runs already ends, also beyond a lower limit.
        """
        check_key("key", key)
        check_concurrency(concurrency)
        self._engine.limit_key(key, concurrency)

    def limit_keys(self, limit: int = 50) -> Sequence[KeyState]:
        """Return the limit keys with tasks that run or are due, or a limit of their own; at most *limit*, by name."""
        refuse_below_one(limit=limit)
        return self._engine.limit_keys(limit)

    def resume_queue(self, queue: str) -> bool:
        """Claim from *queue* again; returns whether that changed anything."""
        return self._engine.set_paused(queue, False)

    def clear_finished(self, *, older_than: timedelta = timedelta(0)) -> int:
        """Delete tasks that finished longer than *older_than* ago, with their attempts; returns how many."""
        return self._engine.delete_finished(before=self._clock.now() - older_than)

    def prune(self, *, dry_run: bool = False, report: BulkProgress | None = None) -> Mapping[TaskStatus, int]:
        """Delete the finished tasks that ``pruning`` keeps no longer; returns how many of each status.

        A running worker does it by itself, little by little. With *dry_run* nothing is deleted.
        """
        limits = self.pruning.limits(self._clock.now())
        return self._engine.prunable(limits) if dry_run else self._engine.prune(limits, report=report)

    def vacuum(self, report: BulkProgress | None = None) -> Vacuumed:
        """Give the space of deleted tasks back to the disk, in small steps, while others work."""
        return self._engine.vacuum(report)

    def health(self, level: str = "minimal", limits: HealthLimits | None = None) -> Sequence[Finding]:
        """Return how the store and its workers are; ``complete`` reads the whole file, for a bounded time.

        ``doctor`` also looks for what may do harm one day, and imports the functions of all unfinished tasks. Each
        finding is data; :mod:`thirdshift.monitor.health` says it in words, and what to do. Raises ``StoreError`` when
        the store does not answer.
        """
        wanted = known("level", level, _HEALTH_LEVELS)
        found = self._engine.examine(wanted, limits or HealthLimits())
        return [*found, _functions_found(self._engine.functions())] if wanted is HealthLevel.DOCTOR else found

    def wait_until_drained(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to run, now or later, in any queue of ours that is not paused; whether that is so.

        Tasks of functions that cannot be found here are left to other workers, and not waited for.
        At most *timeout* seconds; less when the worker gives up or the manager is shut down.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        finished = threading.Event()
        unlisten = self._engine.on_finished(finished.set)
        try:
            while self._is_open and self.failure is None and self._has_work():
                left_s = SAFETY_INTERVAL_S if deadline is None else deadline - time.monotonic()
                if left_s <= 0:
                    return False
                finished.wait(min(left_s, SAFETY_INTERVAL_S))
                finished.clear()
            return self._is_open and self.failure is None
        finally:
            unlisten()

    @property
    def failure(self) -> Exception | None:
        """Why the worker of this manager gave up, if it did."""
        return None if self._worker is None else self._worker.failure

    def start(self) -> None:
        """Run tasks in this process from now on: for a manager made with ``start=False``, and in a forked child.

        Nothing happens when it does already. Raises ``UsageError`` after :meth:`shutdown`.
        """
        with self._closing:
            if not self._is_open:
                raise UsageError("this manager was shut down; make a new one")
            if self._worker is None:
                pools = [self._new_pool(kind, size) for kind, size in self._sizes.items() if size]
                worker = self.new_worker(pools, random=random.random, observe=self._tell)
                if self._keeper is not None:
                    self._keeper.start()
                if self._scheduler is not None:
                    self._scheduler.start()
                worker.start()
                self._worker = worker
                self._pruner.start()
                _running.add(self)

    # Ending

    def hold(self) -> None:
        """Begin no more tasks here; what runs goes on, and the rest is left to others. :meth:`shutdown` follows."""
        if self._worker is not None:
            self._worker.hold()

    def shutdown(self, *, drain: bool = False, timeout: float | None = None) -> bool:
        """Finish the work in hand and leave the rest on disk; with *drain*, empty the queue first.

        Waits at most *timeout* seconds (default ``shutdown_timeout_seconds``) for running tasks. Returns False when a
        thread still runs: it cannot be killed, its task stays this process's until it ends.
        """
        if drain and self._is_open and self._worker is not None:
            self.wait_until_drained()
        with self._closing:
            if not self._is_open:
                return True
            self._is_open = False
        _running.discard(self)
        if self._worker is None:
            self._engine.close()
            return True
        if self._scheduler is not None:
            self._scheduler.stop()
        is_over = self._worker.stop(self._shutdown_timeout_s if timeout is None else timeout)
        self._pruner.stop()
        if self._keeper is not None:
            self._keeper.stop()
        if is_over:
            self._end_counting()
            self._engine.close()
        else:
            threading.Thread(target=self._close_later, name="thirdshift-shutdown", daemon=True).start()
        return is_over

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.ashutdown()

    async def ashutdown(self, *, drain: bool = False, timeout: float | None = None) -> bool:  # noqa: ASYNC109  # as there
        """Do what :meth:`shutdown` does, for coroutines; so does leaving ``async with``."""
        from thirdshift import aio  # noqa: PLC0415  # only applications with an event loop need it

        return await aio.in_thread(self.shutdown, drain=drain, timeout=timeout)

    # For handles and submitters

    def wait_for(self, task_id: str, timeout_s: float | None) -> BackgroundTask:
        """Return the task once it is finished. Raises :class:`WaitTimeout` and :class:`TaskNotFound`."""
        woken = threading.Event()
        wait = self._finishes.wait(task_id, timeout_s, woken.set)
        try:
            while (found := wait.look()) is None:
                _sleep(woken, wait.left_s())
            return found
        finally:
            wait.leave()

    def watch(self, task_id: str, wake: Callable[[], None]) -> FinishWait:
        """Return a wait that blocks nobody: ask its ``look`` now, and again whenever it called *wake*; then ``leave``.

        *wake* is called from any thread and must be quick.
        """
        return self._finishes.wait(task_id, None, wake)

    async def await_for(self, task_id: str, timeout_s: float | None, read: Callable[[BackgroundTask], R]) -> R:
        """Do what :meth:`wait_for` does, for coroutines; return what *read* makes of the task in another thread."""
        from thirdshift import aio  # noqa: PLC0415  # only applications with an event loop need it

        return await aio.finish(lambda wake: self._finishes.wait(task_id, timeout_s, wake), read)

    def submit_calls(self, options: SubmitOptions, func: Callable[..., Any], calls: Sequence[Call]) -> list[str]:
        """Store *calls* of *func*, all or none; every kind of submit comes here.

        Returns their ids, or for one whose unique key another task holds the id of that task.
        """
        return self.store(self._maker.make(options, func, calls), options.wait)

    def store(self, tasks: Sequence[NewTask], wait: float | None) -> list[str]:
        """Store *tasks*, all or none; when the queue is full, within *wait* seconds. Returns their ids."""
        wait_s = self._wait_s(wait)
        if not tasks:
            return []
        if wait_s and self.queue_size is not None:
            return self._store_waiting(tasks, self.queue_size, wait_s)
        return list(self._engine.submit(tasks, queue_size=self.queue_size))

    async def asubmit_calls(self, options: SubmitOptions, func: Callable[..., Any], calls: Sequence[Call]) -> list[str]:
        """Do what :meth:`submit_calls` does, for coroutines."""
        from thirdshift import aio  # noqa: PLC0415  # only applications with an event loop need it

        if self.queue_size is None or not self._wait_s(options.wait):
            return await aio.in_thread(self.submit_calls, options, func, calls)
        return await self.astore(await aio.in_thread(self._maker.make, options, func, calls), options.wait)

    async def astore(self, tasks: Sequence[NewTask], wait: float | None) -> list[str]:
        """Do what :meth:`store` does, for coroutines."""
        from thirdshift import aio  # noqa: PLC0415  # only applications with an event loop need it

        size, wait_s = self.queue_size, self._wait_s(wait)
        if size is None or not wait_s:
            return await aio.in_thread(self.store, tasks, wait)
        return await aio.store(lambda wake: self._line.submit(tasks, size, wait_s, wake)) if tasks else []

    def announce_submits(self, task_ids: Sequence[str]) -> None:  # noqa: ARG002  # a test's manager runs them
        """Wake who works: *task_ids* were committed by somebody else; for transactions."""
        self._engine.announce_commit()

    def new_worker(self, pools: Sequence[Pool], *, random: Callable[[], float], observe: Observer) -> Worker:
        """Return a worker for the queues of this manager, not yet started; for the manager, and for tests."""
        return Worker(
            self._engine,
            pools,
            clock=self._clock,
            random=random,
            observe=observe,
            queues=self._queues,
            excluded=self._excluded_queues,
            name=self._name,
            unknown_after=self._unknown_after,
        )

    def new_scheduler(self, observe: Observer) -> Scheduler | None:
        """Return what makes the tasks of schedules here, not yet started, if it is not switched off; as above."""
        if not self._scheduling.enabled:
            return None
        return Scheduler(
            self._engine.schedules,
            clock=self._clock,
            observe=observe,
            check_interval_s=self._scheduling.check_interval_seconds,
            declare=self._schedules.declare,
        )

    # Inside

    def _wait_s(self, wait: float | None) -> float:
        return self._queue_wait_s if wait is None else wait

    def _store_waiting(self, tasks: Sequence[NewTask], queue_size: int, wait_s: float) -> list[str]:
        woken = threading.Event()
        submit = self._line.submit(tasks, queue_size, wait_s, woken.set)
        try:
            while not submit.store():
                _sleep(woken, submit.left_s())
            return list(submit.ids)
        finally:
            submit.leave()

    def _new_pool(self, kind: PoolKind, size: int) -> Pool:
        if kind is PoolKind.PROCESS:
            return ProcessPool(size, self._clock, self._recycling)
        return _POOLS[kind](size, self._clock)

    def _tell(self, event: Event) -> None:
        log_event(event)
        if self._observe is not None:
            self._observe(event)

    def _has_work(self) -> bool:
        """Return whether anything is left to run; no question to the store while the worker itself can tell."""
        if self._worker is not None and self._worker.has_claims:
            return True
        unknown = frozenset() if self._worker is None else self._worker.unknown_functions
        return self._engine.has_work(self._queues, self._excluded_queues, unknown)

    def begin_anew_in_forked_child(self) -> None:
        """Be a manager without a worker."""
        self._closing = threading.Lock()
        self._worker = None
        self._pruner = Pruner(self._engine, self.pruning, clock=self._clock, observe=log_event)
        self._keeper = self._new_keeper()
        self._finishes = Finishes(self._engine)
        self._line = RoomLine(self._engine)
        self._scheduler = self.new_scheduler(self._tell)

    def _close_later(self) -> None:
        if self._worker is not None:
            self._worker.wait_until_over()
        self._end_counting()
        self._engine.close()

    def _new_keeper(self) -> MonitorKeeper | None:
        if not self.monitor_enabled:
            return None
        settings = self._monitoring
        chores: list[tuple[Callable[[], None], float]] = []
        if settings.rules:
            chores.append((AlertWatch(self._engine, self._clock, settings.rules).look, ALERT_INTERVAL_S))
        if settings.alert_webhook_url is not None:
            chores.append((Webhook(self._engine, self._clock, settings.alert_webhook_url).send, 1.0))
        if settings.export_enabled:
            path = Path(self.database).with_name("thirdshift-executions.jsonl")
            path = path if settings.export_path is None else path.parent / settings.export_path
            chores.append((ExecutionFile(self._engine, path).write, settings.export_interval_seconds))
        return MonitorKeeper(
            self._engine,
            history=settings.max_history_size,
            has_search=settings.search_enabled,
            chores=chores,
            everywhere=[(self._monitor.tell_alerts, 1.0)],
        )

    def _end_counting(self) -> None:
        if self._keeper is not None:
            self._keeper.end()


_shared: BackgroundTaskManager | None = None
_stand_in: BackgroundTaskManager | None = None
_shared_mutex = threading.Lock()


def get_task_manager() -> BackgroundTaskManager:
    """Return the application's shared manager, made at the first call from the configuration of the workspace.

    Without a ``database`` there, it is ``thirdshift.db`` in the workspace (``THIRDSHIFT_WORKSPACE``, default: the
    current folder). After its :meth:`~BackgroundTaskManager.shutdown` the next call makes a new one.
    """
    global _shared  # noqa: PLW0603  # the one shared manager of the process
    with _shared_mutex:
        if _stand_in is not None:
            return _stand_in
        if _shared is None or _shared not in _running:
            workspace = find_workspace()
            settings = auto_load_config()
            worker = settings.threaded_worker
            _shared = BackgroundTaskManager(
                settings.worker_type,
                queue_size=worker.queue_size,
                monitoring=settings.monitoring,
                pools=settings.pools,
                database=workspace / (settings.database or DATABASE_NAME),
                shutdown_timeout_seconds=settings.shutdown_timeout_seconds,
                pruning=settings.pruning,
                recycling=settings.recycling,
                queue_wait_seconds=worker.queue_wait_seconds,
                aliases=settings.aliases,
                unknown_after_hours=settings.unknown_after_hours,
                scheduler=settings.scheduler,
                start=False,
            )
            begin(_shared, settings, find_file(workspace))
        return _shared


def begin(manager: BackgroundTaskManager, settings: BackgroundTaskConfig, file: Path | None) -> None:
    """Store the schedules of the configuration *file* and start *manager*; shut down when one of these fails.

    Raises :class:`ConfigurationError` for functions and modules that cannot be found.
    """
    try:
        if file is not None and settings.scheduler.enabled:
            manager.schedules.declare_file(settings.schedules, settings.scheduler.modules, file)
        manager.start()
    except BaseException:
        manager.shutdown()
        raise


def get_task_monitor() -> TaskMonitor:
    """Return the monitor of the application's shared manager."""
    return get_task_manager().monitor


@contextmanager
def stand_in(manager: BackgroundTaskManager) -> Iterator[None]:
    """Let *manager* be the application's shared one inside the block; for tests."""
    global _stand_in  # noqa: PLW0603  # as _shared
    before, _stand_in = _stand_in, manager
    try:
        yield
    finally:
        _stand_in = before


def submit_background_task(func: Callable[..., Any], *args: Any, **options: Any) -> str:
    """Submit to the shared manager: :meth:`BackgroundTaskManager.submit_task`."""
    return get_task_manager().submit_task(func, *args, **options)


def _sleep(woken: threading.Event, most_s: float | None) -> None:
    """Sleep until *woken*, in pieces: Ctrl-C just before a sleep is noticed only when that ends."""
    until = None if most_s is None else time.monotonic() + most_s
    is_woken = False
    while not is_woken:
        left_s = SAFETY_INTERVAL_S if until is None else min(SAFETY_INTERVAL_S, until - time.monotonic())
        if left_s <= 0:
            return
        is_woken = woken.wait(left_s)
    woken.clear()


def _functions_found(functions: Mapping[str, int]) -> Finding:
    """Import *functions*, each with the number of tasks that call it, and return which are not there."""
    missing = []
    for function, tasks in functions.items():
        try:
            resolve(function)
        except Exception as error:  # noqa: BLE001  # what a user's module raises is the finding
            missing.append({"function": function, "tasks": tasks, "error": f"{type(error).__name__}: {error}"})
    facts = {"count": len(functions), "missing": missing}
    return Finding(code=HealthCode.FUNCTIONS, is_healthy=not missing, facts=facts)


def _pool_sizes(worker_type: str, max_workers: int | None, given: Mapping[str, int]) -> Mapping[PoolKind, int]:
    """Return the slots of every pool; refuses unknown pools, and a worker without any slot."""
    is_async = worker_type == "async"
    workers = _DEFAULT_WORKERS if is_async else max_workers or _DEFAULT_WORKERS
    coroutines = max_workers or DEFAULT_SLOTS if is_async else DEFAULT_SLOTS
    sizes = {PoolKind.THREAD: workers, PoolKind.PROCESS: workers, PoolKind.ASYNC: coroutines}
    for word, size in given.items():
        if size < 0:
            raise UsageError(f"the {word} pool cannot have {size} slots; 0 leaves it out")
        sizes[known("pools", word, {kind.value: kind for kind in _POOLS})] = size
    if not any(sizes.values()):
        raise UsageError("all pools have 0 slots, so nothing would ever run; give at least one of them a slot")
    return sizes


def _options_beside(
    func: Callable[..., Any],
    name: str | None,
    priority: int | None,
    max_retries: int | None,
    timeout: float | None,
    tags: Iterable[str] | None,
) -> SubmitOptions:
    """Return the options that stand beside the function's own arguments; refuses those that it has as parameters."""
    given = {"name": name, "priority": priority, "max_retries": max_retries, "timeout": timeout, "tags": tags}
    refuse_ambiguous(func, [option for option, value in given.items() if value is not None])
    return SubmitOptions(name=name, priority=priority, max_retries=max_retries, timeout=timeout, tags=tags_of(tags))


def _policies(missed: str | None, overlap: str | None, jitter: timedelta | float | None) -> dict[str, Any]:
    given = {"missed": missed, "overlap": overlap, "jitter": jitter}
    return {option: value for option, value in given.items() if value is not None}


def _refuse_policies_beside(func: Callable[..., Any], **given: object) -> None:
    """Refuse options of a schedule that *func* has as parameters: nobody could say who is meant."""
    options = [option for option, value in given.items() if value is not None]
    clashes = [option for option in options if option in inspect.signature(func).parameters]
    if clashes:
        raise UsageError(
            f"{', '.join(clashes)}: both an option of the schedule and a parameter of {func.__qualname__}. Use "
            "manager.schedules.add(func, Schedule(…), kwargs={…})."
        )


def _refuse_celery(worker_type: str, broker_url: str | None, *others: str | None) -> None:
    if worker_type == "celery" or broker_url or any(others):
        raise NotSupported("the Celery engine", "Leave out its arguments, and use worker_type='threaded'.")


@atexit.register
def _finish_work_in_hand() -> None:
    """At the end of the program, do what leaving the ``with`` block does."""
    for manager in list(_running):
        manager.shutdown()


def _forget_managers_in_forked_child() -> None:
    """A forked child has none of the threads: managers only submit and ask there. It starts workers of its own."""
    global _shared, _shared_mutex
    _running.clear()
    _shared, _shared_mutex = None, threading.Lock()
    for manager in list(_all):
        manager.begin_anew_in_forked_child()


os.register_at_fork(after_in_child=_forget_managers_in_forked_child)
