"""What people change: each function runs inside one transaction of the :class:`Writer`, for one task or for a batch.

A change of many tasks is nothing but the change of one task, many times, so both keep the same rules.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from thirdshift.core.errors import ChangeRefused
from thirdshift.core.pruning import Limits
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import TaskId
from thirdshift.engines.sqlite import dependencies, unique
from thirdshift.engines.sqlite.figures import fold_rest
from thirdshift.engines.sqlite.filters import Query
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.engines.sqlite.rows import to_us

Change = Callable[[sqlite3.Connection, str, int], str | None]
"""Changes the task with that id at that moment (in microseconds); returns what was done, ``None`` for nothing."""

CANCELLED = "cancelled"
RIPPLED = "rippled"
"""Cancelled, and others that waited for the task are released or cancelled too."""
CANCEL_REQUESTED = "cancel_requested"
RETRIED = "retried"
DELETED = "deleted"
_LAST_SEQ = 2**63 - 1
_VACUUM_PAGES = 256


def cancel(connection: sqlite3.Connection, task_id: str, now_us: int) -> str | None:
    """Cancel a task that does not run, ask the worker of one that does."""
    if kind := cancel_waiting(connection, task_id, now_us):
        return kind
    if not connection.execute(QUERY["request_cancel"], {"id": task_id, "now": now_us}).rowcount:
        return None
    _record(connection, task_id, now_us, CANCEL_REQUESTED)
    return CANCEL_REQUESTED


def cancel_waiting(connection: sqlite3.Connection, task_id: str, now_us: int) -> str | None:
    """Cancel a task that does not run, and leave it alone if it does."""
    if not connection.execute(QUERY["cancel_waiting"], {"id": task_id, "now": now_us}).rowcount:
        return None
    _record(connection, task_id, now_us, CANCELLED)
    is_alone = not any(dependencies.propagate(connection, [_seq_of(connection, task_id)], now_us))
    return CANCELLED if is_alone else RIPPLED


def retry(connection: sqlite3.Connection, task_id: str, now_us: int) -> str | None:
    """Make a finished task pending again, or waiting. Raises :class:`UniqueConflict` and :class:`ParentsFailed`."""
    unique.demand_free_key(connection, task_id)
    dependencies.demand_possible(connection, task_id)
    connection.execute(QUERY["forget_steps"], {"id": task_id})
    connection.execute(QUERY["wait_for_siblings"], (task_id,))
    if not connection.execute(QUERY["retry"], {"id": task_id, "now": now_us}).rowcount:
        return None
    _record(connection, task_id, now_us, RETRIED)
    dependencies.reopen(connection, _seq_of(connection, task_id), now_us)
    return RETRIED


def delete(connection: sqlite3.Connection, task_id: str, _now_us: int) -> str | None:
    """Delete a finished task; its attempts and events go with it. Raises :class:`StillNeeded`."""
    dependencies.demand_unneeded(connection, task_id)
    fold_rest(connection)
    return DELETED if connection.execute(QUERY["delete"], {"id": task_id}).rowcount else None


def change_batch(
    connection: sqlite3.Connection, change: Change, recheck: Query, seqs: Iterable[int], now_us: int
) -> tuple[list[str], list[tuple[TaskId, ChangeRefused]]]:
    """Change those rows that still match; returns what was done, once for each changed task, and what was refused."""
    query, parameters = recheck
    rows = [connection.execute(query, (seq, *parameters)).fetchone() for seq in seqs]
    done: list[str] = []
    refused: list[tuple[TaskId, ChangeRefused]] = []
    for (task_id,) in (row for row in rows if row is not None):
        try:
            kind = change(connection, task_id, now_us)
        except ChangeRefused as refusal:
            refused.append((task_id, refusal))
        else:
            done += [] if kind is None else [kind]
    return done, refused


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """The last row to go of one status, in the order in which tasks finished."""

    status: TaskStatus
    finished_at: int
    seq: int

    @property
    def parameters(self) -> dict[str, object]:
        """The parameters of the queries that end with ``_up_to``, and of ``prune``."""
        return {"status": self.status.value, "finished_at": self.finished_at, "seq": self.seq}


def bounds(connection: sqlite3.Connection, limits: Limits) -> list[Bound]:
    """Return up to where each limited status is to be pruned, leaving out those with nothing to prune."""
    found: list[Bound] = []
    for status, limit in limits.items():
        ends: list[tuple[int, int]] = []
        if limit.before is not None:
            ends.append((to_us(limit.before) - 1, _LAST_SEQ))
        if limit.rows is not None:
            parameters = {"status": status.value, "rows": limit.rows}
            ends += connection.execute(QUERY["newest_beyond"], parameters).fetchall()
        if ends:
            finished_at, seq = max(ends)
            found.append(Bound(status=status, finished_at=finished_at, seq=seq))
    return [each for each in found if connection.execute(QUERY["has_up_to"], each.parameters).fetchone()[0]]


def count_prunable(connection: sqlite3.Connection, found: Sequence[Bound]) -> dict[TaskStatus, int]:
    """Return how many rows each bound takes in."""
    return {
        bound.status: int(connection.execute(QUERY["count_up_to"], bound.parameters).fetchone()[0]) for bound in found
    }


def delete_finished_batch(connection: sqlite3.Connection, before_us: int, limit: int) -> int:
    """Delete at most *limit* tasks that finished before that moment; returns how many."""
    fold_rest(connection)
    return connection.execute(QUERY["delete_finished"], {"before": before_us, "limit": limit}).rowcount


def prune_batch(connection: sqlite3.Connection, found: Sequence[Bound], limit: int) -> Mapping[TaskStatus, int]:
    """Delete at most *limit* rows, what finished first of each status first; returns how many of each."""
    fold_rest(connection)
    deleted: dict[TaskStatus, int] = {}
    for bound in found:
        room = limit - sum(deleted.values())
        deleted[bound.status] = connection.execute(QUERY["prune"], {**bound.parameters, "limit": room}).rowcount
    return deleted


def vacuum_batch(connection: sqlite3.Connection) -> None:
    """Give some free pages back to the disk."""
    for _ in range(_VACUUM_PAGES):
        connection.execute("PRAGMA incremental_vacuum(1)")  # with more, Python's sqlite3 stops after the first page


def _seq_of(connection: sqlite3.Connection, task_id: str) -> int:
    return int(connection.execute(QUERY["seq_of"], (task_id,)).fetchone()[0])


def _record(connection: sqlite3.Connection, task_id: str, now_us: int, kind: str) -> None:
    connection.execute(QUERY["record_event"], {"id": task_id, "now": now_us, "kind": kind, "detail": None})
