"""From how a function ended to what becomes of its task: one pure decision.

A function steers with its return value: :class:`Retry`, :class:`Snooze` and :class:`Cancel` are values, not exceptions,
because nothing failed.
"""

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from thirdshift.core.errors import UsageError
from thirdshift.core.retry import RetryPolicy
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import AttemptOutcome, Claim, TaskError, Traces

LONGEST_WAIT_S = 10 * 366 * 86_400.0
"""The longest wait that a function may ask for: ten years."""

MOST_CRASHES = 3
"""A task fails when this many starts in a row, each without progress, ended with the death of their process. The
last of them has a process of its own, so that no task fails for what its neighbour did."""

MOST_WORKER_DEATHS = 10
"""A task fails when this many starts in a row, each without progress, ended with the death of the whole worker. That is
the task's doing or that of somebody who kills workers: so many do not come by chance."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Return it from a task function to fail this attempt and try again ``after`` seconds (default: the backoff).

    Uses up a retry.
    """

    after: float | None = None

    def __post_init__(self) -> None:
        if self.after is not None:
            check_wait("Retry(after=…)", self.after)


@dataclass(frozen=True, slots=True)
class Snooze:
    """Return it from a task function to be run again after ``seconds``. Uses up no retry."""

    seconds: float = 0.0

    def __post_init__(self) -> None:
        check_wait("Snooze(seconds=…)", self.seconds)


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
    has_progress: bool | None = None
    """Set when the process died that ran it: had the attempt reported progress by then?"""
    traces: Traces | None = None
    """What it used and wrote, as far as anybody knows."""
    is_final: bool = False
    """The function's declaration says that another attempt is pointless."""
    backoff: RetryPolicy | None = None
    """The declared wait before the next attempt, of one that failed."""
    is_unknown: bool = False
    """The function could not be found here, so this was no attempt: others may find it. ``error`` says how."""


class Settlement(NamedTuple):
    """One attempt's end, ready to be recorded: the attempt's row and the new status of its task."""

    claim: Claim
    ending: Ending
    status: TaskStatus
    due_at: datetime | None = None
    """When the task is next due, where its end moved that."""
    crashes: int | None = 0
    """The task's new count of crashes; ``None`` leaves it as it is."""


def settle(claim: Claim, ending: Ending, backoff_s: float) -> Settlement:
    """Decide what becomes of the task. *backoff_s* is the wait that its retry policy asks for after this failure."""
    match ending.outcome:
        case AttemptOutcome.COMPLETED:
            return Settlement(claim, ending, TaskStatus.COMPLETED)
        case AttemptOutcome.CANCELLED:
            return Settlement(claim, ending, TaskStatus.CANCELLED)
        case AttemptOutcome.INTERRUPTED if ending.has_progress is None:
            return Settlement(claim, ending, TaskStatus.PENDING, crashes=None)
        case AttemptOutcome.INTERRUPTED:
            return _crashed(claim, ending, bool(ending.has_progress))
        case AttemptOutcome.SNOOZED:
            return _later(claim, ending, TaskStatus.SCHEDULED, ending.after_s or 0.0)
        case AttemptOutcome.FAILED | AttemptOutcome.TIMED_OUT:
            if ending.is_final or claim.failures >= claim.max_retries:
                return Settlement(claim, ending, TaskStatus.FAILED)
            return _later(claim, ending, TaskStatus.RETRYING, backoff_s if ending.after_s is None else ending.after_s)


def is_suspect(crashes: int) -> bool:
    """Return whether the next start may be the last one, and must not take neighbours with it."""
    return crashes >= MOST_CRASHES - 1


def crashes_after(crashes: int, *, has_progress: bool) -> int:
    """Return the count of crashes after one more; progress makes it start anew."""
    return 0 if has_progress else crashes + 1


def counted(death: TaskError, crashes: int) -> TaskError:
    """Return *death* with the count of crashes."""
    if not crashes:
        return death
    return replace(death, message=f"{death.message} (crash {crashes} in a row)")


def _crashed(claim: Claim, ending: Ending, has_progress: bool) -> Settlement:
    crashes = crashes_after(claim.crashes, has_progress=has_progress)
    ending = ending._replace(error=ending.error and counted(ending.error, crashes))
    if crashes < MOST_CRASHES:
        return Settlement(claim, ending, TaskStatus.PENDING, crashes=crashes)
    return Settlement(claim, ending._replace(outcome=AttemptOutcome.FAILED), TaskStatus.FAILED, crashes=crashes)


def check_wait(what: str, seconds: float) -> None:
    """Refuse, as ``UsageError``, what would only fail in the worker, where it would be everybody's problem."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds) or not 0 <= seconds <= LONGEST_WAIT_S:
        raise UsageError(f"{what} was given {seconds!r}; it is in seconds, from 0 to {LONGEST_WAIT_S:.0f}")


def _later(claim: Claim, ending: Ending, status: TaskStatus, wait_s: float) -> Settlement:
    if wait_s <= 0:
        status = TaskStatus.PENDING
    return Settlement(claim, ending, status, ending.finished_at + timedelta(seconds=wait_s))
