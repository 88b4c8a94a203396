"""Submits with a unique key, alone or among others: each function runs inside one transaction. See docs/adr/0011."""

import sqlite3
from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from thirdshift.core.errors import UniqueConflict
from thirdshift.core.task import NewTask, OnConflict, TaskId, UniqueKey
from thirdshift.engines.sqlite import dependencies
from thirdshift.engines.sqlite.links import Statements
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.engines.sqlite.rows import Row, optional_us, row_of_new
from thirdshift.engines.sqlite.submit import demand_room, enter_lines, insert, prepare

_SPEC_OF = attrgetter("spec")


class Landing(NamedTuple):
    """The task that a submit led to."""

    id: TaskId
    is_new: bool = False
    is_replaced: bool = False


def submit(connection: Statements, task: NewTask, now_us: int) -> Landing:
    """Store *task* unless another one holds its key; then do as it says. Raises :class:`UniqueConflict`."""
    row, unique = row_of_new(task, now_us), task.spec.unique
    ties = dependencies.ties_of(connection, task.spec.after) if task.spec.after else None
    row = row if ties is None else ties.held(row)
    key = None if unique is None else unique.key
    connection.execute(QUERY["release_expired"], (key, now_us))
    if connection.execute(QUERY["submit_unique"], (*row, key)).rowcount:
        enter_lines(connection, [row])
        _hold(connection, unique, task.id, now_us)
        if ties is not None:
            ties.tie(connection, [task.id], now_us)
        return Landing(task.id, is_new=True)
    ((found,),) = connection.execute(QUERY["key_holder"], {"id": task.id, "key": key}).fetchall()
    holder = TaskId(bytes(found).decode())
    if holder == task.id or unique is None:
        return Landing(holder)
    if unique.on_conflict is OnConflict.ERROR:
        raise UniqueConflict(unique.key, holder)
    is_replaced = unique.on_conflict is OnConflict.REPLACE and _replace(connection, holder, row, ties)
    if is_replaced:
        _hold(connection, unique, holder, now_us)
        if ties is not None:
            ties.tie(connection, [holder], now_us)
    elif task.spec.durable:
        connection.execute(QUERY["make_durable"], (holder,))
    return Landing(holder, is_replaced=is_replaced)


def submit_all(
    connection: Statements,
    tasks: Sequence[NewTask],
    now_us: Callable[[], int],
    queue_size: int | None,
    new_queues: Collection[str],
) -> list[Landing]:
    """Store *tasks*, of which some have a unique key or wait for others, in order: one may wait for one before it.

    Raises ``QueueFull``, ``UniqueConflict``, ``ParentNotFound`` and ``DependencyCycle``.
    """
    prepare(connection, None, 0, new_queues)
    landings: list[Landing] = []
    for spec, of_spec in groupby(tasks, _SPEC_OF):
        group = list(of_spec)
        if spec.unique is not None:
            landings += [submit(connection, task, now_us()) for task in group]
            continue
        if spec.after:
            dependencies.submit(connection, group, now_us())
        else:
            insert(connection, [row_of_new(task, now_us()) for task in group], None, ())
        landings += [Landing(task.id, is_new=True) for task in group]
    if queue_size is not None and any(landing.is_new for landing in landings):
        demand_room(connection, queue_size, 0)
    return landings


def demand_free_key(connection: sqlite3.Connection, task_id: str) -> None:
    """Raise :class:`UniqueConflict` when the task is finished and a live one has its key by now."""
    rival = connection.execute(QUERY["live_rival"], {"id": task_id}).fetchone()
    if rival is not None:
        raise UniqueConflict(*rival)


def forget_expired_keys(connection: sqlite3.Connection, now_us: int, limit: int) -> int:
    """Delete at most *limit* keys whose period is over; returns how many."""
    return connection.execute(QUERY["forget_expired_keys"], (now_us, limit)).rowcount


def _hold(connection: Statements, unique: UniqueKey | None, holder: TaskId, now_us: int) -> None:
    period_us = None if unique is None else optional_us(unique.period_s)
    if unique is not None and period_us is not None:
        connection.execute(QUERY["hold_key"], (unique.key, holder, now_us + period_us))


def _replace(connection: Statements, holder: TaskId, row: Row, ties: dependencies.Ties | None) -> bool:
    """Make *holder* the task of *row* if it has not started; returns whether. It waits for nothing else any more."""
    if ties is not None:
        dependencies.demand_no_cycle(connection, holder, ties)
    if not connection.execute(QUERY["replace"], (*row, holder)).rowcount:
        return False
    status = row[2]
    connection.execute(QUERY["reschedule"], {"id": holder, "status": status})
    connection.execute(QUERY["forget_steps_of"], (holder,))
    connection.execute(QUERY["forget_dependencies"], (holder,))
    return True
