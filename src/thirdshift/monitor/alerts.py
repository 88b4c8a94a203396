"""Alert rules on the figures of a store: what they find, in words, and who is told."""

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from shutil import disk_usage
from typing import Any

from thirdshift.core.alerts import Alert, AlertChange, AlertKind, AlertRule, ChangeKind, Trouble
from thirdshift.core.clock import Clock
from thirdshift.core.engine import WorkerEngine
from thirdshift.core.figures import Figures, Span
from thirdshift.core.plain import plain
from thirdshift.core.words import duration

_logger = logging.getLogger("thirdshift.monitor")

AlertCallback = Callable[[str, dict[str, Any]], object]
"""Takes the kind of an alert, and its ``message``, ``state`` (fired or cleared), ``subject``, ``value``, …"""

ALERT_INTERVAL_S = 10.0
"""Between two looks at the rules."""

_BATCH = 100
_WEBHOOK_TIMEOUT_S = 5.0
_WEBHOOK_PAUSES_S = (5.0, 300.0)
_WEBHOOK_LIMIT = timedelta(hours=24)


class AlertWatch:
    """Looks at the rules of one process. One process of a store does that at a time; its rules count."""

    def __init__(
        self,
        engine: WorkerEngine,
        clock: Clock,
        rules: Sequence[AlertRule],
        *,
        free_bytes: Callable[[Path], int] = lambda path: disk_usage(path).free,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._rules = rules
        self._free_bytes = free_bytes
        self._by_name: dict[float, dict[str, Figures]] = {}

    def look(self) -> None:
        """Look once, and open, fire and clear alerts by what is found."""
        now = self._clock.now()
        self._by_name = {}
        troubles = [trouble for rule in self._rules for trouble in self._find(rule, now)]
        for step in self._engine.update_alerts(troubles):
            is_fired = step.change is ChangeKind.FIRED
            _logger.log(
                logging.WARNING if is_fired else logging.INFO,
                'alert.%s kind=%s subject="%s" message="%s"',
                "fired" if is_fired else "cleared",
                step.alert.kind.value,
                step.alert.subject,
                sentence(step.alert),
            )

    def _find(self, rule: AlertRule, now: datetime) -> Iterable[Trouble]:
        match rule.kind:
            case AlertKind.ERROR_RATE | AlertKind.AVG_EXECUTION_TIME:
                return self._figures_over(rule, now)
            case AlertKind.QUEUE_LATENCY:
                return self._queues_over(rule, now)
            case AlertKind.LATE_SCHEDULE:
                return self._schedules_late(rule, now)
            case AlertKind.LOST_WORKER:
                return self._workers_lost(rule, now)
            case AlertKind.DISK_FREE:
                folder = Path(self._engine.location).parent
                free = self._free_bytes(folder)
                return [Trouble(rule=rule, subject=str(folder), value=free)] if free < rule.limit else []
            case AlertKind.STUCK_PROGRESS:
                return self._tasks_stuck(rule, now)

    def _schedules_late(self, rule: AlertRule, now: datetime) -> Iterable[Trouble]:
        for schedule in self._engine.schedules.all():
            late_s = 0.0 if schedule.next_at is None else (now - schedule.next_at).total_seconds()
            if late_s > rule.limit:
                yield Trouble(rule=rule, subject=schedule.name, value=late_s)

    def _workers_lost(self, rule: AlertRule, now: datetime) -> Iterable[Trouble]:
        for death in self._engine.worker_deaths(now - timedelta(seconds=rule.window_s)):
            facts = {"pid": death.pid, "host": death.host}
            yield Trouble(rule=rule, subject=death.worker, value=death.tasks, facts=facts)

    def _tasks_stuck(self, rule: AlertRule, now: datetime) -> Iterable[Trouble]:
        for report in self._engine.reports(now - timedelta(seconds=rule.limit)):
            silent_s = (now - report.at).total_seconds()
            facts = {"name": report.name, "queue": report.queue}
            yield Trouble(rule=rule, subject=report.task_id, value=silent_s, facts=facts)

    def _figures_over(self, rule: AlertRule, now: datetime) -> Iterable[Trouble]:
        for name, figures in self._figures_of(rule.window_s, now).items():
            is_rate = rule.kind is AlertKind.ERROR_RATE
            value = figures.error_rate if is_rate else figures.average_run_s
            is_told = not is_rate or figures.executions >= rule.least_executions
            if value is not None and is_told and value > rule.limit:
                facts = {"executions": figures.executions, "failed": figures.failures}
                yield Trouble(rule=rule, subject=name, value=value, facts=facts)

    def _figures_of(self, window_s: float, now: datetime) -> dict[str, Figures]:
        """Return the figures of each name in the window; read once for all rules with the same one."""
        if window_s not in self._by_name:
            by_name = self._by_name[window_s] = {}
            for bucket in self._engine.buckets(Span.MINUTE, now - timedelta(seconds=window_s)):
                by_name[bucket.name] = by_name.get(bucket.name, Figures()) + bucket.figures
        return self._by_name[window_s]

    def _queues_over(self, rule: AlertRule, now: datetime) -> Iterable[Trouble]:
        for load in self._engine.loads():
            if load.oldest_due_at is not None and not load.is_paused:
                age_s = (now - load.oldest_due_at).total_seconds()
                if age_s > rule.limit:
                    yield Trouble(rule=rule, subject=load.queue, value=age_s, facts={"waiting": load.waiting})


class AlertListeners:
    """The callbacks of one process; each change that comes after a callback was added is told to it once."""

    def __init__(self, engine: WorkerEngine) -> None:
        self._engine = engine
        self._mutex = threading.Lock()
        self._callbacks: tuple[AlertCallback, ...] = ()
        self._told = 0

    def add(self, callback: AlertCallback) -> None:
        """Tell *callback* of every change from now on."""
        with self._mutex:
            if not self._callbacks:
                self._told = self._engine.last_alert_change()
            self._callbacks = (*self._callbacks, callback)

    def tell(self) -> None:
        """Tell what has changed since the last time."""
        while self._callbacks and (changes := self._engine.alert_changes(self._told, _BATCH)):
            for change in changes:
                for callback in self._callbacks:
                    try:
                        callback(change.alert.kind.value, describe(change.alert, change.kind))
                    except Exception:  # the others are told all the same
                        _logger.exception("alert.callback_failed")
                self._told = change.number


class Webhook:
    """Posts every change as JSON to one address, in order, until it is taken; how far it is stands in the store."""

    def __init__(self, engine: WorkerEngine, clock: Clock, url: str) -> None:
        self._engine = engine
        self._clock = clock
        self._url = url
        self._name = f"webhook {hashlib.sha256(url.encode()).hexdigest()[:16]}"  # an address may hold a secret
        self._pause_s = _WEBHOOK_PAUSES_S[0]
        self._due_s = 0.0

    def send(self) -> None:
        """Post what is due, unless the last try has failed a short while ago."""
        if self._clock.monotonic() < self._due_s:
            return
        told = self._engine.alert_told(self._name)
        if told is None:  # of what was before, nobody wanted to hear
            told = self._engine.last_alert_change()
            self._engine.tell_alert(self._name, told)
        for change in self._engine.alert_changes(told, _BATCH):
            if not self._is_taken(change) and not self._is_too_old(change):
                self._due_s = self._clock.monotonic() + self._pause_s
                self._pause_s = min(_WEBHOOK_PAUSES_S[1], 2 * self._pause_s)
                return
            self._engine.tell_alert(self._name, change.number)
            self._pause_s = _WEBHOOK_PAUSES_S[0]

    def _is_taken(self, change: AlertChange) -> bool:
        from urllib.request import Request, urlopen  # noqa: PLC0415  # few need it, and it is large

        document = {"alert_type": change.alert.kind.value, **describe(change.alert, change.kind)}
        headers = {"Content-Type": "application/json", "User-Agent": "thirdshift"}
        request = Request(self._url, json.dumps(document).encode(), headers)  # noqa: S310  # http or https, as checked
        try:
            with urlopen(request, timeout=_WEBHOOK_TIMEOUT_S):  # noqa: S310  # as above
                return True
        except (OSError, ValueError) as error:
            _logger.warning("alert.webhook_failed retry_in_s=%g error=%s", self._pause_s, error)
            return False

    def _is_too_old(self, change: AlertChange) -> bool:
        moment = change.alert.fired_at if change.kind is ChangeKind.FIRED else change.alert.cleared_at
        is_too_old = moment is not None and self._clock.now() - moment > _WEBHOOK_LIMIT
        if is_too_old:
            _logger.error("alert.webhook_given_up kind=%s subject=%s", change.alert.kind.value, change.alert.subject)
        return is_too_old


def describe(alert: Alert, state: ChangeKind | None = None) -> dict[str, Any]:
    """Return *alert* as plain data, with its sentence."""
    if state is None:
        state = ChangeKind.CLEARED if alert.cleared_at is not None else ChangeKind.FIRED
    is_over = state is ChangeKind.CLEARED
    told: dict[str, Any] = plain(
        {
            "message": f"over: {sentence(alert)}" if is_over else sentence(alert),
            "state": state,
            "id": alert.id,
            "kind": alert.kind,
            "subject": alert.subject,
            "value": alert.value,
            "threshold": alert.threshold,
            "since": alert.since,
            "fired_at": alert.fired_at,
            "cleared_at": alert.cleared_at if is_over else None,
            "facts": alert.facts,
        }
    )
    return told


def sentence(alert: Alert) -> str:
    """Return what the trouble was when the alert fired."""
    facts = alert.facts
    match alert.kind:
        case AlertKind.ERROR_RATE:
            return (
                f"{alert.subject} fails in {alert.value:.1%} of its executions "
                f"({facts['failed']:,} of {facts['executions']:,}), more than {alert.threshold:.1%}"
            )
        case AlertKind.AVG_EXECUTION_TIME:
            return f"{alert.subject} takes {_span(alert.value)} on average, more than {_span(alert.threshold)}"
        case AlertKind.QUEUE_LATENCY:
            return (
                f"the oldest task of queue {alert.subject} waits for {_span(alert.value)}, more than "
                f"{_span(alert.threshold)}; {facts['waiting']:,} wait"
            )
        case AlertKind.LATE_SCHEDULE:
            return f"schedule {alert.subject} should have fired {_span(alert.value)} ago"
        case AlertKind.LOST_WORKER:
            return (
                f"worker {alert.subject[:8]} (process {facts['pid']} on {facts['host']}) died with {alert.value:.0f} "
                "tasks in hand, which others take over"
            )
        case AlertKind.DISK_FREE:
            free, least = alert.value / 1e6, alert.threshold / 1e6
            return f"{free:,.0f} MB free on the disk of {alert.subject}, less than {least:,.0f}"
        case AlertKind.STUCK_PROGRESS:
            return (
                f"task {alert.subject} ({facts['name']}) runs and has reported no progress for {_span(alert.value)}, "
                f"more than {_span(alert.threshold)}"
            )


def _span(seconds: float) -> str:
    return duration(timedelta(seconds=seconds))
