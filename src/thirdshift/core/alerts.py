"""Alerts as values: rules, what they find, and the one decision of when an alert fires and clears.

An alert is an episode: it fires once, when its trouble has lasted for the rule's hold time, and clears once, when the
trouble has been gone for its quiet time. Between the two the trouble may come and go.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from thirdshift.core.errors import UsageError


class AlertKind(Enum):
    """What a rule looks at; each member names its subject, its value and threshold."""

    ERROR_RATE = "error_rate"
    """Of a task's name: the share of its executions in the window that failed, above the threshold."""
    AVG_EXECUTION_TIME = "avg_execution_time"
    """Of a task's name: the average run time of its executions in the window, in seconds, above the threshold."""
    QUEUE_LATENCY = "queue_latency"
    """Of a queue that is not paused: the age of its oldest runnable task, in seconds, above the threshold."""
    LATE_SCHEDULE = "late_schedule"
    """Of a schedule: seconds since a fire time that nobody has acted on, above the threshold."""
    LOST_WORKER = "lost_worker"
    """Of a worker: it died in the window. The value is how many tasks it held."""
    DISK_FREE = "disk_free"
    """Of the database's disk: the free bytes, below the threshold."""
    STUCK_PROGRESS = "stuck_progress"
    """Of a running task that has reported progress: seconds since the last report, above the threshold."""


_DEFAULTS: Mapping[AlertKind, float] = {
    AlertKind.ERROR_RATE: 0.1,
    AlertKind.AVG_EXECUTION_TIME: 300.0,
    AlertKind.QUEUE_LATENCY: 300.0,
    AlertKind.LATE_SCHEDULE: 60.0,
    AlertKind.LOST_WORKER: 0.0,
    AlertKind.DISK_FREE: 200e6,
    AlertKind.STUCK_PROGRESS: 600.0,
}


_MOST = 8 * 3600
"""Seconds: for so long minutes are told apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertRule:
    """When to raise an alert of one kind. Times are in seconds."""

    kind: AlertKind
    threshold: float | None = None
    """``None``: the default of the kind."""
    window_s: float = 600.0
    """How far back rates and averages, and the deaths of workers, are looked at; in whole minutes."""
    hold_s: float = 0.0
    """How long the trouble must last before the alert fires."""
    quiet_s: float = 60.0
    """How long it must be gone before the alert clears."""
    least_executions: int = 5
    """Fewer executions in the window say nothing of an error rate."""

    def __post_init__(self) -> None:
        for name in ("window_s", "hold_s", "quiet_s", "least_executions"):
            if not 0 <= getattr(self, name) <= 8 * 3600:
                raise UsageError(
                    f"{name} of the rule {self.kind.value} is {getattr(self, name)}; it must be 0 to 28800"
                )

    @property
    def limit(self) -> float:
        """The threshold that holds."""
        return _DEFAULTS[self.kind] if self.threshold is None else self.threshold


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """What a rule has found at one moment."""

    rule: AlertRule
    subject: str
    value: float
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """One episode. It is held back while ``fired_at`` is ``None``, active until ``cleared_at``."""

    id: int | None
    """``None``: not stored yet."""
    kind: AlertKind
    subject: str
    value: float
    """The last one that was too much."""
    threshold: float
    facts: Mapping[str, Any]
    hold_s: float
    quiet_s: float
    since: datetime
    fired_at: datetime | None = None
    quiet_since: datetime | None = None
    cleared_at: datetime | None = None

    @property
    def is_active(self) -> bool:
        """Whether it has fired and not cleared."""
        return self.fired_at is not None and self.cleared_at is None


class ChangeKind(Enum):
    """What is told of an alert, each once."""

    FIRED = "fired"
    CLEARED = "cleared"


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertChange:
    """One of the two moments of an alert's life that people hear of; ``number`` grows with the order of changes."""

    number: int
    kind: ChangeKind
    alert: Alert


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertStep:
    """What becomes of one alert now; ``None`` as ``change``: nobody hears of it."""

    alert: Alert
    change: ChangeKind | None = None
    is_dropped: bool = False
    """It never fired, and its trouble is gone."""


def steps(opened: Sequence[Alert], troubles: Sequence[Trouble], now: datetime) -> list[AlertStep]:
    """Decide what becomes of the *opened* alerts and of the *troubles* that were found now; leaves out what stays."""
    found = {(trouble.rule.kind, trouble.subject): trouble for trouble in troubles}
    known = {(alert.kind, alert.subject): alert for alert in opened}
    taken = [_met(known.get(key), trouble, now) for key, trouble in found.items()]
    taken += [_gone(alert, now) for key, alert in known.items() if key not in found]
    return [step for step in taken if step.change or step.is_dropped or step.alert != known.get(_key(step.alert))]


def _key(alert: Alert) -> tuple[AlertKind, str]:
    return alert.kind, alert.subject


def _met(alert: Alert | None, trouble: Trouble, now: datetime) -> AlertStep:
    """Return what becomes of the alert whose trouble is there."""
    rule = trouble.rule
    if alert is None:
        alert = Alert(
            id=None,
            kind=rule.kind,
            subject=trouble.subject,
            value=trouble.value,
            threshold=rule.limit,
            facts=trouble.facts,
            hold_s=rule.hold_s,
            quiet_s=rule.quiet_s,
            since=now,
        )
    if alert.fired_at is not None:  # what it was fired for stays
        return AlertStep(alert=replace(alert, quiet_since=None))
    if now - alert.since >= timedelta(seconds=rule.hold_s):
        fired = replace(alert, fired_at=now, value=trouble.value, facts=trouble.facts)
        return AlertStep(alert=fired, change=ChangeKind.FIRED)
    return AlertStep(alert=alert)


def _gone(alert: Alert, now: datetime) -> AlertStep:
    """Return what becomes of the alert whose trouble is not there."""
    if alert.fired_at is None:
        return AlertStep(alert=alert, is_dropped=True)
    alert = alert if alert.quiet_since is not None else replace(alert, quiet_since=now)
    assert alert.quiet_since is not None
    if now - alert.quiet_since >= timedelta(seconds=alert.quiet_s):
        return AlertStep(alert=replace(alert, cleared_at=now), change=ChangeKind.CLEARED)
    return AlertStep(alert=alert)
