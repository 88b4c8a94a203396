"""Alerts in the store: each function runs inside one transaction of the :class:`Writer`, or reads."""

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime

from thirdshift.core.alerts import Alert, AlertChange, AlertKind, AlertStep, ChangeKind, Trouble, steps
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.engines.sqlite.rows import Row, from_us, to_us

_KEPT_ALERTS = 1_000
_KEPT_DEATHS = 1_000


def update(connection: sqlite3.Connection, troubles: Sequence[Trouble], now: datetime) -> list[AlertStep]:
    """Open, fire and clear alerts by what was found; returns the steps of which people hear."""
    taken = steps(open_alerts(connection), troubles, now)
    for step in taken:
        seq = _write(connection, step)
        if step.change is not None:
            connection.execute(QUERY["tell_alert_change"], (seq, step.change.value))
    if any(step.change is ChangeKind.CLEARED for step in taken):
        connection.execute(QUERY["forget_alerts"], (_KEPT_ALERTS,))
    return [step for step in taken if step.change is not None]


def open_alerts(connection: sqlite3.Connection) -> list[Alert]:
    """Return the alerts that have not cleared, also those that are held back."""
    return [alert_of_row(row) for row in connection.execute(QUERY["open_alerts"])]


def record_death(connection: sqlite3.Connection, worker: str, now_us: int, tasks: int) -> None:
    """Remember that *worker*, which is still registered, has died."""
    if connection.execute(QUERY["record_death"], (worker, now_us, tasks)).rowcount:
        connection.execute(QUERY["forget_deaths"], (_KEPT_DEATHS,))


def alert_of_row(row: Row) -> Alert:
    """Return a row of the queries of alerts."""
    seq, kind, subject, value, threshold, facts, hold_us, quiet_us, since, *moments = row
    fired_at, quiet_since, cleared_at = (None if moment is None else from_us(moment) for moment in moments)
    return Alert(
        id=seq,
        kind=AlertKind(kind),
        subject=subject,
        value=value,
        threshold=threshold,
        facts=json.loads(facts),
        hold_s=hold_us / 1e6,
        quiet_s=quiet_us / 1e6,
        since=from_us(since),
        fired_at=fired_at,
        quiet_since=quiet_since,
        cleared_at=cleared_at,
    )


def change_of_row(row: Row) -> AlertChange:
    """Return a row of the query ``alert_changes``."""
    return AlertChange(number=row[0], kind=ChangeKind(row[1]), alert=alert_of_row(row[2:]))


def _write(connection: sqlite3.Connection, step: AlertStep) -> int:
    alert = step.alert
    moments = [None if each is None else to_us(each) for each in (alert.fired_at, alert.quiet_since, alert.cleared_at)]
    facts = json.dumps(alert.facts)
    if alert.id is None:
        spans = round(alert.hold_s * 1e6), round(alert.quiet_s * 1e6)
        row = alert.kind.value, alert.subject, alert.value, alert.threshold, facts, *spans, to_us(alert.since), *moments
        return int(connection.execute(QUERY["open_alert"], row).lastrowid or 0)
    if step.is_dropped:
        connection.execute(QUERY["drop_alert"], (alert.id,))
    else:
        connection.execute(QUERY["write_alert"], (alert.value, facts, *moments, alert.id))
    return alert.id
