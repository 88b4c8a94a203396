"""``concurrent.futures.Executor`` on the engine: the standard interface, for work that may be durable.

What a pool of the standard library keeps in memory is a task in a file here. One thread for each executor, which sleeps
until a task is finished, hands results to the futures; nothing polls.
"""

import atexit
import os
import re
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from concurrent.futures import Executor as StandardExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from thirdshift.core.declare import is_coroutine_function
from thirdshift.core.engine import TaskFilter
from thirdshift.core.errors import StoreError, ThirdshiftError, UsageError
from thirdshift.core.events import Event, WorkerStopped
from thirdshift.core.reference import reference_of, resolve
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import BackgroundTask
from thirdshift.handle import result_of
from thirdshift.manager import BackgroundTaskManager
from thirdshift.waiting import FinishWait

P = ParamSpec("P")
T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MOST_FUTURES = 10_000_000


class TaskFuture(Future[T]):
    """The standard's future of one task. It can also be cancelled while it runs, where its pool can stop it."""

    def __init__(self, manager: BackgroundTaskManager, task_id: str) -> None:
        super().__init__()
        self._manager = manager
        self.task_id = task_id
        """The task's id, for ``thirdshift tasks show`` and ``why``."""

    def cancel(self) -> bool:
        """Cancel the task; False when it is finished. One that runs is told to stop, and never completes.

        Who waits for the future learns of it when the task has ended.
        """
        if self.cancelled():
            return True
        return not self.done() and self._manager.cancel_task(self.task_id) and super().cancel()

    def cancel_unless_running(self) -> bool:
        """Cancel the task if it does not run yet, and leave it alone otherwise."""
        if self.done():
            return self.cancelled()
        return self._manager.cancel_task(self.task_id, unless_running=True) and super().cancel()

    def refuse_in_forked_child(self, error: Exception) -> None:
        """Fail in a forked child, where nobody will ever hand a result over.

        The lock may be held by a thread that is not there; who waits and whom it would call are the parent's.
        """
        self._condition = threading.Condition()
        self._waiters = []
        self._done_callbacks: list[Callable[[Future[T]], object]] = []
        if not self.done():
            self.set_exception(error)

    def running(self) -> bool:
        """Return whether an attempt of the task runs now."""
        return not self.done() and self._manager.get_task_status(self.task_id) is TaskStatus.RUNNING


class Executor(StandardExecutor):
    """Runs importable functions on the embedded engine, by the interface of :mod:`concurrent.futures`.

    Arguments and results are data, as for every task; anything else is refused by ``submit``. A function that raises
    ends its future with :class:`TaskFailed`. May be used from any thread.

    ``max_workers``
        Calls that run at once; default 4.
    ``worker_type``
        ``threaded``, ``process`` or ``async``: where functions run that declare no pool.
    ``max_retries``
        How often a failed call is repeated; default never, as with the standard's pools. ``None``: as the functions
        declare.
    ``database``
        The SQLite file. Default: a file of its own, deleted at the shutdown.
    ``name``
        Keeps the calls: after a crash or a restart ``Executor.attach(name, database=…)`` finds their futures again.
        Needs a ``database``; two executors may share it under two names.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        worker_type: str = "threaded",
        max_retries: int | None = 0,
        database: str | Path | None = None,
        name: str | None = None,
    ) -> None:
        if name is not None and not _NAME.fullmatch(name):
            raise UsageError(f"an executor cannot be named {name!r}; use 1 to 100 letters, digits, dots, - and _")
        if name is not None and database is None:
            raise UsageError("a named executor keeps its calls in a file; say which with database=…")
        self._woken: SimpleQueue[str | None] = SimpleQueue()
        """Ids of tasks to look at; ``None``: of the executor itself something has changed."""
        self._pid = os.getpid()
        self._worker_has_stopped = False
        self._refusal: Exception | None = None
        """Why no more calls are taken, if that is so."""
        self._own_folder = None if database is not None else tempfile.mkdtemp(prefix="thirdshift-executor-")
        queue = f"executor-{name or 'unnamed'}"
        try:
            self._manager = BackgroundTaskManager(
                worker_type,
                max_workers,
                database=Path(self._own_folder or "", "tasks.db") if database is None else database,
                durability="relaxed" if database is None else "full",
                queues=[queue],
                name=name,
                observe=self._notice,
            )
        except BaseException:
            self._delete_own_folder()
            raise
        self.name = name
        self._tag = f"executor:{name}"
        self._submitter = self._manager.options(
            queue=queue, max_retries=max_retries, tags=[] if name is None else [self._tag]
        )
        self._mutex = threading.Lock()
        self._is_shut = False
        self._open: dict[str, tuple[TaskFuture[Any], FinishWait]] = {}
        self._attached: dict[str, TaskFuture[Any]] = {}
        self._thread = threading.Thread(target=self._hand_over, name="thirdshift-executor", daemon=True)
        self._thread.start()
        _executors.add(self)

    @classmethod
    def attach(cls, name: str, *, database: str | Path, **options: Any) -> "Executor":
        """Return the executor *name* of an earlier process, with its :attr:`futures`; *options* as in the constructor.

        What was not finished goes on; what was interrupted runs again.
        """
        executor = cls(name=name, database=database, **options)
        executor._find_again()
        return executor

    @property
    def futures(self) -> Mapping[str, TaskFuture[Any]]:
        """The futures that :meth:`attach` found, by the id of their task, in the order of their submits."""
        return dict(self._attached)

    @property
    def manager(self) -> BackgroundTaskManager:
        """The manager below, for all that the standard's interface does not offer."""
        return self._manager

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[T]:
        """Store a call of *fn* and return its future; raises ``UsageError`` when it cannot be stored.

        As the standard says, raises ``RuntimeError`` after :meth:`shutdown`, and ``BrokenExecutor`` when the worker
        gave up because the store cannot be trusted any more; then all futures that are not done fail with it too.
        """
        with self._mutex:
            self._refuse()
            return self._follow(self._submitter.submit(fn, *args, **kwargs).id)

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """Return the results of *fn* for the items of *iterables*, in their order. All calls are stored in one commit.

        *chunksize* calls make one task, which saves time when a call takes less than a millisecond. Raises
        ``TimeoutError`` when a result is not there *timeout* seconds after this call.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if chunksize < 1:
            raise ValueError("chunksize must be 1 or more")
        calls = list(zip(*iterables, strict=False))
        if chunksize == 1:
            return _results(self._submit_all(fn, calls), deadline)
        if is_coroutine_function(fn):
            raise UsageError("coroutines run side by side anyway; leave chunksize out")
        reference = reference_of(fn)
        chunks = [(reference, calls[start : start + chunksize]) for start in range(0, len(calls), chunksize)]
        return (result for chunk in _results(self._submit_all(call_each, chunks), deadline) for result in chunk)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; those that were taken are finished first, and with *wait* this waits for it.

        With *cancel_futures*, those that do not run yet are cancelled.
        """
        with self._mutex:
            self._is_shut = True
            self._refusal = self._refusal or RuntimeError("cannot schedule new futures after shutdown")
            followed = [future for future, _ in self._open.values()]
        try:
            for future in followed if cancel_futures else ():
                future.cancel_unless_running()
        finally:
            self._woken.put(None)
        if wait:
            self._thread.join()

    # Inside

    def _refuse(self) -> None:
        if self._refusal is not None:
            raise type(self._refusal)(*self._refusal.args) from self._refusal.__cause__

    def _submit_all(self, fn: Callable[..., T], calls: Sequence[Sequence[Any]]) -> list[TaskFuture[T]]:
        with self._mutex:
            self._refuse()
            return [self._follow(task_id) for task_id in self._submitter.submit_many(fn, calls)]

    def _find_again(self) -> None:
        found = self._manager.find_tasks(TaskFilter(tag=self._tag, limit=_MOST_FUTURES))
        with self._mutex:
            self._refuse()
            self._attached = {task.id: self._follow(task.id) for task in reversed(found)}

    def _follow(self, task_id: str) -> TaskFuture[Any]:
        """Return the future of the task; its first look is made by the thread. ``_mutex`` is held."""
        future: TaskFuture[Any] = TaskFuture(self._manager, task_id)
        self._open[task_id] = future, self._manager.watch(task_id, partial(self._woken.put, task_id))
        self._woken.put(task_id)
        return future

    def _hand_over(self) -> None:
        """Give finished tasks to their futures, until the shutdown and the last of them; the thread."""
        try:
            while not self._is_finished():
                task_id = self._woken.get()
                if task_id is not None:
                    self._look(task_id)
                elif self._worker_has_stopped:
                    self._break()
            self._manager.shutdown()
        finally:
            self._delete_own_folder()

    def _is_finished(self) -> bool:
        with self._mutex:
            return self._is_shut and not self._open

    def _look(self, task_id: str) -> None:
        if task_id not in self._open:
            return
        future, wait = self._open[task_id]
        try:
            task = wait.look()
        except Exception as error:  # noqa: BLE001  # deleted, or the store does not answer: who waits must learn of it
            if self._worker_has_stopped and isinstance(error, StoreError):
                return  # closed with its manager; _break, which comes with that, says so
            _fail(future, error)
        else:
            if task is None:
                return
            _settle(future, task)
        wait.leave()
        with self._mutex:  # only now: a process that is forked before knows that the future is open
            del self._open[task_id]

    def _notice(self, event: Event) -> None:
        """Wake the thread when the worker has stopped: it gave up, or somebody shut the manager down."""
        if isinstance(event, WorkerStopped):
            self._worker_has_stopped = True
            self._woken.put(None)

    def _break(self) -> None:
        """Take no more calls, and fail all futures that are not done: nobody runs them here."""
        cause = self._manager.failure
        reason = "its manager was shut down" if cause is None else f"its worker gave up ({cause})"
        stays = "" if self._own_folder is not None else f" They stay in {self._manager.database}."
        error = BrokenExecutor(f"the executor runs no more calls: {reason}.{stays}")
        error.__cause__ = cause
        with self._mutex:
            self._refusal = self._refusal or error
        for task_id in list(self._open):
            self._look(task_id)  # what has finished before keeps its result
        with self._mutex:
            left, self._open = self._open, {}
        for future, wait in left.values():
            wait.leave()
            _fail(future, error)

    def begin_anew_in_forked_child(self) -> None:
        """Take no calls, and fail all futures that are not done: the thread and the worker are the parent's."""
        error = UsageError(
            f"this executor belongs to process {self._pid}, from which this one was forked; make one after the fork"
        )
        self._mutex, self._woken = threading.Lock(), SimpleQueue()
        self._is_shut, self._refusal = True, error
        followed, self._open = self._open, {}
        for future, _ in followed.values():
            future.refuse_in_forked_child(error)

    def _delete_own_folder(self) -> None:
        if self._own_folder is not None:
            shutil.rmtree(self._own_folder, ignore_errors=True)  # what cannot be deleted lies in the temporary folder


def _fail(future: TaskFuture[Any], error: Exception) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)


def _settle(future: TaskFuture[Any], task: BackgroundTask) -> None:
    if task.status is TaskStatus.CANCELLED:
        Future.cancel(future)  # the task is cancelled already, by whomever
        future.set_running_or_notify_cancel()
    elif future.set_running_or_notify_cancel():
        try:
            result = result_of(task)
        except ThirdshiftError as error:
            future.set_exception(error)
        else:
            future.set_result(result)


def _results(futures: list[TaskFuture[T]], deadline: float | None) -> Iterator[T]:
    """Yield the results in their order; whoever stops early, by an error or by choice, cancels what has not begun."""
    try:
        for future in futures:
            yield future.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
    finally:
        for future in futures:
            future.cancel_unless_running()


def call_each(reference: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
    """Call the function *reference* once for each of *calls*: the task of a chunk of :meth:`Executor.map`."""
    function = resolve(reference)
    return [function(*arguments) for arguments in calls]


_executors: "weakref.WeakSet[Executor]" = weakref.WeakSet()


@atexit.register
def _finish() -> None:
    """At the end of the program finish what was taken, as the standard's executors do."""
    for executor in list(_executors):
        executor.shutdown()


def _begin_anew_in_forked_child() -> None:
    executors = list(_executors)
    _executors.clear()
    for executor in executors:
        executor.begin_anew_in_forked_child()


os.register_at_fork(after_in_child=_begin_anew_in_forked_child)
