"""From how a function ended to what becomes of its task: one pure decision.

A function steers with its return value: :class:`Retry`, :class:`Snooze` and :class:`Cancel` are values, not exceptions,
because nothing failed.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from thirdshift.core.errors import UsageError
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import AttemptOutcome, Claim, TaskError

LONGEST_WAIT_S = 10 * 366 * 86_400.0
"""The longest wait that a function may ask for: ten years."""

MOST_CRASHES = 3
"""A task whose worker died this often while it ran, each time without progress, fails: it may be what kills them."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Return it from a task function to fail this attempt and try again ``after`` seconds (default: the backoff).

    Uses up a retry.
    """

    after: float | None = None

    def __post_init__(self) -> None:
        if self.after is not None:
            _check_wait("Retry(after=…)", self.after)


@dataclass(frozen=True, slots=True)
class Snooze:
    """Return it from a task function to be run again after ``seconds``. Uses up no retry."""

    seconds: float = 0.0

    def __post_init__(self) -> None:
        _check_wait("Snooze(seconds=…)", self.seconds)


@dataclass(frozen=True, slots=True)
class Cancel:
    """Return it from a task function to end its task as cancelled, for ``reason``."""

    reason: str = ""


class Ending(NamedTuple):
    """How one attempt ended, before anything is decided or stored. ``started_at`` is ``None`` when nobody knows."""

    outcome: AttemptOutcome
    started_at: datetime | None
    finished_at: datetime
    encoded_result: bytes | None = None
    error: TaskError | None = None
    after_s: float | None = None
    """The wait a :class:`Retry` or :class:`Snooze` asked for."""


class Settlement(NamedTuple):
    """One attempt's end, ready to be recorded: the attempt's row and the new status of its task."""

    claim: Claim
    ending: Ending
    status: TaskStatus
    due_at: datetime | None = None
    """When the task is next due, where its end moved that."""


def settle(claim: Claim, ending: Ending, backoff_s: float) -> Settlement:
    """Decide what becomes of the task. *backoff_s* is the wait that its retry policy asks for after this failure."""
    match ending.outcome:
        case AttemptOutcome.COMPLETED:
            return Settlement(claim, ending, TaskStatus.COMPLETED)
        case AttemptOutcome.CANCELLED:
            return Settlement(claim, ending, TaskStatus.CANCELLED)
        case AttemptOutcome.INTERRUPTED:
            return Settlement(claim, ending, TaskStatus.PENDING)
        case AttemptOutcome.SNOOZED:
            return _later(claim, ending, TaskStatus.SCHEDULED, ending.after_s or 0.0)
        case AttemptOutcome.FAILED | AttemptOutcome.TIMED_OUT:
            if claim.failures >= claim.max_retries:
                return Settlement(claim, ending, TaskStatus.FAILED)
            return _later(claim, ending, TaskStatus.RETRYING, backoff_s if ending.after_s is None else ending.after_s)


def _check_wait(what: str, seconds: float) -> None:
    """Refuse what would only fail in the worker, where it would be everybody's problem."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds) or not 0 <= seconds <= LONGEST_WAIT_S:
        raise UsageError(f"{what} was given {seconds!r}; it is in seconds, from 0 to {LONGEST_WAIT_S:.0f}")


def _later(claim: Claim, ending: Ending, status: TaskStatus, wait_s: float) -> Settlement:
    if wait_s <= 0:
        status = TaskStatus.PENDING
    return Settlement(claim, ending, status, ending.finished_at + timedelta(seconds=wait_s))
