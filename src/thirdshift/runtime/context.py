"""What a task function can ask and say while it runs: :func:`current_task`."""

import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from enum import Enum
from typing import Any

from thirdshift.core.plain import plain

_logger = logging.getLogger("thirdshift.task")


class StopReason(Enum):
    """Why an attempt is asked to stop."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    SHUTDOWN = "shutdown"


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
        send_progress: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.id = task_id
        self.name = name
        self.attempt = attempt
        """The number of this attempt; it grows with every start of the task."""
        self.stop_reason: StopReason | None = None
        """Why the attempt should end soon; ``None`` while it should go on."""
        self.has_progress = False
        """Whether the attempt has reported progress."""
        self._send_progress = send_progress

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
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry the task's id, name and attempt."""
        return logging.LoggerAdapter(_logger, {"task_id": self.id, "task_name": self.name, "attempt": self.attempt})

    def progress(self, done: float | None = None, total: float | None = None, **facts: Any) -> None:
        """Say how far the work is. Cheap: the worker stores the newest report a few times a second.

        *facts* are JSON-like values that :attr:`BackgroundTask.progress` shows beside ``done`` and ``total``.
        """
        self.has_progress = True
        if self._send_progress is None:
            return
        if done is not None:
            facts["done"] = done
        if total is not None:
            facts["total"] = total
        self._send_progress({name: plain(value) for name, value in facts.items()})


_current: ContextVar[TaskContext | None] = ContextVar("thirdshift_task", default=None)


def current_task() -> TaskContext:
    """Return the context of the attempt that runs here, or a detached one outside of a worker."""
    return _current.get() or TaskContext()


def set_current_task(context: TaskContext | None) -> None:
    """Make *context* the current one of this thread of execution; for runners."""
    _current.set(context)
