"""From how a function ended to what becomes of its task: one pure decision.

A function steers with its return value: :class:`Retry`, :class:`Snooze` and :class:`Cancel` are values, not exceptions,
because nothing failed.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from thirdshift.core.errors import UsageError
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import AttemptOutcome, Claim, TaskError

LONGEST_WAIT_S = 10 * 366 * 86_400.0
"""The longest wait that a function may ask for: ten years."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a pool says about one attempt that ended, before anything is decided or stored."""

    claim: Claim
    outcome: AttemptOutcome
    started_at: datetime | None
    finished_at: datetime
    encoded_result: bytes | None = None
    error: TaskError | None = None
    after_s: float | None = None
    """The wait a :class:`Retry` or :class:`Snooze` asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """One attempt's end, ready to be recorded: the new status of the task, and the attempt's row."""

    report: Report
    status: TaskStatus
    due_at: datetime | None = None
    """When the task is next due, where its end moved that."""


def settle(report: Report, backoff_s: float) -> Settlement:
    """Decide what becomes of the task. *backoff_s* is the wait that its retry policy asks for after this failure."""
    match report.outcome:
        case AttemptOutcome.COMPLETED:
            return Settlement(report=report, status=TaskStatus.COMPLETED)
        case AttemptOutcome.CANCELLED:
            return Settlement(report=report, status=TaskStatus.CANCELLED)
        case AttemptOutcome.INTERRUPTED:
            return Settlement(report=report, status=TaskStatus.PENDING)
        case AttemptOutcome.SNOOZED:
            return _later(report, TaskStatus.SCHEDULED, report.after_s or 0.0)
        case AttemptOutcome.FAILED | AttemptOutcome.TIMED_OUT:
            if report.claim.failures >= report.claim.max_retries:
                return Settlement(report=report, status=TaskStatus.FAILED)
            return _later(report, TaskStatus.RETRYING, backoff_s if report.after_s is None else report.after_s)


def _check_wait(what: str, seconds: float) -> None:
    """Refuse what would only fail in the worker, where it would be everybody's problem."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds) or not 0 <= seconds <= LONGEST_WAIT_S:
        raise UsageError(f"{what} was given {seconds!r}; it is in seconds, from 0 to {LONGEST_WAIT_S:.0f}")


def _later(report: Report, status: TaskStatus, wait_s: float) -> Settlement:
    if wait_s <= 0:
        status = TaskStatus.PENDING
    return Settlement(report=report, status=status, due_at=report.finished_at + timedelta(seconds=wait_s))
