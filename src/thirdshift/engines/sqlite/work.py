"""What a worker writes: each function runs inside one transaction of the :class:`Writer`."""

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from thirdshift.core.engine import ClaimRequest, Exchange, Rescue
from thirdshift.core.outcome import Settlement
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import AttemptOutcome, Claim, TaskId
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.engines.sqlite.rows import (
    Row,
    claim_of_row,
    facts_of_progress,
    fence,
    from_us,
    row_of_settlement,
    to_us,
)

_PROMOTE_LIMIT = 1_000


def exchange(
    connection: sqlite3.Connection, settlements: Sequence[Settlement], request: ClaimRequest | None, now: datetime
) -> Exchange:
    """Record what ended, promote what is due, claim what is asked for."""
    recorded = _settle(connection, [row_of_settlement(settlement) for settlement in settlements])
    claims: Sequence[Claim] = ()
    if request is not None:
        connection.execute(QUERY["promote"], {"now": to_us(now), "limit": _PROMOTE_LIMIT})
        claims = _claim(connection, request, now)
    due = next_due(connection.execute(QUERY["next_due"]).fetchall())
    return Exchange(recorded=recorded, claims=claims, next_due=due)


def next_due(rows: Sequence[Row]) -> datetime | None:
    """Return the moment in the answer to the query of that name."""
    ((due_us,),) = rows
    return None if due_us is None else from_us(due_us)


def give_back(connection: sqlite3.Connection, claims: Sequence[Claim], now_us: int) -> None:
    """Return claimed tasks that never started."""
    connection.executemany(QUERY["give_back"], [{**fence(claim), "now": now_us} for claim in claims])


def record_progress(
    connection: sqlite3.Connection, progress: Sequence[tuple[Claim, Mapping[str, Any]]], now_us: int
) -> None:
    """Store the newest progress of running attempts."""
    rows = [{**fence(claim), "at": now_us, "facts": facts_of_progress(facts)} for claim, facts in progress]
    connection.executemany(QUERY["record_progress"], rows)


def rescue(connection: sqlite3.Connection, dead: str, now: datetime) -> list[Rescue]:
    """Make the tasks of a worker that is known to be dead runnable again, and forget the worker."""
    held = connection.execute(QUERY["held_by"], (dead,)).fetchall()
    rows = [
        {
            "seq": seq,
            "attempt": attempt,
            "owner": dead,
            "outcome": AttemptOutcome.INTERRUPTED.value,
            "started_at": None,
            "finished_at": to_us(now),
            "result": None,
            "error_type": "WorkerDied",
            "error_message": f"worker {dead} died while it held this task",
            "error_traceback": None,
            "status": TaskStatus.PENDING.value,
            "due_at": None,
            "failed": 0,
        }
        for seq, _task_id, _name, attempt in held
    ]
    _settle(connection, rows)
    events = [{"id": task_id, "now": to_us(now), "kind": "rescued", "detail": dead} for _, task_id, _, _ in held]
    connection.executemany(QUERY["record_event"], events)
    connection.execute(QUERY["forget_worker"], (dead,))
    return [Rescue(id=TaskId(task_id), name=name, owner=dead, attempt=attempt) for _, task_id, name, attempt in held]


def _settle(connection: sqlite3.Connection, rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Record ended attempts; returns for each row whether it was. Two statements for all, unless one was lost."""
    if connection.executemany(QUERY["record_attempt"], rows).rowcount == len(rows):
        connection.executemany(QUERY["settle"], rows)
        return [True] * len(rows)
    return [connection.execute(QUERY["settle"], row).rowcount == 1 for row in rows]


def _claim(connection: sqlite3.Connection, request: ClaimRequest, now: datetime) -> list[Claim]:
    queues = [name for (name,) in connection.execute(QUERY["open_queues"])]
    if request.queues is not None:
        queues = [name for name in queues if name in request.queues]
    queues = [name for name in queues if name not in request.excluded]
    chosen: list[Row] = []
    for pool, free in request.free.items():
        rows: list[Row] = []
        for queue in queues:
            rows += connection.execute(QUERY["runnable"], (queue, pool.value, free)).fetchall()
        chosen += sorted(rows, key=_urgency)[:free]
    chosen.sort(key=_urgency)
    now_us = to_us(now)
    connection.executemany(QUERY["claim"], [(request.owner, now_us, row[2]) for row in chosen])
    return [claim_of_row(row, request.owner, now) for row in chosen]


def _urgency(row: Row) -> tuple[int, int, int]:
    """Sort rows of the query ``runnable`` as the index does: priority, due time, order of submission."""
    priority, due_us, seq = row[:3]
    return -priority, due_us, seq
