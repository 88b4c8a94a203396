"""Schedules in the file. The row of a fire, its task, and the schedule's next fire time are one transaction.

What is due is planned beside the write lock, from one schedule's row as it stands. The transaction moves that row on
from exactly there, or drops the plan: then another process was first. See docs/adr/0017.
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from thirdshift.core.dependency import Dependency, Need
from thirdshift.core.errors import UsageError
from thirdshift.core.schedule import MOST_QUEUED, ON_TIME_S, FireKind, Overlap, Schedule, plan
from thirdshift.core.schedule_store import Fire, NewSchedule, ScheduleState, Tick, has_same_times, rule_of
from thirdshift.core.task import NewTask, PoolKind, TaskId, TaskSpec
from thirdshift.engines.sqlite import dependencies, manage, submit, wake
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.engines.sqlite.rows import Row, from_us, optional_moment, row_of_new, to_us

T = TypeVar("T")

_KEPT = timedelta(days=2)
_AT_ONCE = 50
"""Schedules that one transaction moves on: some milliseconds under the write lock."""
_SELECT = QUERY["schedules"]
_BY_SEQ = _SELECT + " WHERE s.seq = ?"
_BY_ID = _SELECT + " WHERE s.id = ?"
_BY_NAME = _SELECT + " WHERE s.name = ?"
_BY_ID_OR_NAME = _SELECT + " WHERE s.id = ?1 OR s.name = ?1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """What schedules need of their engine."""

    write: Callable[..., Any]
    """Runs an operation in a transaction of the writer."""
    read: Callable[..., list[Any]]
    """Runs a query outside of it."""
    now: Callable[[], datetime]
    """The engine's clock, which may be set back."""
    announce: Callable[[str], None]
    """Wakes who listens to a topic."""
    listen: Callable[[str, Callable[[], None]], Callable[[], None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stored:
    """One row."""

    seq: int
    revision: int
    looked_at: datetime
    state: ScheduleState


@dataclass(frozen=True, kw_only=True, slots=True)
class _Decision:
    """What is to become of one schedule, from the row *of*."""

    of: _Stored
    fires: tuple[datetime, ...]
    next_at: datetime | None
    has_missed: bool = False


class SQLiteSchedules:
    """The schedules of one file; :class:`thirdshift.core.schedule_store.ScheduleStore`."""

    def __init__(self, store: Access) -> None:
        self._store = store

    def put(self, new: NewSchedule) -> ScheduleState:
        """Store *new*, in place of the one of that name; the same definition again changes nothing."""
        now = self._store.now()
        is_changed, state = self._write(lambda connection: _put(connection, new, now))
        if is_changed:
            self._store.announce(wake.SCHEDULES)
        return state

    def keep_only(self, source: str, names: Collection[str]) -> Sequence[str]:
        """Delete the schedules of *source* that are not among *names*; returns their names."""
        strays = self._store.read(QUERY["schedule_strays"], (source, json.dumps(sorted(names))))
        for schedule_id, _ in strays:
            self._change(QUERY["schedule_delete"], (schedule_id,))
        return [name for _, name in strays]

    def find(self, which: str) -> ScheduleState | None:
        """Return the schedule with that id or name."""
        found = self._stored(which)
        return None if found is None else found.state

    def all(self) -> Sequence[ScheduleState]:
        """Return every schedule, by name."""
        return [_stored_of(row).state for row in self._store.read(_SELECT + " ORDER BY s.name")]

    def fires(self, schedule_id: str, limit: int) -> Sequence[Fire]:
        """Return its newest fires, newest first."""
        found = self._stored(schedule_id)
        if found is None:
            return []
        return [
            _fire_of(found.state.id, found.state.name, row)
            for row in self._store.read(QUERY["fires"], (found.seq, limit))
        ]

    def set_paused(self, schedule_id: str, paused: bool) -> bool:
        """Pause or resume it; returns whether that changed anything."""
        now = self._store.now()

        def change(connection: sqlite3.Connection) -> bool:
            found = _find(connection, _BY_ID, schedule_id)
            if found is None:
                return False
            following = None if paused else found.state.schedule.after(now, found.state.begun_at)
            query = QUERY["schedule_pause" if paused else "schedule_resume"]
            facts = {"id": schedule_id, "now": to_us(now), "next_at": _us(following)}
            return connection.execute(query, facts).rowcount > 0

        return self._changed(change)

    def end(self, schedule_id: str) -> bool:
        """Let it make no more tasks."""
        return self._change(QUERY["schedule_end"], {"id": schedule_id, "now": to_us(self._store.now())})

    def delete(self, schedule_id: str) -> bool:
        """Delete it with the list of its fires."""
        return self._change(QUERY["schedule_delete"], (schedule_id,))

    def run_now(self, schedule_id: str) -> Fire | None:
        """Fire once more, now, by the rule for overlaps."""
        now = self._store.now()

        def fire_now(connection: sqlite3.Connection) -> tuple[_Stored, Fire] | None:
            found = _find(connection, _BY_ID, schedule_id)
            if found is None:
                return None
            at = now
            while (made := _fire(connection, found, at, FireKind.MANUAL, now, set())) is None:
                at += timedelta(microseconds=1)
            return found, made

        done = self._write(fire_now)
        if done is None:
            return None
        found, made = done
        self._announce_fires(found.state.schedule)
        return made

    def tick(self) -> Tick:
        """Make the tasks of all fire times that have come."""
        now = self._store.now()
        now_us = to_us(now)
        late_us = to_us(now + timedelta(seconds=ON_TIME_S))
        seqs = [seq for (seq,) in self._store.read(QUERY["schedules_look"], (now_us, late_us))]
        fires: list[Fire] = []
        missed: list[str] = []
        failed: dict[str, str] = {}
        for start in range(0, len(seqs), _AT_ONCE):
            decisions = list(self._decisions(seqs[start : start + _AT_ONCE], now, failed))
            fires += self._carry_out(decisions, now)
            missed += [decision.of.state.name for decision in decisions if decision.has_missed]
        ((next_us,),) = self._store.read(QUERY["schedules_next"], (now_us,))
        return Tick(fires=fires, next_at=optional_moment(next_us), missed=missed, failed=failed)

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* after schedules were changed, in this or another process."""
        return self._store.listen(wake.SCHEDULES, callback)

    # Inside

    def _stored(self, which: str) -> _Stored | None:
        rows = self._store.read(_BY_ID_OR_NAME, (which,))
        found = [_stored_of(row) for row in rows]
        return next((each for each in found if each.state.id == which), found[0] if found else None)

    def _write(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        result: T = self._store.write(operation, durable=True)
        return result

    def _change(self, query: str, facts: Any) -> bool:
        return self._changed(lambda connection: connection.execute(query, facts).rowcount > 0)

    def _changed(self, change: Callable[[sqlite3.Connection], bool]) -> bool:
        is_changed = self._write(change)
        if is_changed:
            self._store.announce(wake.SCHEDULES)
        return is_changed

    def _decisions(self, seqs: Sequence[int], now: datetime, failed: dict[str, str]) -> Iterator[_Decision]:
        for seq in seqs:
            for row in self._store.read(_BY_SEQ, (seq,)):
                stored = _stored_of(row)
                try:
                    yield self._decide(stored, now)
                except UsageError as error:
                    failed[stored.state.name] = str(error)

    def _decide(self, stored: _Stored, now: datetime) -> _Decision:
        state, schedule = stored.state, stored.state.schedule
        if state.next_at is not None and state.next_at <= now:
            decided = plan(schedule, next_at=state.next_at, now=now, begun=state.begun_at)
            return _Decision(of=stored, fires=decided.fires, next_at=decided.next_at, has_missed=decided.has_missed)
        # The clock was set back: what has fired by then does not fire again, all else is still to come.
        fired = {from_us(at) for (at,) in self._store.read(QUERY["fired_after"], (stored.seq, to_us(now)))}
        following = schedule.following(now, state.begun_at)
        return _Decision(of=stored, fires=(), next_at=next((at for at in following if at not in fired), None))

    def _carry_out(self, decisions: Sequence[_Decision], now: datetime) -> list[Fire]:
        if not decisions:
            return []

        def write(connection: sqlite3.Connection) -> list[Fire]:
            return [fire for decision in decisions for fire in _move_on(connection, decision, now)]

        is_durable = any(decision.of.state.task.durable for decision in decisions if decision.fires)
        fires: list[Fire] = self._store.write(write, durable=is_durable)
        for decision in decisions:
            if decision.fires:
                self._announce_fires(decision.of.state.schedule)
        return fires

    def _announce_fires(self, schedule: Schedule) -> None:
        self._store.announce(wake.WORK)
        if schedule.overlap is Overlap.CANCEL_PREVIOUS:
            self._store.announce(wake.FINISHED)
            self._store.announce(wake.ROOM)


def _put(connection: sqlite3.Connection, new: NewSchedule, now: datetime) -> tuple[bool, ScheduleState]:
    """Insert or replace one; returns whether anything changed, and how it stands."""
    rule = rule_of(new.schedule)
    facts = {
        "source": new.source,
        "rule": json.dumps(rule),
        "task": json.dumps(_json_of_spec(new.task)),
        "arguments": new.arguments,
        "now": to_us(now),
        "next_at": _us(new.schedule.first(now)),
    }
    before = _find(connection, _BY_NAME, new.name)
    if before is None:
        connection.execute(QUERY["schedule_insert"], {**facts, "id": new.id, "name": new.name})
    else:
        state = before.state
        is_same = (state.rule, state.task, state.arguments, state.source) == (rule, new.task, new.arguments, new.source)
        if is_same and state.ended_at is None:
            return False, state
        begun_at = now
        if has_same_times(state.rule, rule) and state.ended_at is None:  # it fires when it would have fired
            begun_at, facts["next_at"] = state.begun_at, _us(state.next_at)
        connection.execute(QUERY["schedule_replace"], {**facts, "id": state.id, "begun_at": to_us(begun_at)})
    stored = _find(connection, _BY_NAME, new.name)
    assert stored is not None, "it was stored in this transaction"
    return True, stored.state


def _move_on(connection: sqlite3.Connection, decision: _Decision, now: datetime) -> list[Fire]:
    """Fire, and find the next fire time; nothing when the row is not where the plan was made."""
    stored = decision.of
    facts = {"id": stored.state.id, "revision": stored.revision, "was": _us(stored.state.next_at)}
    if not connection.execute(
        QUERY["schedule_move_on"], {**facts, "next_at": _us(decision.next_at), "now": to_us(now)}
    ).rowcount:
        return []
    siblings: set[str] = set()
    fires = [_fire(connection, stored, nominal, FireKind.DUE, now, siblings) for nominal in decision.fires]
    if decision.fires:
        connection.execute(QUERY["fires_forget"], (stored.seq, to_us(decision.fires[-1] - _KEPT)))
    return [fire for fire in fires if fire is not None]


def _fire(
    connection: sqlite3.Connection,
    stored: _Stored,
    nominal: datetime,
    kind: FireKind,
    now: datetime,
    siblings: set[str],
) -> Fire | None:
    """Fire once, by the rule for overlaps; ``None``: that fire time has fired before.

    *siblings* are tasks of fire times that were missed and are made up for together: they wait for each other.
    """
    state, schedule, now_us = stored.state, stored.state.schedule, to_us(now)
    facts = {"schedule": stored.seq, "nominal": to_us(nominal), "kind": kind.value}
    if not connection.execute(QUERY["fire_insert"], {**facts, "now": now_us}).rowcount:
        return None
    made = Fire(state.id, state.name, nominal, kind, now, None)
    before = _unfinished(connection, state.id)
    strangers = [task_id for task_id in before if task_id not in siblings]
    if (strangers and schedule.overlap is Overlap.SKIP) or len(before) >= MOST_QUEUED:
        return made
    if strangers and schedule.overlap is Overlap.CANCEL_PREVIOUS:
        for task_id in strangers:
            manage.cancel(connection, task_id, now_us)
        before = _unfinished(connection, state.id)
    due_at = nominal + timedelta(seconds=schedule.delay_s(state.id, nominal)) if kind is FireKind.DUE else now
    spec = replace(
        state.task,
        run_at=max(now, due_at),
        after=tuple(Dependency(task_id, Need.ANY) for task_id in before),
    )
    task = NewTask(_task_id(state.id, nominal, kind), state.arguments, spec)
    submit.prepare(connection, None, 1, (spec.queue,))
    if spec.after:
        dependencies.submit(connection, [task], now_us)
    else:
        submit.insert(connection, [row_of_new(task, now_us)], None, ())
    mark = {"schedule": state.id, "name": state.name, "nominal": facts["nominal"], "task": task.id}
    connection.execute(QUERY["mark_scheduled"], mark)
    connection.execute(QUERY["fire_task"], {**facts, "task": task.id})
    siblings.add(task.id)
    return made._replace(task=task.id)


def _find(connection: sqlite3.Connection, query: str, key: str) -> _Stored | None:
    """Return the row as it stands in the transaction: what was read before it may be old."""
    return next(map(_stored_of, connection.execute(query, (key,))), None)


def _unfinished(connection: sqlite3.Connection, schedule_id: str) -> list[str]:
    return [task_id for (task_id,) in connection.execute(QUERY["unfinished_of_schedule"], (schedule_id,)).fetchall()]


def _task_id(schedule_id: str, nominal: datetime, kind: FireKind) -> TaskId:
    """Return an id that follows from the key of the fire, and sorts among those of its time as all ids do."""
    nominal_us = to_us(nominal)
    mark = hashlib.blake2b(f"{schedule_id} {nominal_us} {kind.value}".encode(), digest_size=10).hexdigest()
    return TaskId(f"{nominal_us // 1000:012x}{mark}")


def _stored_of(row: Row) -> _Stored:
    (
        seq, revision, schedule_id, name, rule, task, arguments, source, begun_us, next_us, paused_us, ended_us,
        *last, looked_us,
    ) = row  # fmt: skip
    state = ScheduleState(
        id=schedule_id,
        name=name,
        rule=json.loads(rule),
        task=_spec_of_json(json.loads(task)),
        arguments=arguments,
        source=source,
        begun_at=from_us(begun_us),
        next_at=optional_moment(next_us),
        paused_at=optional_moment(paused_us),
        ended_at=optional_moment(ended_us),
        last=None if last[0] is None else _fire_of(schedule_id, name, tuple(last)),
    )
    return _Stored(seq=seq, revision=revision, looked_at=from_us(looked_us), state=state)


def _fire_of(schedule_id: str, name: str, row: Row) -> Fire:
    nominal_us, kind, at_us, task = row
    return Fire(schedule_id, name, from_us(nominal_us), FireKind(kind), from_us(at_us), task)


def _us(moment: datetime | None) -> int | None:
    return None if moment is None else to_us(moment)


def _json_of_spec(spec: TaskSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "function": spec.function,
        "queue": spec.queue,
        "pool": spec.pool.value,
        "priority": int(spec.priority),
        "max_retries": spec.max_retries,
        "timeout_s": spec.timeout_s,
        "stall_timeout_s": spec.stall_timeout_s,
        "tags": list(spec.tags),
        "durable": spec.durable,
        "limit_key": spec.limit_key,
    }


def _spec_of_json(facts: dict[str, Any]) -> TaskSpec:
    return TaskSpec(**{**facts, "pool": PoolKind(facts["pool"]), "tags": tuple(facts["tags"])})
