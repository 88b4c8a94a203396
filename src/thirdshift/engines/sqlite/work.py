"""What a worker writes: each function runs inside one transaction of the :class:`Writer`."""

import sqlite3
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from functools import partial
from typing import Any

from thirdshift.core import codec
from thirdshift.core.engine import ClaimRequest, Exchange, Rescue
from thirdshift.core.outcome import MOST_WORKER_DEATHS, Ending, Settlement, counted, crashes_after
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import AttemptOutcome, Claim, TaskError, TaskId
from thirdshift.engines.sqlite import dependencies
from thirdshift.engines.sqlite.alerts import record_death
from thirdshift.engines.sqlite.dependencies import STILL, Ripple
from thirdshift.engines.sqlite.figures import AMENDED, ENDED, feed
from thirdshift.engines.sqlite.keys import KeyedTasks, have_room, urgency
from thirdshift.engines.sqlite.limits import Allowances
from thirdshift.engines.sqlite.links import Statements
from thirdshift.engines.sqlite.liveness import DeadWorker
from thirdshift.engines.sqlite.queries import QUERY, in_chunks, leaving_out
from thirdshift.engines.sqlite.rows import (
    Row,
    claim_of_row,
    facts_of_progress,
    fence,
    from_us,
    optional_moment,
    row_of_amendment,
    row_of_trace,
    rows_of_ending,
    rows_of_settlement,
    runnable_rows,
    to_us,
)

_PROMOTE_LIMIT = 1_000
_FINISHED_US = 4
"""Where a row of the query ``settle`` has the moment."""
_FAILED = TaskStatus.FAILED.value


Ended = tuple[list[int], int]
"""The tasks of ended attempts, and when the last of these ended."""


def exchange(
    connection: sqlite3.Connection,
    settlements: Sequence[Settlement],
    request: ClaimRequest | None,
    now: datetime,
    *,
    is_counted: bool,
) -> Exchange:
    """Record what ended, promote what is due, claim what is asked for."""
    recorded, ended = _settle(connection, settlements, is_counted=is_counted)
    due_us, is_awaited = _next_due(connection)
    ripple = STILL
    if ended is not None and is_awaited:
        ripple = dependencies.propagate(connection, *ended)
        due_us, _ = _next_due(connection)
    claims: Sequence[Claim] = ()
    is_limited = False
    if request is not None:
        if due_us is not None and due_us <= to_us(now):
            connection.execute(QUERY["promote"], {"now": to_us(now), "limit": _PROMOTE_LIMIT})
            due_us, _ = _next_due(connection)
        allowances = Allowances(connection, to_us(now))
        claims = _claim(connection, request, now, allowances)
        free_us = allowances.write()
        if free_us is not None:
            due_us = free_us if due_us is None else min(due_us, free_us)
        is_limited = allowances.are_used_up
    freed = [key for settlement in settlements if (key := settlement.claim.limit_key) is not None]
    has_freed_key = bool(freed) and have_room(connection, set(freed))
    next_due = None if due_us is None else from_us(due_us)
    return Exchange(
        recorded=recorded,
        claims=claims,
        next_due=next_due,
        is_limited=is_limited,
        has_released=ripple.has_released,
        has_cancelled=ripple.has_cancelled,
        has_freed_key=has_freed_key,
    )


def settle(connection: sqlite3.Connection, settlements: Sequence[Settlement], *, is_counted: bool) -> list[bool]:
    """Record what ended, and let those know that wait for it; returns for each whether it was recorded."""
    recorded, ended = _settle(connection, settlements, is_counted=is_counted)
    if ended is not None:
        dependencies.propagate(connection, *ended)
    return recorded


def _settle(
    connection: sqlite3.Connection, settlements: Sequence[Settlement], *, is_counted: bool
) -> tuple[list[bool], Ended | None]:
    feed_kind = ENDED if is_counted else None
    recorded, ended = _record(connection, [rows_of_settlement(settlement) for settlement in settlements], feed_kind)
    _record_rest(connection, settlements, recorded, is_counted)
    return recorded, ended


def _next_due(connection: sqlite3.Connection) -> tuple[int | None, bool]:
    """Return when the next task is due, and whether any task waits for another."""
    ((due_us, is_awaited),) = connection.execute(QUERY["next_due"]).fetchall()
    return due_us, bool(is_awaited)


def give_back(connection: sqlite3.Connection, claims: Sequence[Claim], now_us: int) -> Ripple:
    """Return claimed tasks that never started; one that was to be cancelled is."""
    connection.executemany(QUERY["give_back"], [{**fence(claim), "now": now_us} for claim in claims])
    return dependencies.propagate(connection, [claim.seq for claim in claims], now_us)


def record_progress(
    connection: sqlite3.Connection, progress: Sequence[tuple[Claim, Mapping[str, Any]]], now_us: int
) -> None:
    """Store the newest progress of running attempts."""
    rows = [{**fence(claim), "at": now_us, "facts": facts_of_progress(facts)} for claim, facts in progress]
    connection.executemany(QUERY["record_progress"], rows)


def record_step(
    connection: sqlite3.Connection, claim: Claim, name: str, inputs: str, encoded_result: bytes, now_us: int
) -> bool:
    """Store a step, or another result of one; returns whether the attempt may still write."""
    row = {**fence(claim), "name": name, "inputs": inputs, "result": encoded_result, "now": now_us}
    return connection.execute(QUERY["record_step"], row).rowcount == 1


def rescue(connection: sqlite3.Connection, dead: DeadWorker, now: datetime, *, is_counted: bool) -> list[Rescue]:
    """Make the tasks of a worker that is known to be dead runnable again, and forget the worker.

    An attempt that stood in one of its slots may be what killed it. After ``MOST_WORKER_DEATHS`` such deaths in a row,
    without progress in between, the task fails.
    """
    held = connection.execute(QUERY["held_by"], (dead.id,)).fetchall()
    rows: list[tuple[Row, Row]] = []
    rescued: list[Rescue] = []
    for seq, task_id, name, attempt, crashes_before in held:
        stood = dead.stood.get((seq, attempt))
        crashes = crashes_before if stood is None else crashes_after(crashes_before, has_progress=stood.has_progress)
        is_given_up = crashes >= MOST_WORKER_DEATHS
        outcome = AttemptOutcome.FAILED if is_given_up else AttemptOutcome.INTERRUPTED
        status = TaskStatus.FAILED if is_given_up else TaskStatus.PENDING
        ending = Ending(outcome, None, now, error=_death_of(dead, stood is not None, crashes))
        rows.append(rows_of_ending((seq, task_id, attempt, dead.id), ending, status, None, crashes))
        rescued.append(Rescue(id=TaskId(task_id), name=name, owner=dead.id, attempt=attempt, is_given_up=is_given_up))
    record(connection, rows, ENDED if is_counted else None)
    events = [{"id": task_id, "now": to_us(now), "kind": "rescued", "detail": dead.id} for _, task_id, *_ in held]
    connection.executemany(QUERY["record_event"], events)
    record_death(connection, dead.id, to_us(now), len(held))
    connection.execute(QUERY["forget_worker"], (dead.id,))
    return rescued


def _death_of(dead: DeadWorker, stood: bool, crashes: int) -> TaskError:
    if not stood:
        return TaskError(type="WorkerDied", message=f"worker {dead.id} died while it held this task")
    return counted(TaskError(type="WorkerDied", message=f"worker {dead.id} died while it ran this task"), crashes)


def recover(
    connection: sqlite3.Connection, owner: str, known: AbstractSet[tuple[int, int]], now_us: int
) -> list[Rescue]:
    """Return what the store says that *owner* holds and the worker does not know of: nobody would ever run it."""
    held = connection.execute(QUERY["held_by"], (owner,)).fetchall()
    lost = [row for row in held if (row[0], row[3]) not in known]
    rows = [
        {"seq": seq, "id": task_id, "attempt": attempt, "owner": owner, "now": now_us}
        for seq, task_id, _, attempt, _ in lost
    ]
    connection.executemany(QUERY["give_back"], rows)
    dependencies.propagate(connection, [row[0] for row in lost], now_us)
    return [Rescue(id=TaskId(row[1]), name=row[2], owner=owner, attempt=row[3]) for row in lost]


def record(connection: Statements, rows: Sequence[tuple[Row, Row]], feed_kind: str | None) -> list[bool]:
    """Record ended attempts, and let those know that wait for them; returns for each whether it was recorded.

    Those that were are noted in the feed of the figures as *feed_kind*; ``None``: nobody counts here.
    """
    recorded, ended = _record(connection, rows, feed_kind)
    if ended is not None:
        dependencies.propagate(connection, *ended)
    return recorded


def _record(
    connection: Statements, rows: Sequence[tuple[Row, Row]], feed_kind: str | None
) -> tuple[list[bool], Ended | None]:
    """Record ended attempts, in few statements unless one was lost; returns what to tell those that wait for them."""
    if not rows:
        return [], None
    tasks = [task for _, task in rows]
    if _run("record_attempts", connection, [attempt for attempt, _ in rows]) == len(rows):
        _run("settle", connection, tasks)
        each = [True] * len(rows)
    else:
        each = [_run("settle", connection, [task]) == 1 for task in tasks]
    if feed_kind is not None:
        ended = (task for task, is_recorded in zip(tasks, each, strict=True) if is_recorded)
        feed(connection, feed_kind, [(task[0], task[2], task[5] == _FAILED) for task in ended])
    return each, ([task[0] for task in tasks], max(task[_FINISHED_US] for task in tasks))


def _record_rest(
    connection: sqlite3.Connection, settlements: Sequence[Settlement], recorded: Sequence[bool], is_counted: bool
) -> None:
    """Record what few attempts have: something that was written, an error."""
    for settlement, is_recorded in zip(settlements, recorded, strict=True):
        row = row_of_trace(settlement) if is_recorded or _amend(connection, settlement, is_counted) else None
        if row is not None:
            connection.execute(QUERY["record_trace"], row)
        error = settlement.ending.error
        if error is not None and error.where and is_recorded:
            claim = settlement.claim
            connection.execute(QUERY["record_fingerprint"], (error.fingerprint, claim.seq, claim.attempt))


def _amend(connection: Statements, settlement: Settlement, is_counted: bool) -> bool:
    """Add to an attempt that has recorded its own end what is known since its function returned; whether it has."""
    is_amended = _run("amend_attempt", connection, [row_of_amendment(settlement)]) == 1
    if is_amended and is_counted:
        feed(connection, AMENDED, [(settlement.claim.seq, settlement.claim.attempt, False)])
    return is_amended


def _run(name: str, connection: Statements, rows: Sequence[Row]) -> int:
    """Run the query *name* for all *rows*; returns how many rows of the store it changed."""
    return sum(connection.execute(query, parameters).rowcount for query, parameters in in_chunks(name, rows))


def _claim(connection: sqlite3.Connection, request: ClaimRequest, now: datetime, allowances: Allowances) -> list[Claim]:
    free = {pool.value: count for pool, count in request.free.items()}
    query, unknown = (QUERY["runnable"], ()) if not request.unknown else leaving_out("runnable", request.unknown)
    found: list[Row] = []
    keyed: KeyedTasks | None = None
    for queue, pool, is_limited, is_keyed in connection.execute(QUERY["open_lines"]).fetchall():
        is_ours = queue not in request.excluded and (request.queues is None or queue in request.queues)
        if is_ours and pool in free:
            most = min(free[pool], allowances.read(queue)) if is_limited else free[pool]
            ((answer,),) = connection.execute(query, (queue, pool, int(most), *unknown)).fetchall()
            found += runnable_rows(answer)
            if is_keyed and most >= 1:
                keyed = keyed or KeyedTasks(connection, request.unknown)
                keyed.add_line(queue, pool, int(most), partial(_is_open, free, allowances, queue, pool))
    found.sort(key=urgency)
    chosen: list[Row] = []
    for row in found if keyed is None else keyed.among(found):
        pool = row[9]
        has_room = free[pool] and (keyed is None or keyed.has_room(row))
        if has_room and allowances.take(row[8]):  # of its queue and of its key, or of neither
            free[pool] -= 1
            chosen.append(row)
            if keyed is not None:
                keyed.take(row)
    for query, seqs in in_chunks("claim", [(row[2],) for row in chosen]):
        connection.execute(query, (request.owner, to_us(now), *seqs))
    return [claim_of_row(row, _arguments(connection, row), request.owner, now) for row in chosen]


def claim_first(connection: sqlite3.Connection, owner: str, task_id: TaskId, now: datetime) -> Exchange | None:
    """Claim that task if nothing should come before it, else ``None``."""
    parameters = {"owner": owner, "id": task_id, "now": to_us(now)}
    for due_us, arguments, *row in connection.execute(QUERY["claim_first"], parameters).fetchall():
        claim = claim_of_row(tuple(row), _filled_in(connection, arguments), owner, now)
        return Exchange(recorded=(), claims=(claim,), next_due=optional_moment(due_us))
    return None


def _is_open(free: Mapping[str, int], allowances: Allowances, queue: str, pool: str) -> bool:
    return free[pool] > 0 and allowances.allow(queue)


def _arguments(connection: sqlite3.Connection, row: Row) -> bytes:
    _, _, seq, _, _, _, _, short, *_ = row
    if short is not None:
        arguments = bytes(short.encode("utf-8", "surrogatepass"))
    else:
        ((long,),) = connection.execute(QUERY["arguments"], (seq,)).fetchall()
        arguments = bytes(long)
    return _filled_in(connection, arguments)


def _filled_in(connection: sqlite3.Connection, arguments: bytes) -> bytes:
    return dependencies.filled_in(connection, arguments) if codec.REFERENCE_MARK in arguments else arguments
