"""When a schedule fires: once, at an interval, or by a cron expression in a time zone; pure rules.

A fire time is a *nominal* UTC instant. It follows from the rule alone, never from when somebody looked, so that every
process computes the same ones, and (schedule, instant) is the key that makes each of them happen once.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import islice

from thirdshift.core.errors import UsageError
from thirdshift.core.schedule_cron import CronRule, zone_of
from thirdshift.core.words import duration

ON_TIME_S = 60.0
"""A fire time that is come to later than that has been missed; so has one after which another one has passed."""
SHORTEST_INTERVAL_S = 0.1
LONGEST_INTERVAL_S = 366 * 10 * 86_400.0
MOST_MISSED = 100
MOST_QUEUED = 200
"""Unfinished tasks of one schedule; beyond that a fire time makes none, or a task that hangs would pile them up."""
_FIRST_WINDOW = timedelta(hours=1)


class Missed(Enum):
    """What becomes of fire times that passed while nobody could act: the system was down, or its clock was set."""

    RUN_ONCE = "run_once"
    """The last of them makes a task, the others do not."""
    SKIP = "skip"
    """None of them does."""
    ALL = "all"
    """Each makes a task, the newest ``max_missed`` at most."""


class Overlap(Enum):
    """What becomes of a fire time while a task of the same schedule is unfinished. Two never run at once."""

    SKIP = "skip"
    """It makes no task."""
    QUEUE = "queue"
    """Its task waits until that one has finished; :data:`MOST_QUEUED` are unfinished at most."""
    CANCEL_PREVIOUS = "cancel_previous"
    """That one is cancelled, and the new task waits until it has ended."""


class FireKind(Enum):
    """Why a schedule fired."""

    DUE = "due"
    MANUAL = "manual"
    """Somebody asked for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A rule that makes tasks; exactly one of ``cron``, ``every`` and ``at`` says when. Raises ``UsageError``.

    ``Schedule(cron="0 3 * * *", timezone="Europe/Berlin", missed="all", overlap="queue")``
    """

    cron: str | None = None
    """Five fields (minute, hour, day of month, month, day of week) or ``@hourly``, ``@daily``, ``@weekly`` …"""
    every: timedelta | float | None = None
    """A span, or seconds, of real time: clocks that change do not matter to it."""
    at: datetime | None = None
    """Once; a naive moment is local time."""
    timezone: str = "UTC"
    """The zone whose clocks ``cron`` reads, ``Europe/Berlin``."""
    missed: Missed | str = Missed.RUN_ONCE
    """``run_once``, ``skip`` or ``all``: see :class:`Missed`."""
    max_missed: int = 100
    """With ``all``: so many of the newest missed fire times make tasks."""
    overlap: Overlap | str = Overlap.SKIP
    """``skip``, ``queue`` or ``cancel_previous``: see :class:`Overlap`."""
    jitter: timedelta | float = 0.0
    """Each task becomes due up to so much later (a span, or seconds), by an amount that its fire time decides."""

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.cron, self.every, self.at)) != 1:
            raise UsageError("a schedule needs one of cron, every and at, and not two of them")
        put = object.__setattr__  # frozen, so set as the generated constructor does
        zone_of(self.timezone)
        put(self, "missed", _choice("missed", self.missed, Missed))
        put(self, "overlap", _choice("overlap", self.overlap, Overlap))
        put(self, "jitter", _span("jitter", self.jitter, 0.0))
        if self.every is not None:
            put(self, "every", _span("every", self.every, SHORTEST_INTERVAL_S))
        if self.at is not None:
            put(self, "at", self.at.astimezone(UTC))
        if self.cron is not None:
            put(self, "cron", CronRule.of(self.cron, self.timezone).expression)
        if not isinstance(self.max_missed, int) or not 1 <= self.max_missed <= MOST_MISSED:
            raise UsageError(f"max_missed is {self.max_missed}; it must be from 1 to {MOST_MISSED}")

    @property
    def jitter_s(self) -> float:
        """The most that a task becomes due later."""
        return self.jitter.total_seconds() if isinstance(self.jitter, timedelta) else self.jitter

    @property
    def words(self) -> str:
        """The rule as people say it: ``At 03:00 every day, Europe/Berlin time``."""
        if self.cron is not None:
            zone = "UTC" if self.timezone == "UTC" else f"{self.timezone} time"
            return f"{CronRule.of(self.cron, self.timezone).words}, {zone}"
        if isinstance(self.every, timedelta):
            return f"Every {_exactly(self.every)}"
        return f"Once, at {self.at:%Y-%m-%d %H:%M:%S} UTC"

    def after(self, moment: datetime, begun: datetime) -> datetime | None:
        """Return the first fire time after *moment* in UTC; ``None``: there is none any more.

        *begun* is when the schedule was made: intervals are counted from it.
        """
        if self.cron is not None:
            return CronRule.of(self.cron, self.timezone).after(moment)
        if isinstance(self.every, timedelta):
            return begun + ((moment - begun) // self.every + 1) * self.every  # also where the clock was set back
        return self.at if self.at is not None and self.at > moment else None

    def first(self, begun: datetime) -> datetime | None:
        """Return the first fire time of a schedule made at *begun*; a moment that has passed already counts too."""
        return self.at if self.at is not None else self.after(begun, begun)

    def following(self, moment: datetime, begun: datetime) -> Iterator[datetime]:
        """Yield the fire times after *moment*, for as long as there are any."""
        found = self.after(moment, begun)
        while found is not None:
            yield found
            found = self.after(found, begun)

    def preview(self, moment: datetime, begun: datetime, count: int) -> list[datetime]:
        """Return the next *count* fire times after *moment*."""
        return list(islice(self.following(moment, begun), count))

    def last_until(self, now: datetime, since: datetime, begun: datetime, most: int) -> list[datetime]:
        """Return the newest *most* fire times from *since* to *now*, both included, oldest first.

        A long pause is not walked through: only a window before *now* that grows until it holds enough.
        """
        window = _FIRST_WINDOW
        while True:
            start = max(since - timedelta(microseconds=1), now - window)
            found: list[datetime] = []
            for moment in self.following(start, begun):
                if moment > now:
                    break
                found.append(moment)
            if len(found) >= most or start < since:
                return found[-most:]
            window *= 8 if not found else 2

    def delay_s(self, schedule_id: str, nominal: datetime) -> float:
        """Return how much later than *nominal* its task becomes due; the same in every process."""
        if not self.jitter_s:
            return 0.0
        mark = hashlib.blake2b(f"{schedule_id} {nominal.isoformat()}".encode(), digest_size=6).digest()
        return self.jitter_s * int.from_bytes(mark) / 2**48


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a look at a schedule decides."""

    fires: tuple[datetime, ...]
    """The fire times that make tasks, oldest first."""
    next_at: datetime | None
    """The one to come after them."""
    has_missed: bool
    """Whether fire times have passed unused, or make their tasks late."""


def is_late(next_at: datetime | None, now: datetime) -> bool:
    """Return whether a fire time has come and nobody has acted on it for too long."""
    return next_at is not None and (now - next_at).total_seconds() > ON_TIME_S


def plan(schedule: Schedule, *, next_at: datetime, now: datetime, begun: datetime) -> Plan:
    """Decide which fire times from *next_at* to *now* make tasks, by what the schedule says of missed ones."""
    most = schedule.max_missed if schedule.missed is Missed.ALL else 1
    found = schedule.last_until(now, next_at, begun, most)
    is_on_time = bool(found) and (now - found[-1]).total_seconds() <= ON_TIME_S
    fires = found if is_on_time or schedule.missed is not Missed.SKIP else []
    has_missed = found != [next_at] or not is_on_time
    return Plan(fires=tuple(fires), next_at=schedule.after(now, begun), has_missed=has_missed)


def _choice(option: str, value: object, kind: type[Enum]) -> Enum:
    if isinstance(value, kind):
        return value
    for each in kind:
        if each.value == value:
            return each
    raise UsageError(f"{option} is {value!r}; it may be {' or '.join(repr(each.value) for each in kind)}")


def _span(option: str, value: timedelta | float, least_s: float) -> timedelta:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not least_s <= seconds <= LONGEST_INTERVAL_S
    ):
        raise UsageError(f"{option} is {value}; it is in seconds, from {least_s:g} to {LONGEST_INTERVAL_S:.0f}")
    return timedelta(seconds=seconds)


def _exactly(span: timedelta) -> str:
    """Return *span* in the largest unit that tells all of it."""
    seconds = span.total_seconds()
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return unit if count == 1 else f"{count:,} {unit}s"
    return duration(span) if seconds < 1 else f"{seconds:g} seconds"
