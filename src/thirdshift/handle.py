"""What a submit gives back: a typed handle to ask and to wait with; and a submitter that keeps its options."""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from thirdshift.core.dependency import Relatives, ResultOf
from thirdshift.core.errors import TaskFailed, TaskNotFound, UsageError
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import BackgroundTask
from thirdshift.submission import Call, SubmitOptions, calls_of

if TYPE_CHECKING:
    from thirdshift.manager import BackgroundTaskManager

P = ParamSpec("P")
R = TypeVar("R")


class StoresCalls(Protocol):
    """Where calls are submitted: the manager, or a transaction."""

    def submit_calls(self, options: SubmitOptions, func: Callable[..., Any], calls: Sequence[Call]) -> list[str]:
        """Store *calls* of *func*, all or none, and return their ids."""

    async def asubmit_calls(self, options: SubmitOptions, func: Callable[..., Any], calls: Sequence[Call]) -> list[str]:
        """Do what :meth:`submit_calls` does, for coroutines."""


class Submitter:
    """Submits with fixed options; made by :meth:`BackgroundTaskManager.options`."""

    def __init__(
        self, manager: "BackgroundTaskManager", options: SubmitOptions, store: "StoresCalls | None" = None
    ) -> None:
        """*store* is where the tasks are submitted, the manager itself by default."""
        self._manager = manager
        self._options = options
        self._store: StoresCalls = store or manager

    def into(self, store: "StoresCalls") -> "Submitter":
        """Return a submitter with the same options that submits to *store*."""
        return Submitter(self._manager, self._options, store)

    def _inside(self, options: Callable[P, "Submitter"]) -> Callable[P, "Submitter"]:
        """Return *options* of the manager, for what is submitted here."""

        def inside(*args: P.args, **kwargs: P.kwargs) -> Submitter:
            return options(*args, **kwargs).into(self._store)

        return inside

    @overload
    def submit(
        self, func: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> "TaskHandle[R]": ...
    @overload
    def submit(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "TaskHandle[R]": ...
    def submit(self, func: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> "TaskHandle[Any]":
        """Store a call of *func* and return a typed handle of it."""
        return TaskHandle(self._manager, self._store.submit_calls(self._options, func, [(args, kwargs)])[0])

    def submit_many(
        self,
        func: Callable[..., Any],
        args: Iterable[Sequence[Any]],
        *,
        kwargs: Iterable[Mapping[str, Any]] | None = None,
    ) -> list[str]:
        """Store one call of *func* for each tuple of *args*, all in one commit; returns their ids."""
        return self._store.submit_calls(self._options, func, self._calls(args, kwargs))

    @overload
    async def asubmit(
        self, func: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> "TaskHandle[R]": ...
    @overload
    async def asubmit(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "TaskHandle[R]": ...
    async def asubmit(self, func: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> "TaskHandle[Any]":
        """Do what :meth:`submit` does, for coroutines."""
        ids = await self._store.asubmit_calls(self._options, func, [(args, kwargs)])
        return TaskHandle(self._manager, ids[0])

    async def asubmit_many(
        self,
        func: Callable[..., Any],
        args: Iterable[Sequence[Any]],
        *,
        kwargs: Iterable[Mapping[str, Any]] | None = None,
    ) -> list[str]:
        """Do what :meth:`submit_many` does, for coroutines."""
        return await self._store.asubmit_calls(self._options, func, self._calls(args, kwargs))

    def _calls(self, args: Iterable[Sequence[Any]], kwargs: Iterable[Mapping[str, Any]] | None) -> list[Call]:
        if self._options.task_id is not None:
            raise UsageError("task_id names one task; submit_many makes several. Submit them one by one.")
        if self._options.unique_key is not None:
            raise UsageError(
                "unique_key lets one task be; submit_many makes several, and takes no list of keys. Submit them one by "
                "one, each with a key of its own."
            )
        return calls_of(args, kwargs)


class TaskHandle(Generic[R]):
    """One submitted task, to ask about and to wait for. May be used from any thread."""

    def __init__(self, manager: "BackgroundTaskManager", task_id: str) -> None:
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

    @property
    def output(self) -> R:
        """Stands for the result in the arguments of another task, which then waits for this one and gets it.

        ``manager.submit(parse, page.output)``; also inside lists, tuples and dicts. It is no value: give it to a submit
        and to nothing else. Where the other task waits for any outcome of this one, it gets ``None`` for no result.
        """
        return cast(R, ResultOf(self.id))

    @property
    def relatives(self) -> Relatives:
        """What the task waits for or has waited for, and what waits or waited for it."""
        return self._manager.relatives(self.id)

    def wait(self, timeout: float | None = None) -> BackgroundTask:
        """Return the task once it is finished, however it ended.

        Raises :class:`WaitTimeout` after *timeout* seconds.
        """
        return self._manager.wait_for(self.id, timeout)

    def result(self, timeout: float | None = None) -> R:
        """Return what the function returned, waiting for it.

        Raises :class:`TaskFailed` when the task failed or was cancelled, :class:`WaitTimeout` after *timeout* seconds.
        """
        return self._result_of(self.wait(timeout))

    def cancel(self) -> bool:
        """Cancel the task; see :meth:`BackgroundTaskManager.cancel_task`."""
        return self._manager.cancel_task(self.id)

    # For coroutines. Cancelling one that waits leaves the task alone.

    async def afinished(self, timeout: float | None = None) -> BackgroundTask:  # noqa: ASYNC109  # WaitTimeout says more
        """Do what :meth:`wait` does, for coroutines; ``await`` itself is no name."""
        return await self._manager.await_for(self.id, timeout, lambda finished: finished)

    async def aresult(self, timeout: float | None = None) -> R:  # noqa: ASYNC109  # WaitTimeout says more
        """Do what :meth:`result` does, for coroutines."""
        return await self._manager.await_for(self.id, timeout, self._result_of)

    async def acancel(self) -> bool:
        """Do what :meth:`cancel` does, for coroutines."""
        return await self._manager.acancel_task(self.id)

    def _result_of(self, finished: BackgroundTask) -> R:
        result: R = result_of(finished)
        return result


def result_of(finished: BackgroundTask) -> Any:
    """Return what the function of a *finished* task returned. Raises :class:`TaskFailed`."""
    if finished.status is not TaskStatus.COMPLETED:
        error = finished.error
        parent = finished.cancelled_by
        never = "it never ran" if parent is None else f"it needed task {parent}, which failed or was cancelled"
        raise TaskFailed(
            finished.id,
            finished.status.value if error is None else error.type,
            never if error is None else error.message,
            None if error is None else error.traceback,
        )
    return finished.result
