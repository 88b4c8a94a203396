"""``BackgroundTaskManager``: the one object an application needs."""

import atexit
import inspect
import os
import random
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar
from weakref import WeakKeyDictionary

from thirdshift.config import DATABASE_NAME, find_workspace, load_settings
from thirdshift.core import codec
from thirdshift.core.declare import declaration_of
from thirdshift.core.engine import QueueState, TaskFilter, WorkerEngine, WorkerState
from thirdshift.core.errors import NotSupported, TaskFailed, TaskNotFound, UsageError, WaitTimeout
from thirdshift.core.outcome import LONGEST_WAIT_S
from thirdshift.core.reference import bare_name, reference_of
from thirdshift.core.status import TaskPriority, TaskStatus
from thirdshift.core.task import BackgroundTask, NewTask, PoolKind, TaskId
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.monitor.logs import log_event
from thirdshift.runtime.clock import SystemClock
from thirdshift.runtime.pools.processes import ProcessPool
from thirdshift.runtime.pools.threads import ThreadPool
from thirdshift.runtime.worker import SAFETY_INTERVAL_S, Worker

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

DEFAULT_QUEUE = "default"
DEFAULT_RETRIES = 3
_POOL_OF_WORKER_TYPE = {"threaded": PoolKind.THREAD, "process": PoolKind.PROCESS}
_POOLS = {"thread": PoolKind.THREAD, "process": PoolKind.PROCESS, "async": PoolKind.ASYNC}
_SHORTEST_TIMEOUT_S = 1e-6
_MOST_PRIORITY = 2**31
_DURABILITIES = {"full": True, "relaxed": False}
_running: set["BackgroundTaskManager"] = set()
"""Managers that run tasks: kept here until their shutdown, so that the end of the program waits for all of them."""

Call = tuple[Sequence[Any], Mapping[str, Any]]
"""Positional and keyword arguments of one call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmitOptions:
    """What a submit may ask for besides the call itself; ``None`` means: as the function declares, or the default."""

    name: str | None = None
    """The name under which figures are kept; default: the function's bare ``__name__``."""
    queue: str | None = None
    """Default: ``default``."""
    priority: int | None = None
    """A :class:`TaskPriority` or any integer; a higher one starts first."""
    run_at: datetime | None = None
    """When the task is due; a naive moment is local time. Default: now."""
    max_retries: int | None = None
    """How often a failed attempt is repeated; default 3, so at most 4 attempts."""
    timeout: float | None = None
    """Seconds after which an attempt is ended; default: never."""
    tags: tuple[str, ...] = ()
    pool: str | None = None
    """``thread`` or ``process``; default: as ``worker_type`` says."""
    durability: str | None = None
    """``full`` or ``relaxed``; default: the manager's."""
    task_id: str | None = None
    """32 hexadecimal digits of your choice; submitting the same id again makes no second task."""


_DEFAULTS = SubmitOptions()


class BackgroundTaskManager:
    """Submits tasks, runs them in this process unless ``start=False``, and answers questions about them.

    Use it as a context manager, or call :meth:`shutdown`. All methods may be called from any thread.

    ``worker_type``
        ``threaded`` or ``process``: where functions run that declare no pool.
    ``max_workers``
        How many tasks run at once in each pool.
    ``queue_size``
        Most tasks that may wait to run; a submit beyond it raises :class:`QueueFull`. ``None``: no limit, the queue
        lies on disk.
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
    """

    def __init__(
        self,
        worker_type: str = "threaded",
        max_workers: int = 4,
        queue_size: int | None = None,
        monitor_enabled: bool = True,
        *,
        database: str | Path = "thirdshift.db",
        durability: str = "full",
        queues: Iterable[str] | None = None,
        excluded_queues: Iterable[str] = (),
        start: bool = True,
        shutdown_timeout_seconds: float = 30.0,
        broker_url: str | None = None,
        result_backend: str | None = None,
        default_queue: str | None = None,
        priority_queue: str | None = None,
    ) -> None:
        _refuse_celery(worker_type, broker_url, result_backend, priority_queue)
        _refuse_below_one(max_workers=max_workers, queue_size=queue_size)
        self._default_pool: PoolKind = _known("worker_type", worker_type, _POOL_OF_WORKER_TYPE)
        self.worker_type = worker_type
        self.queue_size = queue_size
        self.monitor_enabled = monitor_enabled
        self._default_queue = default_queue or DEFAULT_QUEUE
        self._is_durable = _known("durability", durability, _DURABILITIES)
        self._shutdown_timeout_s = shutdown_timeout_seconds
        self._clock = SystemClock()
        self._templates: WeakKeyDictionary[Callable[..., Any], NewTask] = WeakKeyDictionary()
        self._engine: WorkerEngine = SQLiteEngine.shared(Path(database), clock=self._clock)
        self._is_open = True
        self._process = os.getpid()
        self._closing = threading.Lock()
        self._queues = None if queues is None else frozenset(queues)
        self._excluded_queues = frozenset(excluded_queues)
        self._worker: Worker | None = None
        if start:
            try:
                self._start(max_workers)
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
        given = {"name": name, "priority": priority, "max_retries": max_retries, "timeout": timeout, "tags": tags}
        _refuse_ambiguous(func, [option for option, value in given.items() if value is not None])
        options = SubmitOptions(
            name=name, priority=priority, max_retries=max_retries, timeout=timeout, tags=_tags(tags)
        )
        return self.submit_calls(options, func, [(args, kwargs)])[0]

    def submit(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "TaskHandle[R]":
        """Store a call of *func* and return a typed handle of it."""
        return TaskHandle(self, self.submit_calls(_DEFAULTS, func, [(args, kwargs)])[0])

    def submit_many(
        self,
        func: Callable[..., Any],
        args: Iterable[Sequence[Any]],
        *,
        kwargs: Iterable[Mapping[str, Any]] | None = None,
    ) -> list[str]:
        """Store one call of *func* for each tuple of *args*, all in one commit; returns their ids."""
        return self.submit_calls(_DEFAULTS, func, _calls(args, kwargs))

    def options(
        self,
        *,
        name: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        run_at: datetime | None = None,
        max_retries: int | None = None,
        timeout: float | None = None,
        tags: Iterable[str] = (),
        pool: str | None = None,
        durability: str | None = None,
        task_id: str | None = None,
    ) -> "Submitter":
        """Return a submitter with these options: ``manager.options(queue="mail").submit(send, "a@example.org")``."""
        options = SubmitOptions(
            name=name,
            queue=queue,
            priority=priority,
            run_at=run_at,
            max_retries=max_retries,
            timeout=timeout,
            tags=_tags(tags),
            pool=pool,
            durability=durability,
            task_id=task_id,
        )
        return Submitter(self, options)

    # Asking

    def get_task_status(self, task_id: str) -> TaskStatus | None:
        """Return the task's status, ``None`` for an unknown id."""
        found = self.get_task(task_id)
        return None if found is None else found.status

    def get_task(self, task_id: str) -> BackgroundTask | None:
        """Return the task with its result, error, times and attempts; ``None`` for an unknown id."""
        return self._engine.get(task_id)

    def find_tasks(self, task_filter: TaskFilter | None = None) -> Sequence[BackgroundTask]:
        """Return the tasks that match, newest first."""
        return self._engine.find(task_filter or TaskFilter())

    def handle(self, task_id: str) -> "TaskHandle[Any]":
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
        queued = (TaskStatus.PENDING, TaskStatus.SCHEDULED, TaskStatus.RETRYING)
        return {
            **{status.value: count for status, count in counts.items()},
            "total": sum(counts.values()),
            "queue_size": sum(counts[status] for status in queued),
            "workers": len(workers),
            "slots": sum(worker.slots for worker in workers),
            "busy": sum(worker.busy for worker in workers),
        }

    def queues(self) -> Sequence[QueueState]:
        """Return every queue that ever held a task, by name."""
        return self._engine.queues()

    def workers(self) -> Sequence[WorkerState]:
        """Return the workers that are registered, in this and other processes."""
        return self._engine.workers()

    # Managing

    def cancel_task(self, task_id: str) -> bool:
        """Cancel a task. True: it will not complete (it was removed, or its worker was told to stop it).

        False: it is already finished, or unknown.
        """
        return self._engine.cancel(task_id)

    def retry_task(self, task_id: str) -> bool:
        """Run a finished task again, with all its retries; False for an unknown or unfinished one."""
        return self._engine.retry(task_id)

    def pause_queue(self, queue: str) -> bool:
        """Stop claiming from *queue*, for all workers and after restarts; returns whether that changed anything."""
        return self._engine.set_paused(queue, True)

    def resume_queue(self, queue: str) -> bool:
        """Claim from *queue* again; returns whether that changed anything."""
        return self._engine.set_paused(queue, False)

    def clear_finished(self, *, older_than: timedelta = timedelta(0)) -> int:
        """Delete tasks that finished longer than *older_than* ago, with their attempts; returns how many."""
        return self._engine.delete_finished(before=self._clock.now() - older_than)

    @property
    def failure(self) -> Exception | None:
        """Why the worker of this manager gave up, if it did."""
        return None if self._worker is None else self._worker.failure

    # Ending

    def shutdown(self, *, drain: bool = False, timeout: float | None = None) -> bool:
        """Finish the work in hand and leave the rest on disk; with *drain*, empty the queue first.

        Waits at most *timeout* seconds (default ``shutdown_timeout_seconds``) for running tasks. Returns False when a
        thread still runs: it cannot be killed, its task stays this process's until it ends.
        """
        if os.getpid() != self._process:  # a forked child has neither the threads nor the connections
            return True
        if drain and self._is_open and self._worker is not None:
            self._drain()
        with self._closing:
            if not self._is_open:
                return True
            self._is_open = False
        _running.discard(self)
        if self._worker is None:
            self._engine.close()
            return True
        is_over = self._worker.stop(self._shutdown_timeout_s if timeout is None else timeout)
        if is_over:
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

    def wait_for(self, task_id: str, timeout_s: float | None) -> BackgroundTask:
        """Return the task once it is finished. Raises :class:`WaitTimeout` and :class:`TaskNotFound`."""
        deadline = None if timeout_s is None else self._clock.monotonic() + timeout_s
        finished = threading.Event()
        unlisten = self._engine.on_finished(finished.set)
        try:
            while True:
                found = self._engine.get(task_id)
                if found is None:
                    raise TaskNotFound(task_id)
                if found.status.is_finished:
                    return found
                left_s = None if deadline is None else deadline - self._clock.monotonic()
                if left_s is not None and left_s <= 0:
                    raise WaitTimeout(task_id, timeout_s or 0.0, found.status.value)
                finished.wait(SAFETY_INTERVAL_S if left_s is None else min(left_s, SAFETY_INTERVAL_S))
                finished.clear()
        finally:
            unlisten()

    def submit_calls(self, options: SubmitOptions, func: Callable[..., Any], calls: Sequence[Call]) -> list[str]:
        """Store *calls* of *func*, all or none, and return their ids; every kind of submit comes here."""
        template = self._known_template(func) if options is _DEFAULTS else self._template(options, func)
        tasks = [
            template.with_call(
                template.id if options.task_id else _new_id(self._clock.now()),
                codec.encode_arguments(args, kwargs),
            )
            for args, kwargs in calls
        ]
        if tasks:
            self._engine.submit(tasks, queue_size=self.queue_size)
        return [task.id for task in tasks]

    # Inside

    def _start(self, max_workers: int) -> None:
        pools = [ThreadPool(max_workers, self._clock), ProcessPool(max_workers, self._clock)]
        self._worker = Worker(
            self._engine,
            pools,
            clock=self._clock,
            random=random.random,
            observe=log_event,
            queues=self._queues,
            excluded=self._excluded_queues,
        )
        self._worker.start()
        _running.add(self)

    def _drain(self) -> None:
        """Wait until nothing is left to run now or later in any queue of ours that is not paused."""
        finished = threading.Event()
        unlisten = self._engine.on_finished(finished.set)
        try:
            while self._is_open and self.failure is None and any(map(self._has_work, self._engine.queues())):
                finished.wait(SAFETY_INTERVAL_S)
                finished.clear()
        finally:
            unlisten()

    def _has_work(self, queue: QueueState) -> bool:
        is_ours = (self._queues is None or queue.name in self._queues) and queue.name not in self._excluded_queues
        return is_ours and queue.paused_at is None and any(queue.counts.values())

    def _close_later(self) -> None:
        if self._worker is not None:
            self._worker.wait_until_over()
        self._engine.close()

    def _known_template(self, func: Callable[..., Any]) -> NewTask:
        """Return the template of a submit without options; the same function is submitted again and again."""
        found = self._templates.get(func)
        if found is None:
            found = self._templates[func] = self._template(_DEFAULTS, func)
        return found

    def _template(self, options: SubmitOptions, func: Callable[..., Any]) -> NewTask:
        """Return a task with everything but its arguments: options, then what the function declares, then defaults."""
        declared = declaration_of(func)
        reference = reference_of(func)
        durability = options.durability
        task = NewTask(
            id=TaskId(options.task_id or ""),
            name=options.name or declared.name or bare_name(reference),
            function=reference,
            arguments=b"",
            queue=options.queue or declared.queue or self._default_queue,
            pool=_pool_of(options, declared.pool, func) or self._default_pool,
            priority=TaskPriority.NORMAL if options.priority is None else options.priority,
            run_at=None if options.run_at is None else options.run_at.astimezone(UTC),
            max_retries=_first(options.max_retries, _first(declared.max_retries, DEFAULT_RETRIES)),
            timeout_s=options.timeout if declared.timeout_s is None else _first(options.timeout, declared.timeout_s),
            tags=options.tags,
            durable=self._is_durable if durability is None else _known("durability", durability, _DURABILITIES),
        )
        _check(task)
        return task


class Submitter:
    """Submits with fixed options; made by :meth:`BackgroundTaskManager.options`."""

    def __init__(self, manager: BackgroundTaskManager, options: SubmitOptions) -> None:
        self._manager = manager
        self._options = options

    def submit(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "TaskHandle[R]":
        """Store a call of *func* and return a typed handle of it."""
        return TaskHandle(self._manager, self._manager.submit_calls(self._options, func, [(args, kwargs)])[0])

    def submit_many(
        self,
        func: Callable[..., Any],
        args: Iterable[Sequence[Any]],
        *,
        kwargs: Iterable[Mapping[str, Any]] | None = None,
    ) -> list[str]:
        """Store one call of *func* for each tuple of *args*, all in one commit; returns their ids."""
        if self._options.task_id is not None:
            raise UsageError("task_id names one task; submit_many makes several. Submit them one by one.")
        return self._manager.submit_calls(self._options, func, _calls(args, kwargs))


class TaskHandle(Generic[R]):
    """One submitted task, to ask about and to wait for. May be used from any thread."""

    def __init__(self, manager: BackgroundTaskManager, task_id: str) -> None:
        self._manager = manager
        self.id = task_id

    def __repr__(self) -> str:
        return f"<TaskHandle {self.id}>"

    @property
    def task(self) -> BackgroundTask:
        """The task as it stands now; raises :class:`TaskNotFound` when it was pruned."""
        found = self._manager.get_task(self.id)
        if found is None:
            raise TaskNotFound(self.id)
        return found

    @property
    def status(self) -> TaskStatus:
        """The task's status as it stands now."""
        return self.task.status

    def wait(self, timeout: float | None = None) -> BackgroundTask:
        """Return the task once it is finished, however it ended.

        Raises :class:`WaitTimeout` after *timeout* seconds.
        """
        return self._manager.wait_for(self.id, timeout)

    def result(self, timeout: float | None = None) -> R:
        """Return what the function returned, waiting for it.

        Raises :class:`TaskFailed` when the task failed or was cancelled, :class:`WaitTimeout` after *timeout* seconds.
        """
        finished = self.wait(timeout)
        if finished.status is not TaskStatus.COMPLETED:
            error = finished.error
            raise TaskFailed(
                finished.id,
                finished.status.value if error is None else error.type,
                "it never ran" if error is None else error.message,
                None if error is None else error.traceback,
            )
        result: R = finished.result
        return result

    def cancel(self) -> bool:
        """Cancel the task; see :meth:`BackgroundTaskManager.cancel_task`."""
        return self._manager.cancel_task(self.id)


_shared: BackgroundTaskManager | None = None
_shared_mutex = threading.Lock()


def get_task_manager() -> BackgroundTaskManager:
    """Return the application's shared manager, made at the first call from the configuration of the workspace.

    Without a ``database`` there, it is ``thirdshift.db`` in the workspace (``THIRDSHIFT_WORKSPACE``, default: the
    current folder). After its :meth:`~BackgroundTaskManager.shutdown` the next call makes a new one.
    """
    global _shared  # noqa: PLW0603  # the one shared manager of the process
    with _shared_mutex:
        if _shared is None or _shared not in _running:
            workspace = find_workspace()
            settings = load_settings(workspace)
            worker = settings.threaded_worker
            _shared = BackgroundTaskManager(
                settings.worker_type,
                worker.max_workers,
                worker.queue_size,
                database=workspace / (settings.database or DATABASE_NAME),
                shutdown_timeout_seconds=settings.shutdown_timeout_seconds,
            )
        return _shared


def submit_background_task(func: Callable[..., Any], *args: Any, **options: Any) -> str:
    """Submit to the shared manager: :meth:`BackgroundTaskManager.submit_task`."""
    return get_task_manager().submit_task(func, *args, **options)


# Checks of what a caller asks for


def _refuse_celery(worker_type: str, broker_url: str | None, *others: str | None) -> None:
    if worker_type == "celery" or broker_url or any(others):
        raise NotSupported("the Celery engine", "Leave out its arguments and use worker_type='threaded' or 'process'.")
    if worker_type == "async":
        raise NotSupported("worker_type='async'", "Use worker_type='threaded' or 'process'.")


def _known(option: str, value: str, choices: Mapping[str, Any]) -> Any:
    if value not in choices:
        raise UsageError(f"{option} is {value!r}; it may be {' or '.join(map(repr, choices))}")
    return choices[value]


def _refuse_ambiguous(func: Callable[..., Any], given: Sequence[str]) -> None:
    if not given:
        return
    clashes = [option for option in given if option in inspect.signature(func).parameters]
    if clashes:
        names = ", ".join(clashes)
        raise UsageError(
            f"{names}: both an option of submit_task and a parameter of {func.__qualname__}. Use "
            f"options(...).submit(...): options to options, the function's own arguments to submit."
        )


def _pool_of(options: SubmitOptions, declared: PoolKind | None, func: Callable[..., Any]) -> PoolKind | None:
    kind = declared if options.pool is None else _known("pool", options.pool, _POOLS)
    if kind is PoolKind.ASYNC or inspect.iscoroutinefunction(func):
        raise NotSupported(
            f"running the async function {func.__qualname__}", "Submit a plain function that calls asyncio.run on it."
        )
    return kind


def _check(task: NewTask) -> None:
    if task.max_retries < 0:
        raise UsageError(f"max_retries is {task.max_retries}; it must be 0 or more")
    if task.timeout_s is not None and not _SHORTEST_TIMEOUT_S <= task.timeout_s <= LONGEST_WAIT_S:
        raise UsageError(f"timeout is {task.timeout_s}; it is in seconds, more than 0 and at most {LONGEST_WAIT_S:.0f}")
    if not isinstance(task.priority, int) or abs(task.priority) > _MOST_PRIORITY:
        raise UsageError(f"priority is {task.priority!r}; it must be a TaskPriority or a whole number of 32 bits")
    if task.id and not re.fullmatch("[0-9a-f]{32}", task.id):
        raise UsageError(f"task_id is {task.id!r}; it must be 32 lower-case hexadecimal digits")


def _refuse_below_one(**numbers: int | None) -> None:
    for option, number in numbers.items():
        if number is not None and number < 1:
            raise UsageError(f"{option} is {number}; it must be 1 or more")


def _tags(tags: Iterable[str] | None) -> tuple[str, ...]:
    if isinstance(tags, str):
        raise UsageError(f"tags is the text {tags!r}; give a list of texts, such as [{tags!r}]")
    return tuple(tags or ())


def _first(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value


def _calls(args: Iterable[Sequence[Any]], kwargs: Iterable[Mapping[str, Any]] | None) -> list[Call]:
    positional = [tuple(arguments) for arguments in args]
    named: list[Mapping[str, Any]] = [{}] * len(positional) if kwargs is None else list(kwargs)
    if len(named) != len(positional):
        raise UsageError(f"{len(positional)} tuples of args but {len(named)} dicts of kwargs; give one dict for each")
    return list(zip(positional, named, strict=True))


def _new_id(now: datetime) -> TaskId:
    """Return a new id whose first digits grow with time, so that rows made together lie together."""
    return TaskId(f"{int(now.timestamp() * 1000):012x}{os.urandom(10).hex()}")


@atexit.register
def _finish_work_in_hand() -> None:
    """At the end of the program, do what leaving the ``with`` block does."""
    for manager in list(_running):
        manager.shutdown()


def _forget_managers_in_forked_child() -> None:
    """A forked child has none of the threads: it must not wait for them, and makes managers of its own."""
    global _shared, _shared_mutex
    _running.clear()
    _shared, _shared_mutex = None, threading.Lock()
    SQLiteEngine.forget_in_forked_child()


os.register_at_fork(after_in_child=_forget_managers_in_forked_child)
