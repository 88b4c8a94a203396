"""Functions that workers cannot find: each function here runs inside one transaction of the :class:`Writer`.

A worker gives such a task back, and others take it. It fails when, for a long time, it was due and none of the workers
that take it could find its function.
"""

import json
import sqlite3
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from thirdshift.core.engine import WorkerState
from thirdshift.core.outcome import Ending, Settlement
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import AttemptOutcome, Claim, TaskError
from thirdshift.engines.sqlite import work
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.engines.sqlite.rows import fence, to_us, worker_of_row

_STRETCH = timedelta(hours=1)
"""A function that nobody has met for so long, and for as long as its tasks may wait, is new when it is met again."""
_FIRST_LOOK = timedelta(minutes=1)
"""A worker that is up for so long and has not met the function is busy with other tasks, or could find it."""


def decline(
    connection: sqlite3.Connection,
    refusals: Sequence[tuple[Claim, TaskError]],
    now: datetime,
    unknown_after: timedelta,
    *,
    is_counted: bool,
) -> list[Settlement]:
    """Give tasks back whose function their worker cannot find, or fail them; returns those that failed."""
    connection.execute(QUERY["forget_unknown"], (to_us(now - max(unknown_after, _STRETCH)),))
    failed: list[Settlement] = []
    for claim, error in refusals:
        others = _others(connection, claim)
        _remember(connection, claim, error, now, is_known=any(each.started_at <= now - _FIRST_LOOK for each in others))
        if others or _since(connection, claim) > to_us(now - unknown_after):
            connection.execute(QUERY["give_back"], {**fence(claim), "now": to_us(now)})
        else:
            failed.append(Settlement(claim, Ending(AttemptOutcome.FAILED, None, now, error=error), TaskStatus.FAILED))
    recorded = work.settle(connection, failed, is_counted=is_counted)
    return [settlement for settlement, is_recorded in zip(failed, recorded, strict=True) if is_recorded]


def found(connection: sqlite3.Connection, owner: str, functions: Collection[str], now_us: int) -> None:
    """Remember that *owner* can find these functions after all."""
    names = json.dumps(list(functions))
    connection.execute(QUERY["forget_unknown_to"], (owner, names))
    connection.execute(QUERY["renew_unknown"], (now_us, names))


def _others(connection: sqlite3.Connection, claim: Claim) -> list[WorkerState]:
    """Return the other workers that take the task and have not said that they cannot find its function."""
    blind = {worker for worker, _, _ in connection.execute(QUERY["unknown_to"], (claim.function,))}
    workers = map(worker_of_row, connection.execute(QUERY["workers"]).fetchall())
    able = [each for each in workers if each.takes(claim.queue) and each.slots_for(claim.pool)]
    return [each for each in able if each.id not in blind and each.id != claim.owner]


def _remember(connection: sqlite3.Connection, claim: Claim, error: TaskError, now: datetime, *, is_known: bool) -> None:
    facts = {"function": claim.function, "worker": claim.owner, "error": str(error), "now": to_us(now)}
    connection.execute(QUERY["meet_unknown"], {**facts, "is_known": is_known})
    connection.execute(QUERY["note_unknown_to"], facts)


def _since(connection: sqlite3.Connection, claim: Claim) -> int:
    """Return since when the task waits for a worker that finds its function, in microseconds."""
    ((since_us,),) = connection.execute(QUERY["unknown_since"], (claim.function, claim.seq)).fetchall()
    return int(since_us)
