"""Why a task does not run, read from the store at one moment. Who is alive is asked of the kernel, as always."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from thirdshift.core.engine import WorkerState
from thirdshift.core.limits import Bucket
from thirdshift.core.reason import Reason, ReasonCode
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import PoolKind
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.engines.sqlite.rows import from_us, to_us, worker_of_row

COUNT_LIMIT = 10_000
"""Tasks that come before one are counted up to this number: an answer must not take longer in a longer line."""
MOST_PARENTS = 10
"""So many of those that a task waits for are named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where the task stands."""

    seq: int
    status: TaskStatus
    function: str
    queue: str
    pool: PoolKind
    priority: int
    due_at: datetime
    attempt: int
    failures: int
    max_retries: int
    timeout_s: float | None
    owner: str | None
    claimed_at: datetime | None
    cancel_requested_at: datetime | None
    finished_at: datetime | None
    cancelled_by: str | None
    limit_key: str | None
    attempts: int
    """How many have ended."""
    error: str | None
    """What the last of them left."""


class Inquiry:
    """The question about one task. *connection* is inside a transaction: all answers are of one moment."""

    def __init__(self, connection: sqlite3.Connection, now: datetime, is_alive: Callable[[str], bool]) -> None:
        self._connection = connection
        self._now = now
        self._is_alive = is_alive

    def reasons(self, task_id: str) -> list[Reason]:
        """Return why the task is where it is, most telling first; nothing for an unknown id."""
        place = self._place(task_id)
        if place is None:
            return []
        match place.status:
            case TaskStatus.COMPLETED | TaskStatus.FAILED | TaskStatus.CANCELLED:
                return [_finished(place, self._cause(place))]
            case TaskStatus.RUNNING:
                return [*self._running(place)]
            case TaskStatus.WAITING:
                return [self._waiting(place), *self._held_back(place)]
            case TaskStatus.SCHEDULED | TaskStatus.RETRYING if place.due_at > self._now:
                return [_later(place), *self._held_back(place)]
            case _:  # due, whether anybody has looked at it since or not
                return [*self._held_back(place)] or self._in_line(place)

    # What holds the task

    def _waiting(self, place: _Place) -> Reason:
        rows = self._connection.execute(QUERY["open_parents"], (place.seq, MOST_PARENTS)).fetchall()
        parents = [{"id": task_id, "name": name, "status": status} for task_id, name, status, _ in rows]
        return _reason(ReasonCode.WAITING, count=rows[0][3] if rows else 0, parents=parents)

    def _cause(self, place: _Place) -> dict[str, object] | None:
        """Return the task whose end has cancelled this one, if one has."""
        if place.cancelled_by is None:
            return None
        row = self._connection.execute(QUERY["cause_of_cancellation"], (place.cancelled_by,)).fetchone()
        task_id, name, status = row or (place.cancelled_by, None, None)  # it may be pruned by now
        return {"id": task_id, "name": name, "status": status}

    def _running(self, place: _Place) -> Iterator[Reason]:
        owner, since = place.owner, place.claimed_at
        assert owner is not None, "the schema says so"
        assert since is not None, "the schema says so"
        yield _reason(ReasonCode.RUNNING, worker=owner, attempt=place.attempt, since=since)
        if place.cancel_requested_at is not None:
            yield _reason(ReasonCode.CANCEL_REQUESTED, since=place.cancel_requested_at)
        if place.timeout_s is not None and since + timedelta(seconds=place.timeout_s) < self._now:
            limit_at = since + timedelta(seconds=place.timeout_s)
            yield _reason(ReasonCode.OVERRUN, timeout_s=place.timeout_s, since=limit_at, pool=place.pool.value)
        if not self._is_alive(owner):
            yield _reason(ReasonCode.WORKER_DIED, worker=owner)
            yield from self._held_back(place)

    def _held_back(self, place: _Place) -> Iterator[Reason]:
        """Yield what keeps every worker from the task, however long it waits."""
        paused_at = self._queues.get(place.queue)
        if paused_at is not None:
            yield _reason(ReasonCode.QUEUE_PAUSED, queue=place.queue, since=paused_at)
        alive = self._live_workers
        of_queue = [worker for worker in alive if worker.takes(place.queue)]
        if not alive:
            yield _reason(ReasonCode.NO_WORKER)
        elif not of_queue:
            yield _reason(ReasonCode.NO_WORKER_FOR_QUEUE, queue=place.queue, workers=len(alive))
        elif not any(worker.slots_for(place.pool) for worker in of_queue):
            pool = place.pool.value
            yield _reason(ReasonCode.NO_WORKER_FOR_POOL, queue=place.queue, pool=pool, workers=len(of_queue))
        elif self._blind(place) and not self._able(place):
            yield self._unknown(place)

    def _in_line(self, place: _Place) -> list[Reason]:
        """Return why a task that some worker could take now is not taken yet."""
        able = self._able(place)
        slots = sum(worker.slots_for(place.pool) for worker in able)
        busy = sum(self._count("busy_slots", (worker.id, place.pool.value)) for worker in able)
        before = self._count_before(place, able)
        reasons = [*self._limited(place)]
        if busy >= slots:
            reasons.append(_reason(ReasonCode.SLOTS_BUSY, pool=place.pool.value, slots=slots))
        if before:
            reasons.append(_reason(ReasonCode.TASKS_BEFORE, count=before, is_all=before < COUNT_LIMIT))
        reasons = reasons or [_reason(ReasonCode.NEXT)]
        return [*reasons, self._unknown(place)] if self._blind(place) else reasons

    def _able(self, place: _Place) -> list[WorkerState]:
        """Return the live workers that take the task, and can find its function as far as is known."""
        takers = [each for each in self._live_workers if each.takes(place.queue) and each.slots_for(place.pool)]
        blind = {each["worker"] for each in self._blind(place)}
        return [each for each in takers if each.id not in blind]

    def _blind(self, place: _Place) -> list[dict[str, object]]:
        """Return the live workers that could not find the task's function, and how."""
        alive = {worker.id for worker in self._live_workers}
        rows = self._connection.execute(QUERY["unknown_to"], (place.function,)).fetchall()
        return [{"worker": worker, "error": error, "at": from_us(at)} for worker, error, at in rows if worker in alive]

    def _unknown(self, place: _Place) -> Reason:
        others = len(self._able(place))
        return _reason(ReasonCode.UNKNOWN_FUNCTION, function=place.function, workers=self._blind(place), others=others)

    def _limited(self, place: _Place) -> Iterator[Reason]:
        """Yield the limits of its key and of its queue that are reached now."""
        if place.limit_key is not None:
            concurrency, running = self._connection.execute(QUERY["key_limit"], (place.limit_key,)).fetchone()
            tasks = json.loads(running)
            if len(tasks) >= concurrency:
                yield _reason(ReasonCode.KEY_LIMITED, key=place.limit_key, concurrency=concurrency, tasks=tasks)
        row = self._connection.execute(QUERY["limits"], (place.queue,)).fetchone()
        concurrency, rate, burst, starts, filled_us, running = row
        if concurrency is not None and running >= concurrency:
            yield _reason(ReasonCode.QUEUE_LIMITED, queue=place.queue, concurrency=concurrency)
        if rate is not None:
            bucket = Bucket(rate, burst, starts).after((self._now - from_us(filled_us)).total_seconds())
            if not bucket.free:
                free_at = self._now + timedelta(seconds=bucket.wait_s)
                yield _reason(ReasonCode.RATE_LIMITED, queue=place.queue, rate=rate, free_at=free_at)

    # What is read

    def _place(self, task_id: str) -> _Place | None:
        row = self._connection.execute(QUERY["place"], (task_id,)).fetchone()
        if row is None:
            return None
        (seq, status, function, queue, pool, priority, due, attempt, failures, max_retries, timeout_us) = row[:11]
        owner, claimed, cancel_requested, finished, cancelled_by, limit_key = row[11:]
        last = self._connection.execute(QUERY["last_attempt"], (seq,)).fetchone()
        error_type, error_message, attempts = last or (None, None, 0)
        return _Place(
            seq=seq,
            status=TaskStatus(status),
            function=function,
            queue=queue,
            pool=PoolKind(pool),
            priority=priority,
            due_at=from_us(due),
            attempt=attempt,
            failures=failures,
            max_retries=max_retries,
            timeout_s=None if timeout_us is None else timeout_us / 1e6,
            owner=owner,
            claimed_at=_moment(claimed),
            cancel_requested_at=_moment(cancel_requested),
            finished_at=_moment(finished),
            cancelled_by=cancelled_by,
            limit_key=limit_key,
            attempts=attempts,
            error=None if error_type is None else f"{error_type}: {error_message}",
        )

    @cached_property
    def _queues(self) -> dict[str, datetime | None]:
        return {name: _moment(paused_us) for name, paused_us, *_ in self._connection.execute(QUERY["queues"])}

    @cached_property
    def _live_workers(self) -> list[WorkerState]:
        workers = map(worker_of_row, self._connection.execute(QUERY["workers"]).fetchall())
        return [worker for worker in workers if self._is_alive(worker.id)]

    def _count_before(self, place: _Place, able: Sequence[WorkerState]) -> int:
        """Count the more urgent tasks of all queues from which the same workers take."""
        queues = [name for name, paused_at in self._queues.items() if paused_at is None]
        shared = [name for name in queues if any(worker.takes(name) for worker in able)]
        facts = {
            "pool": place.pool.value,
            "priority": place.priority,
            "due_at": to_us(place.due_at),
            "seq": place.seq,
            "key": place.limit_key,
        }
        count = 0
        for name in shared:
            count += self._count("count_before", {**facts, "queue": name, "limit": COUNT_LIMIT - count})
        return count

    def _count(self, query: str, parameters: Sequence[object] | dict[str, object]) -> int:
        return int(self._connection.execute(QUERY[query], parameters).fetchone()[0])


def _reason(code: ReasonCode, **facts: object) -> Reason:
    return Reason(code=code, facts=facts)


def _finished(place: _Place, cause: dict[str, object] | None) -> Reason:
    error = None if place.status is TaskStatus.COMPLETED else place.error
    return _reason(
        ReasonCode.FINISHED,
        status=place.status.value,
        at=place.finished_at,
        attempts=place.attempts,
        error=error,
        cause=cause,
    )


def _later(place: _Place) -> Reason:
    if place.status is TaskStatus.SCHEDULED:
        return _reason(ReasonCode.NOT_DUE, due_at=place.due_at)
    return _reason(
        ReasonCode.RETRYING,
        due_at=place.due_at,
        failures=place.failures,
        max_retries=place.max_retries,
        error=place.error,
    )


def _moment(value: int | None) -> datetime | None:
    return None if value is None else from_us(value)
