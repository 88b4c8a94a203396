"""The queries whose conditions vary: the one place where a :class:`TaskFilter` becomes SQL.

Values are always parameters. Statuses are words of our own and stand in the text, because SQLite uses a partial index
only where the query repeats its condition.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from thirdshift.core.engine import TaskFilter
from thirdshift.core.status import TaskStatus
from thirdshift.engines.sqlite.rows import to_us

Query = tuple[str, Sequence[Any]]

_PLACE = {
    TaskStatus.SCHEDULED: "status = 'scheduled' AND status IN ('scheduled', 'retrying')",
    TaskStatus.RETRYING: "status = 'retrying' AND status IN ('scheduled', 'retrying')",
    **{status: f"status = '{status.value}' AND finished_at IS NOT NULL" for status in TaskStatus if status.is_finished},
}
"""For a status, the condition that leads to its partial index."""
_FINGERPRINT = "coalesce(error_fingerprint, error_type)"
_LAST_FINGERPRINT = f"(SELECT {_FINGERPRINT} FROM attempt WHERE task = seq ORDER BY number DESC LIMIT 1)"  # noqa: S608


def find_query(wanted: TaskFilter) -> Query:
    """Return the query for the ids of a list, newest first. It walks the table backwards and stops at the limit."""
    condition, parameters = _with_statuses(wanted)
    return f"SELECT id FROM task WHERE {condition} ORDER BY seq DESC LIMIT ?", [*parameters, wanted.limit]  # noqa: S608


def count_query(wanted: TaskFilter) -> Query:
    """Return the query that counts by status: one row (status, number) for each status that is wanted."""
    return _by_status("SELECT '{status}', count(*) FROM task", wanted)


def seqs_query(wanted: TaskFilter) -> Query:
    """Return the query for the row numbers of all that match, in no order."""
    return _by_status("SELECT seq FROM task", wanted)


def recheck_query(wanted: TaskFilter) -> Query:
    """Return the query for the id of the row with a given number, the first parameter, if it matches still."""
    condition, parameters = _with_statuses(wanted)
    return f"SELECT id FROM task WHERE seq = ? AND {condition}", parameters  # noqa: S608


def groups_query(wanted: TaskFilter) -> Query:
    """Return the query for groups of failures, the largest first, as ``group_of_row`` takes its rows."""
    seqs, parameters = seqs_query(wanted)
    query = f"""
        WITH newest AS (
            SELECT task, max(number) AS number FROM attempt WHERE task IN ({seqs}) GROUP BY task
        ), error AS (
            SELECT task, number, finished_at, {_FINGERPRINT} AS fingerprint
            FROM newest JOIN attempt USING (task, number) WHERE error_type IS NOT NULL
        ), cause AS (
            SELECT fingerprint, count(*) AS count, min(finished_at) AS first, max(finished_at) AS last,
                   max(task) AS task
            FROM error GROUP BY fingerprint ORDER BY count DESC, fingerprint LIMIT ?
        )
        SELECT c.fingerprint, a.error_type, c.count, c.first, c.last, t.id, a.error_message
        FROM cause c JOIN task t ON t.seq = c.task JOIN newest n ON n.task = c.task
        JOIN attempt a ON a.task = n.task AND a.number = n.number ORDER BY c.count DESC, c.fingerprint
    """  # noqa: S608  # values are parameters
    return query, [*parameters, wanted.limit]


def _by_status(select: str, wanted: TaskFilter) -> Query:
    condition, parameters = _condition(wanted)
    statuses = _sorted(wanted.statuses or TaskStatus)
    places = [(status.value, _PLACE.get(status, f"status = '{status.value}'")) for status in statuses]
    branches = [f"{select.format(status=status)} WHERE {place} AND {condition}" for status, place in places]
    return " UNION ALL ".join(branches), [*parameters] * len(branches)


def _condition(wanted: TaskFilter) -> Query:
    """Return the conditions of everything but the status."""
    conditions: list[str] = []
    parameters: list[Any] = []
    for column in ("name", "queue", "unique_key", "limit_key"):
        value = getattr(wanted, column)
        if value is not None:
            conditions.append(f"{column} = ?")
            parameters.append(value)
    for column, moment in (("submitted_at", wanted.submitted_before), ("finished_at", wanted.finished_before)):
        if moment is not None:
            conditions.append(f"{column} < ?")
            parameters.append(to_us(moment))
    if wanted.fingerprint is not None:
        conditions.append(f"{_LAST_FINGERPRINT} = ?")
        parameters.append(wanted.fingerprint)
    if wanted.tag is not None:
        conditions.append("EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ?)")
        parameters.append(wanted.tag)
    return " AND ".join(conditions) or "TRUE", parameters


def _with_statuses(wanted: TaskFilter) -> Query:
    """Return all conditions, the statuses as parameters: so no partial index tempts a query that knows a better way."""
    condition, parameters = _condition(wanted)
    if not wanted.statuses:
        return condition, parameters
    statuses = [status.value for status in _sorted(wanted.statuses)]
    return f"{condition} AND status IN ({', '.join('?' * len(statuses))})", [*parameters, *statuses]


def _sorted(statuses: Iterable[TaskStatus]) -> list[TaskStatus]:
    return sorted(statuses, key=lambda status: status.value)
