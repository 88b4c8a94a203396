"""Cron expressions in a time zone. The calendar is the library ``cronsim``'s, the rule for changing clocks is ours.

``cronsim`` is asked on a calendar without zones: what it returns is a reading of a clock on the wall. Which instants
show that reading is decided here, by the rule of Debian's cron (docs/schedules.md has the table):

* Where minute or hour begins with a star the job follows the clock: a reading that is skipped does not happen, one that
  is repeated happens twice.
* Any other job happens once a day that it is meant for: right after the gap when its reading is skipped, at the first
  of two when it is repeated.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from thirdshift.core.errors import UsageError

_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_LONGEST = 200
_STRIDE = timedelta(hours=12)
"""Shorter than the time between any two changes of a zone's offset."""
_SECOND = timedelta(seconds=1)


@lru_cache(maxsize=256)
def zone_of(name: str) -> ZoneInfo:
    """Return the time zone; raises ``UsageError`` for one that this machine does not know."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError, TypeError) as error:  # also a folder of zones, or no text at all
        raise UsageError(
            f"timezone is {name!r}, which this machine does not know; write it like 'Europe/Berlin' or 'UTC' (where "
            "the system has no zones at all: pip install tzdata)"
        ) from error


@dataclass(frozen=True, slots=True)
class CronRule:
    """One expression in one zone; make it by :meth:`of`."""

    expression: str
    zone: ZoneInfo
    words: str
    """The expression as people say it."""
    follows_the_clock: bool

    @staticmethod
    @lru_cache(maxsize=1024)
    def of(expression: str, timezone: str) -> "CronRule":
        """Return the rule; raises ``UsageError`` for what is no expression, or one that never matches."""
        zone = zone_of(timezone)
        text = _NICKNAMES.get(expression.strip().lower(), " ".join(expression.split()))
        if len(text) > _LONGEST or len(text.split()) != 5:
            raise _refused(expression, "it must have five fields: minute, hour, day of month, month, day of week")
        try:
            parsed = CronSim(text, datetime(2024, 1, 1))  # noqa: DTZ001  # a calendar without zones
            words = parsed.explain()
            next(parsed)
        except CronSimError as error:
            raise _refused(expression, f"{error}".lower()) from error
        except (StopIteration, ValueError, IndexError, AssertionError, OverflowError) as error:
            raise _refused(expression, "no day ever matches it") from error
        minute, hour, *_ = text.split()
        return CronRule(text, zone, words, minute.startswith("*") or hour.startswith("*"))

    def after(self, moment: datetime) -> datetime | None:
        """Return the first instant after *moment* in UTC; ``None`` where the calendar ends."""
        moment = moment.astimezone(UTC)
        if self.zone.key == "UTC":
            found = next(self._readings(_reading(moment, self.zone)), None)
            return None if found is None else found.replace(tzinfo=UTC)
        return self._following_the_clock(moment) if self.follows_the_clock else self._once_a_day(moment)

    def _once_a_day(self, moment: datetime) -> datetime | None:
        for reading in self._readings(_reading(moment, self.zone)):
            instant = self._instant_of(reading)
            if instant > moment:  # in a repeated hour the first of two may have passed
                return instant
        return None

    def _instant_of(self, reading: datetime) -> datetime:
        """Return the first instant that shows *reading*, or the end of the gap that swallows it."""
        instant = reading.replace(tzinfo=self.zone, fold=0).astimezone(UTC)
        if _reading(instant, self.zone) == reading:
            return instant
        before = reading.replace(tzinfo=self.zone, fold=1).astimezone(UTC)
        return self._change_between(before, instant)

    def _following_the_clock(self, moment: datetime) -> datetime | None:
        """Walk from one change of the offset to the next: between two of them the clock is an ordinary one."""
        start = moment
        while True:
            offset = _offset(start, self.zone)
            reading = next(self._readings(start.replace(tzinfo=None) + offset), None)
            if reading is None:
                return None
            instant = (reading - offset).replace(tzinfo=UTC)
            change = self._first_change(start, instant)
            if change is None:
                return instant
            offset = _offset(change, self.zone)
            if self._matches(change.replace(tzinfo=None) + offset):
                return change
            start = change

    def _matches(self, reading: datetime) -> bool:
        return next(self._readings(reading - _SECOND), None) == reading

    def _readings(self, after: datetime) -> Iterator[datetime]:
        """Yield the readings of the clock after *after* that the expression means."""
        walk = CronSim(self.expression, after)
        while True:
            try:
                yield next(walk)
            except (StopIteration, OverflowError, ValueError):
                return

    def _first_change(self, start: datetime, end: datetime) -> datetime | None:
        """Return the first instant after *start*, and not after *end*, at which the zone's offset has changed."""
        low, offset = start, _offset(start, self.zone)
        while low < end:
            high = min(low + _STRIDE, end)
            if _offset(high, self.zone) != offset:
                return self._change_between(low, high)
            low = high
        return None

    def _change_between(self, low: datetime, high: datetime) -> datetime:
        """Return the instant of the change of offset that lies after *low* and not after *high*."""
        offset = _offset(low, self.zone)
        low, high = low.replace(microsecond=0), high.replace(microsecond=0)
        while high - low > _SECOND:
            middle = low + (high - low) // 2
            middle = middle.replace(microsecond=0)
            if _offset(middle, self.zone) == offset:
                low = middle
            else:
                high = middle
        return high


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta(0)


def _reading(instant: datetime, zone: ZoneInfo) -> datetime:
    """Return what a clock on the wall shows."""
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def _refused(expression: str, why: str) -> UsageError:
    return UsageError(f"cron is {expression!r}: {why}; such as '30 3 * * 1-5', at 03:30 on weekdays")
