"""Schedules as they are kept: the contract of whoever stores them, and the values that pass through it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

from thirdshift.core.errors import UsageError
from thirdshift.core.schedule import FireKind, Schedule
from thirdshift.core.task import TaskId, TaskSpec

FROM_CALLS = "call"
"""The source of schedules that are made by a call or a command; nobody takes them back but by another one."""
FROM_CODE = "code"
"""The source of schedules that functions declare."""

_TIMES = ("cron", "every", "at", "timezone")


@dataclass(frozen=True, kw_only=True, slots=True)
class NewSchedule:
    """What somebody wants to be scheduled. There is one schedule of a name; another one of it takes its place."""

    name: str
    schedule: Schedule
    task: TaskSpec
    """All about its tasks but their call."""
    arguments: bytes
    source: str = FROM_CALLS
    id: str = field(default_factory=lambda: uuid4().hex)
    """The schedule's, where there is none of that name yet; one that takes another's place keeps its id."""


class Fire(NamedTuple):
    """A fire time that has come."""

    schedule: str
    """The schedule's id."""
    name: str
    nominal: datetime
    """When it was due, by the rule."""
    kind: FireKind
    at: datetime
    """When it was acted on."""
    task: TaskId | None
    """The task that it made; ``None``: none, because another one of the schedule was unfinished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleState:
    """One schedule as it stands."""

    id: str
    name: str
    rule: Mapping[str, Any]
    """As it is stored; :attr:`schedule` is what it means."""
    task: TaskSpec
    arguments: bytes = field(repr=False)
    source: str
    begun_at: datetime
    next_at: datetime | None
    """The next fire time; ``None``: paused, ended, or there is none any more."""
    paused_at: datetime | None
    ended_at: datetime | None
    """When somebody ended it."""
    last: Fire | None
    """The newest fire."""

    @property
    def schedule(self) -> Schedule:
        """The rule; raises ``UsageError`` where this machine does not know its time zone."""
        return schedule_of_rule(self.rule)

    @property
    def words(self) -> str:
        """The rule as people say it, also where it cannot be used."""
        try:
            return self.schedule.words
        except UsageError as error:
            return f"not usable here: {error}"

    @property
    def state(self) -> str:
        """``active``, ``paused``, ``ended``, or ``over`` when no fire time is left."""
        if self.ended_at is not None:
            return "ended"
        if self.paused_at is not None:
            return "paused"
        return "over" if self.next_at is None else "active"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """What a look at all schedules has led to."""

    fires: Sequence[Fire] = ()
    next_at: datetime | None = None
    """When the next one is due; ``None``: no schedule is active."""
    missed: Sequence[str] = ()
    """Names of schedules of which fire times were missed, and dealt with as their policy says."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Names of schedules whose rule cannot be used here, and why; they wait for a process that can."""


class ScheduleStore(Protocol):
    """Where schedules live. All methods may be called from any thread and any process."""

    def put(self, new: NewSchedule) -> ScheduleState:
        """Store *new*, in place of the one of that name. The same definition again changes nothing.

        A new rule counts from now; a pause stays.
        """

    def keep_only(self, source: str, names: Collection[str]) -> Sequence[str]:
        """Delete the schedules of *source* that are not among *names*; returns their names."""

    def find(self, which: str) -> ScheduleState | None:
        """Return the schedule with that id or name."""

    def all(self) -> Sequence[ScheduleState]:
        """Return every schedule, by name."""

    def fires(self, schedule_id: str, limit: int) -> Sequence[Fire]:
        """Return its newest fires, newest first. Those that are older than two days may be gone."""

    def set_paused(self, schedule_id: str, paused: bool) -> bool:
        """Pause or resume it; returns whether that changed anything. What was due meanwhile is not made up for."""

    def end(self, schedule_id: str) -> bool:
        """Let it make no more tasks; False when it did not any more. The tasks that it made go on."""

    def delete(self, schedule_id: str) -> bool:
        """Delete it with the list of its fires; its tasks go on. False for an unknown one."""

    def run_now(self, schedule_id: str) -> Fire | None:
        """Fire once more, now, by the rule for overlaps; ``None`` for an unknown one."""

    def tick(self) -> Tick:
        """Make the tasks of all fire times that have come. Any number of processes may; each makes a task once."""

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* after schedules were changed, in this or another process; returns what ends it."""


def rule_of(schedule: Schedule) -> dict[str, Any]:
    """Return *schedule* as JSON-ready data."""
    every, jitter, at = schedule.every, schedule.jitter_s, schedule.at
    return {
        "cron": schedule.cron,
        "every": every.total_seconds() if isinstance(every, timedelta) else every,
        "at": None if at is None else at.isoformat(),
        "timezone": schedule.timezone,
        "missed": getattr(schedule.missed, "value", schedule.missed),
        "max_missed": schedule.max_missed,
        "overlap": getattr(schedule.overlap, "value", schedule.overlap),
        "jitter": jitter,
    }


def schedule_of_rule(rule: Mapping[str, Any]) -> Schedule:
    """Return what :func:`rule_of` was made of; raises ``UsageError`` where it cannot be used."""
    at = rule["at"]
    return Schedule(**{**rule, "at": None if at is None else datetime.fromisoformat(at)})


def has_same_times(rule: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two rules have the same fire times."""
    return all(rule[key] == other[key] for key in _TIMES)
