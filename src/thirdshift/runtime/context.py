"""What a task function can ask and say while it runs: :func:`current_task`."""

import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import Context, ContextVar
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast, overload

from thirdshift.core.clock import Clock
from thirdshift.core.errors import LostAttempt
from thirdshift.core.plain import plain
from thirdshift.core.task import Fence, Step
from thirdshift.runtime.clock import SystemClock
from thirdshift.runtime.records import Keep, TaskLog, watch_records
from thirdshift.runtime.steps import Steps
from thirdshift.runtime.tail import Tail

if TYPE_CHECKING:
    from thirdshift.runtime.block import CommitBlock

P = ParamSpec("P")
R = TypeVar("R")


class StopReason(Enum):
    """Why an attempt is asked to stop."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    STALLED = "stalled"
    SHUTDOWN = "shutdown"
    BLOCKING = "blocking the event loop"
    """Asked of a coroutine that does not let go; any other reason takes its place."""


class AttemptPlace(Protocol):
    """Where an attempt runs, as its context sees it. Any thread of the attempt may call it."""

    @property
    def clock(self) -> Clock:
        """Return what moments are read from there."""

    def progressed(self, context: "TaskContext", facts: Mapping[str, Any]) -> None:
        """Pass on what the attempt says of its progress."""

    def fence(self, context: "TaskContext") -> Fence | None:
        """Return the attempt's fence; ``None`` when it is over."""

    def committed(self, context: "TaskContext") -> None:
        """Take notice that the attempt has recorded its own end."""

    def steps(self, context: "TaskContext") -> Sequence[Step]:
        """Return the steps that the task has done so far."""

    def keep_step(self, context: "TaskContext", name: str, inputs: str, encoded_result: bytes) -> None:
        """Store a step; it is as durable as its task on return. Raises ``StepNotStored``."""


class TaskContext:
    """One running attempt, seen from inside. All methods may be called from any thread of the function.

    A function that is called directly, outside of a worker, gets a detached context: ``id`` is ``None``, progress goes
    nowhere and nobody asks it to stop. So a task function stays an ordinary callable.
    """

    def __init__(
        self,
        task_id: str | None = None,
        name: str = "",
        attempt: int = 0,
        place: AttemptPlace | None = None,
        *,
        queue: str = "",
        worker: str = "",
        schedule: str | None = None,
        scheduled_for: datetime | None = None,
    ) -> None:
        self.id = task_id
        self.name = name
        self.attempt = attempt
        """The number of this attempt; it grows with every start of the task."""
        self.queue = queue
        self.worker = worker
        """The id of the worker that runs it."""
        self.schedule = schedule
        """The name of the schedule that made this task; ``None``: none did."""
        self.scheduled_for = scheduled_for
        """The fire time that this task was made for, by the rule and in UTC, however late it runs; the same in every
        attempt. Of a run by hand it is the moment of that; ``None`` for a task that no schedule made."""
        self.stop_reason: StopReason | None = None
        """Why the attempt should end soon; ``None`` while it should go on."""
        self.has_progress = False
        """Whether the attempt has reported progress."""
        self.note_life: Callable[[], None] | None = None
        """Told of every sign of life; for runners."""
        self.begin: Callable[[], None] = _nothing
        """Called when the function begins later than its runner, after an import; for runners."""
        self.keep: Keep | None = None if task_id is None else self._keep
        """Takes each log record as text; for runners, which may put another place there."""
        self._place = place
        self._steps: Steps | None = None
        self._records: Tail | None = None

    @property
    def should_stop(self) -> bool:
        """True when the function should end soon: the task was cancelled, ran too long, or the worker is stopping.

        A function that stops early at a shutdown says so by returning ``Snooze()``: it is then run again.
        """
        return self.stop_reason is not None

    @property
    def idempotency_key(self) -> str | None:
        """A key that is the same in every attempt of this task, for services that drop duplicates by key."""
        return self.id

    @property
    def marks(self) -> Mapping[str, Any]:
        """What a log line says of the task, so that lines can be found by it; for runners."""
        return {
            "task_id": self.id,
            "task_name": self.name,
            "attempt": self.attempt,
            "queue": self.queue,
            "worker": self.worker,
        }

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry the task's id, name and attempt.

        From INFO on they are stored with the attempt too, the last 64 KiB of them.
        """
        return TaskLog({"task_id": self.id, "task_name": self.name, "attempt": self.attempt}, self.keep)

    def progress(self, done: float | None = None, total: float | None = None, **facts: Any) -> None:
        """Say how far the work is. Cheap: the worker stores the newest report a few times a second.

        *facts* are JSON-like values that :attr:`BackgroundTask.progress` shows beside ``done`` and ``total``.
        """
        self.has_progress = True
        self.sign_of_life()
        if self._place is None:
            return
        if done is not None:
            facts["done"] = done
        if total is not None:
            facts["total"] = total
        self._place.progressed(self, {name: plain(value) for name, value in facts.items()})

    def step(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return ``function(*args, **kwargs)``, which is called only if no attempt of this task has done that step.

        What it returns is stored under *name* with a hash of the arguments, as durably as the task, before this
        returns: a crash after that does not repeat it. With other arguments it is done again. Give every call in the
        function a name of its own (``f"page {number}"`` in a loop). Values are limited to what results may be. An
        exception stores nothing. Raises ``StepNotStored`` when the store refuses the result. A step counts as progress.
        """
        return cast(R, self._own_steps().run(name, function, args, kwargs))

    @overload
    async def astep(
        self, name: str, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def astep(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def astep(self, name: str, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Do what :meth:`step` does in a coroutine, without holding up the event loop; *function* may be async."""
        return await self._own_steps().arun(name, function, args, kwargs)

    def load_steps(self) -> Sequence[Step]:
        """Return the steps of earlier attempts; for runners."""
        return () if self._place is None or self.attempt <= 1 else self._place.steps(self)

    def keep_step(self, name: str, inputs: str, encoded_result: bytes) -> None:
        """Store a step; for runners."""
        if self._place is not None:
            self._place.keep_step(self, name, inputs, encoded_result)
        self.has_progress = True
        self.sign_of_life()

    def _own_steps(self) -> Steps:
        if self._steps is None:
            self._steps = Steps(None if self.id is None else self)
        return self._steps

    def commit(self, connection: Any) -> "CommitBlock":
        """Record effects and the completion of this task in one transaction: both are there, or neither.

        ::

            with current_task().commit(connection) as done:
                connection.execute("UPDATE account SET balance = balance + ?", [amount])
                done.result = amount

        *connection* is open on the file that holds the tasks: a ``sqlite3.Connection``, or a session, connection or
        engine of SQLAlchemy (with ``async with`` for asynchronous ones). After the block the outcome stands: what the
        function returns is dropped, what it raises is only logged. An exception inside rolls everything back.

        Entering raises :class:`LostAttempt` when the task is no longer this attempt's, or was cancelled; ``StoreBusy``,
        ``WrongDatabase`` and ``ReadSnapshot`` as ``manager.transaction`` does. Outside of a worker the block commits
        the effects alone, on any database.
        """
        from thirdshift.runtime.block import CommitBlock, joined_for  # noqa: PLC0415  # few functions need it

        if self._place is None:
            return CommitBlock(joined_for(None, connection), None, SystemClock(), _nothing)
        fence = self.fence()
        return CommitBlock(joined_for(fence, connection), fence, self._place.clock, self.note_commit)

    def fence(self) -> Fence:
        """Return what the attempt needs to record its own end; for runners. Raises ``LostAttempt`` when it is over."""
        fence = None if self._place is None else self._place.fence(self)
        if fence is None:
            raise LostAttempt(self.id or "", self.attempt, "it is over")
        return fence

    def note_commit(self) -> None:
        """Take notice that the attempt has recorded its own end; for runners."""
        if self._place is not None:
            self._place.committed(self)

    def sign_of_life(self) -> None:
        """Note that the attempt comes forward, for its stall limit; for runners."""
        if self.note_life is not None:
            self.note_life()

    def take_log(self) -> str | None:
        """Return the log records that were kept here, ``None`` when there are none; for runners."""
        return None if self._records is None else self._records.take()

    def _keep(self, line: str) -> None:
        self.sign_of_life()
        if self._records is None:
            self._records = Tail()  # two threads at once may lose a line of one of them: the price of no lock
        self._records.add(line.encode("utf-8", "backslashreplace"))


def _nothing() -> None:
    pass


_current: ContextVar[TaskContext | None] = ContextVar("thirdshift_task", default=None)


def current_task() -> TaskContext:
    """Return the context of the attempt that runs here, or a detached one outside of a worker."""
    return _current.get() or TaskContext()


def keep_records() -> None:
    """From now on keep the log records that attempts write in this process, each with its own attempt; for runners."""
    watch_records(_keeper, _marks)


def _keeper() -> Keep | None:
    context = _current.get()
    return None if context is None else context.keep


def _marks() -> Mapping[str, Any] | None:
    context = _current.get()
    return None if context is None else context.marks


def task_in(context: Context) -> TaskContext | None:
    """Return the attempt that *context* belongs to; for who looks at it from outside."""
    return context.get(_current)


def set_current_task(context: TaskContext | None) -> None:
    """Make *context* the current one of this thread of execution; for runners."""
    _current.set(context)
