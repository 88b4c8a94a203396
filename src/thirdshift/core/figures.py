"""Figures of ended attempts, as values that add up: the figures of an hour are the sum of those of its minutes.

Times are counted in microseconds. A :class:`Histogram` has sixteen buckets for each power of two, so that a percentile
is at most 1/32 (3.2 %) off, however many attempts it speaks of, and however they were added up.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from thirdshift.core.task import AttemptOutcome, TaskId

_PARTS = 16
RELATIVE_ERROR = 1 / (2 * _PARTS)
"""How far a percentile may be off, of the true one."""
OTHERS = "(others)"
"""The name and queue of what came after so many different ones that no more are told apart."""
_EXECUTIONS = (AttemptOutcome.COMPLETED, AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT)


def bucket_of(value_us: int) -> int:
    """Return the number of the bucket that *value_us* falls into; the schema's ``figure_bucket`` says the same."""
    shift = max(0, value_us.bit_length() - _PARTS.bit_length())
    return (value_us >> shift) + _PARTS * shift


def lowest_of(bucket: int) -> int:
    """Return the least value, in microseconds, that falls into *bucket*."""
    if bucket < 2 * _PARTS:
        return bucket
    return (_PARTS + bucket % _PARTS) << (bucket // _PARTS - 1)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often values fell into each bucket."""

    counts: Mapping[int, int] = field(default_factory=dict)

    def __add__(self, other: "Histogram") -> "Histogram":
        counts = dict(self.counts)
        for bucket, count in other.counts.items():
            counts[bucket] = counts.get(bucket, 0) + count
        return Histogram(counts)

    @property
    def total(self) -> int:
        """How many values there are."""
        return sum(self.counts.values())

    def percentile_s(self, percent: float) -> float | None:
        """Return the value, in seconds, that *percent* of all values do not exceed; ``None`` when there are none."""
        rank = max(1, -(-self.total * percent // 100))
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return (lowest_of(bucket) + lowest_of(bucket + 1) - 1) / 2e6
        return None

    def count_below(self, limit_s: float) -> int:
        """Return how many values lie in buckets that end at *limit_s* or below."""
        limit_us = round(limit_s * 1e6)
        return sum(count for bucket, count in self.counts.items() if lowest_of(bucket + 1) - 1 <= limit_us)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """How attempts ended and how long they took. An execution is one that came to an end of its own: completed, failed
    or timed out; the others were cancelled, interrupted, or asked to be run later."""

    outcomes: Mapping[AttemptOutcome, int] = field(default_factory=dict)
    given_up: int = 0
    """Executions after which their task had failed for good."""
    run_us: int = 0
    """All run times of executions together."""
    longest_us: int = 0
    run_times: Histogram = Histogram()
    """Of executions."""
    queue_us: int = 0
    queue_times: Histogram = Histogram()
    """From the moment at which a task could have started to its start, of all attempts whose start is known."""

    def __add__(self, other: "Figures") -> "Figures":
        outcomes = dict(self.outcomes)
        for outcome, count in other.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
        return Figures(
            outcomes=outcomes,
            given_up=self.given_up + other.given_up,
            run_us=self.run_us + other.run_us,
            longest_us=max(self.longest_us, other.longest_us),
            run_times=self.run_times + other.run_times,
            queue_us=self.queue_us + other.queue_us,
            queue_times=self.queue_times + other.queue_times,
        )

    def count(self, *outcomes: AttemptOutcome) -> int:
        """Return how many attempts ended in one of these ways."""
        return sum(self.outcomes.get(outcome, 0) for outcome in outcomes)

    @property
    def attempts(self) -> int:
        """All attempts that ended."""
        return sum(self.outcomes.values())

    @property
    def executions(self) -> int:
        """Attempts that came to an end of their own."""
        return self.count(*_EXECUTIONS)

    @property
    def successes(self) -> int:
        """Attempts that completed their task."""
        return self.count(AttemptOutcome.COMPLETED)

    @property
    def failures(self) -> int:
        """Executions that failed or ran too long."""
        return self.executions - self.successes

    @property
    def error_rate(self) -> float | None:
        """The share of executions that failed; ``None`` when there were none."""
        return self.failures / self.executions if self.executions else None

    @property
    def average_run_s(self) -> float | None:
        """The average run time of executions."""
        total = self.run_times.total
        return self.run_us / total / 1e6 if total else None

    @property
    def average_queue_s(self) -> float | None:
        """The average time that tasks waited for their start."""
        total = self.queue_times.total
        return self.queue_us / total / 1e6 if total else None


class Span(Enum):
    """How much time one :class:`Bucket` covers; the value is in seconds."""

    EVER = 0
    """All time since figures are kept."""
    MINUTE = 60
    """Kept for 8 hours, for each worker apart."""
    HOUR = 3600
    """Kept for 90 days, for all workers together."""

    @property
    def kept_s(self) -> int | None:
        """How long such buckets are kept; ``None``: for ever."""
        return _KEPT_S[self]


_KEPT_S: Mapping[Span, int | None] = {Span.EVER: None, Span.MINUTE: 8 * 3600, Span.HOUR: 90 * 86_400}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """The figures of one stretch of time, task name and queue, of minutes also of one worker."""

    span: Span
    started_at: datetime | None
    """The stretch begins there; ``None``: it is all time."""
    name: str
    queue: str
    worker: str | None
    figures: Figures


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """One ended attempt in detail."""

    task_id: TaskId
    name: str
    queue: str
    worker: str
    attempt: int
    outcome: AttemptOutcome
    finished_at: datetime
    run_s: float | None
    """``None``: not measured."""
    queue_s: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueLoad:
    """What stands in one queue at this moment."""

    queue: str
    waiting: int
    """Tasks that could start now."""
    later: int
    """Tasks that are due later, or wait for others."""
    running: int
    oldest_due_at: datetime | None
    """Since when the oldest of those waits that could start; ``None``: none does."""
    is_paused: bool


def total(buckets: Iterable[Bucket]) -> Figures:
    """Return the figures of all *buckets* together."""
    figures = Figures()
    for bucket in buckets:
        figures += bucket.figures
    return figures
