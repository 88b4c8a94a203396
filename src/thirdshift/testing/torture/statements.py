"""A process is killed at every SQL statement, of its work and of every migration: nothing is lost, nothing half done.

What a store looks like between two steps of the work is seen first, from victims that die just there. Every other
victim must leave the state before the step in which it died or the one after it, and the next worker must finish all.
"""

import random
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from thirdshift import BackgroundTaskManager
from thirdshift.core.errors import StoreError
from thirdshift.core.status import FINISHED, TaskStatus
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.engines.sqlite.connection import APPLICATION_ID
from thirdshift.engines.sqlite.queries import migrations
from thirdshift.testing.clock import FakeClock
from thirdshift.testing.torture.checker import Violation
from thirdshift.testing.torture.harness import Broken, Verdict, demand
from thirdshift.testing.torture.program import Program
from thirdshift.testing.torture.statement_victim import EARLY, FILE_NAME, NEVER, NO_FENCE, NO_TRANSACTION

State = dict[str, Any]
NEWEST = migrations()[-1][0]


class Death(NamedTuple):
    """What one victim was told and what it has left."""

    folder: Path
    acknowledged: list[str]
    made: list[int]
    """How many statements it had made at each acknowledgement."""
    statements: int | None
    """How many it has made, if nobody died."""


class Victims(Program):
    """The process that forks one victim for each case."""

    def __init__(self, folder: Path) -> None:
        super().__init__("thirdshift.testing.torture.statement_victim")
        self._folder = folder
        self._cases = 0

    def kill_at(self, statement: int, fault: str | None = None, *, source: Path | None = None) -> Death:
        """Kill one at that statement, or at none; with the folder *source* it only opens the file in a copy of it."""
        self._cases += 1
        folder = self._folder / str(self._cases)
        if source is None:
            folder.mkdir()
        else:
            shutil.copytree(source, folder)
        case = {"folder": str(folder), "die_at": statement, "fault": fault, "only_open": source is not None}
        return Death(folder, **self.ask(case))


# What must be true of a file


def state_of(file: Path) -> State:
    """Everything that matters of a store: tasks, attempts, paused queues, keys; workers are named by their order."""
    with closing(sqlite3.connect(file)) as connection:
        demand(connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "the file is damaged")
        demand(connection.execute("PRAGMA foreign_key_check").fetchall() == [], "a row points to nothing")
        tasks = connection.execute(
            "SELECT id, status, attempt, failures, due_at, owner IS NULL, cancel_requested_at, finished_at FROM task"
        ).fetchall()
        attempts = connection.execute(
            "SELECT id, number, outcome, result, error_type FROM attempt JOIN task ON seq = task ORDER BY id, number"
        ).fetchall()
        paused = connection.execute("SELECT name FROM queue WHERE paused_at IS NOT NULL").fetchall()
        progress = connection.execute("SELECT task, attempt, facts FROM progress").fetchall()
        has_steps = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'step'").fetchone()  # since version 4
        steps = connection.execute("SELECT * FROM step").fetchall() if has_steps else []
        keys = keys_of(connection)
    return {
        "tasks": sorted(tasks),
        "attempts": attempts,
        "paused": paused,
        "progress": progress,
        "steps": steps,
        "keys": keys,
    }


def whole_state_of(file: Path) -> State:
    """The same of the newest schema, with what older ones did not know."""
    with closing(sqlite3.connect(file)) as connection:
        causes = connection.execute("SELECT task, number, error_fingerprint FROM attempt").fetchall()
        unknown = connection.execute("SELECT * FROM unknown_function").fetchall()
        unknown_to = connection.execute("SELECT function, error, at FROM unknown_to").fetchall()
        dependencies = connection.execute("SELECT * FROM dependency ORDER BY parent, child").fetchall()
        cancelled_by = connection.execute("SELECT id, cancelled_by FROM task ORDER BY id").fetchall()
        events = connection.execute("SELECT task, kind FROM event ORDER BY seq").fetchall()
        limits = connection.execute("SELECT * FROM key_limit").fetchall()
        lines = connection.execute("SELECT * FROM key_line").fetchall()
        schedules = connection.execute("SELECT * FROM schedule ORDER BY seq").fetchall()
        fires = connection.execute("SELECT * FROM fire").fetchall()
        made = connection.execute("SELECT id, schedule FROM task WHERE schedule IS NOT NULL ORDER BY id").fetchall()
    return {
        **state_of(file),
        "causes": causes,
        "unknown": unknown,
        "unknown_to": unknown_to,
        "dependencies": dependencies,
        "cancelled_by": cancelled_by,
        "events": events,
        "limits": limits,
        "lines": lines,
        "schedules": schedules,
        "fires": fires,
        "made": made,
    }


def keys_of(connection: sqlite3.Connection) -> list[Any]:
    """The tasks with a unique key and the keys that are held; none in a file that is older than they are."""
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'held_key'").fetchone() is None:
        return []
    tasks = connection.execute("SELECT id, unique_key, name, queue FROM task WHERE unique_key IS NOT NULL ORDER BY id")
    return [*tasks, *connection.execute("SELECT * FROM held_key ORDER BY key")]


def demand_consistency(file: Path) -> None:
    """Attempts and tasks tell one story."""
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT seq, status, attempt, failures FROM task").fetchall()
        for seq, status, newest, failures in rows:
            attempts = connection.execute(
                "SELECT number, outcome FROM attempt WHERE task = ? ORDER BY number", [seq]
            ).fetchall()
            numbers = [number for number, _ in attempts]
            demand(len(set(numbers)) == len(numbers), "an attempt has ended twice")
            demand(all(1 <= number <= newest for number in numbers), "an attempt was never claimed")
            ended = [outcome for _, outcome in attempts]
            demand(sum(outcome in ("failed", "timed_out") for outcome in ended) >= failures, "a failure nobody made")
            demand(status != "running" or newest not in numbers, "an attempt runs that has ended")
            is_over = status in ("completed", "failed")
            demand(not is_over or attempts[-1] == (newest, status), "a task and its last attempt differ")
        demand_consistent_dependencies(connection)


def demand_consistent_dependencies(connection: sqlite3.Connection) -> None:
    """Each says what follows from the status of its parent; who waits waits for somebody, and for nobody in vain."""
    statuses = dict(connection.execute("SELECT seq, status FROM task").fetchall())
    states: dict[int, list[str]] = {}
    for parent, child, need, state in connection.execute("SELECT parent, child, need, state FROM dependency"):
        status = TaskStatus(statuses[parent])
        good = "met" if need == "any" or status is TaskStatus.COMPLETED else "failed"
        demand(state == (good if status.is_finished else "open"), "a dependency does not follow its parent")
        states.setdefault(child, []).append(state)
    for seq, status in statuses.items():
        if status == "waiting":
            demand("open" in states[seq] and "failed" not in states[seq], "a task waits in vain")


def demand_liveness(file: Path, *, failed: int = 0) -> None:
    """A fresh worker ends everything that is not finished, each task with exactly one terminal outcome."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("UPDATE queue SET paused_at = NULL")
        connection.execute("UPDATE task SET due_at = 0 WHERE status IN ('scheduled', 'retrying', 'waiting')")
        unfinished = {
            task_id for (task_id,) in connection.execute("SELECT id FROM task WHERE finished_at IS NULL").fetchall()
        }
    with BackgroundTaskManager(max_workers=1, database=file) as manager:
        for task_id in unfinished:
            manager.handle(task_id).wait(120)
        demand(manager.shutdown(drain=True), "the next worker does not come to its end")
    clock = FakeClock()
    clock.advance(timedelta(days=1).total_seconds())
    engine = SQLiteEngine.shared(file, clock=clock)
    counts = engine.counts()
    demand(engine.workers() == [], "a dead worker is still registered")
    engine.close()
    left = {status.value: count for status, count in counts.items() if count and status not in FINISHED}
    demand(not left, f"tasks are left: {left}")
    demand(counts[TaskStatus.FAILED] == failed, f"{counts[TaskStatus.FAILED]} tasks have failed")


def check(folder: Path, acknowledged: list[str], states: list[State]) -> None:
    """What was acknowledged stands; what was under way is done whole or not at all."""
    found = whole_state_of(folder / FILE_NAME)
    done = len(acknowledged)
    allowed = states[done : done + 2]
    demand(found in allowed, f"killed after {acknowledged[-1:]}: what is stored is no state between two steps")
    demand_consistency(folder / FILE_NAME)


# Migrations

TASKS_OF_THE_FIRST_SCHEMA = """
INSERT INTO queue VALUES ('default', NULL), ('paused', 1);
INSERT INTO worker (id, pid, host, started_at, slots) VALUES ('gone', 1, 'host', 1, 4);
INSERT INTO task (seq, id, name, function, arguments, queue, pool, priority, status, submitted_at, due_at, durable,
                  max_retries, tags, attempt, failures, owner, claimed_at, finished_at)
SELECT value, printf('%032x', value), 'echo', 'thirdshift.testing.functions:echo', x'5b312c5b315d2c7b7d5d',
       iif(value % 2, 'default', 'paused'), 'thread', value % 3, status, 1, 2 + value, 1, 3, '[]',
       status NOT IN ('pending', 'scheduled'), status = 'retrying' OR status = 'failed',
       iif(status = 'running', 'gone', NULL), iif(status = 'running', 3, NULL),
       iif(status IN ('completed', 'failed', 'cancelled'), 4, NULL)
FROM (SELECT value, CASE value % 7 WHEN 0 THEN 'pending' WHEN 1 THEN 'scheduled' WHEN 2 THEN 'running'
                                   WHEN 3 THEN 'retrying' WHEN 4 THEN 'completed' WHEN 5 THEN 'failed'
                                   ELSE 'cancelled' END AS status
      FROM (WITH RECURSIVE number (value) AS (VALUES (1) UNION ALL SELECT value + 1 FROM number WHERE value < 70)
            SELECT value FROM number));
INSERT INTO attempt (task, number, outcome, worker, claimed_at, started_at, finished_at, result, error_type)
SELECT seq, 1, iif(status = 'retrying', 'failed', status), 'gone', 3, 3, 4,
       iif(status = 'completed', x'5b312c315d', NULL), iif(status = 'completed', NULL, 'ValueError')
FROM task WHERE status IN ('retrying', 'completed', 'failed', 'cancelled');
INSERT INTO progress SELECT seq, 1, 3, '{"done": 1}' FROM task WHERE status = 'running';
INSERT INTO event (task, at, kind) SELECT seq, 4, 'cancel_requested' FROM task WHERE status = 'cancelled';
"""
FAILED_TASKS = 10


def make_file(file: Path, version: int) -> None:
    """Make the file that the code of schema *version* has left: its tasks are as old as the first schema."""
    if version == 0:
        return
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for number, script in migrations()[:version]:
            connection.executescript(script)
            if number == 1:
                connection.executescript(TASKS_OF_THE_FIRST_SCHEMA)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {version}")


def schema_of(file: Path) -> tuple[int, list[tuple[str, str]]]:
    """The version that the file says it has, and the tables, indexes and triggers that it has."""
    with closing(sqlite3.connect(file)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        found = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").fetchall()
    return version, found


def check_migration(folder: Path, old: Path, new: Path) -> bool:
    """The file has the old or the new schema, whole, and all its tasks; returns whether it has the new one."""
    file = folder / FILE_NAME
    found = schema_of(file)
    demand(found in (schema_of(old), schema_of(new)), f"the schema is half done: version {found[0]}")
    demand(not found[0] or state_of(file) == state_of(new), "a migration has changed tasks")
    SQLiteEngine.shared(file, clock=FakeClock()).close()
    demand(schema_of(file) == schema_of(new), "the next start does not finish the migration")
    demand(state_of(file) == state_of(new), "the next start does not find the tasks as they were")
    return found[0] == NEWEST


# The harness


class Statements:
    """Deaths at statements; one statement is one case."""

    name = "statements"
    what = "a process is killed at every SQL statement of every kind of write, and of every migration"
    controls: Mapping[str, int] = {EARLY: 100, NO_FENCE: 400, NO_TRANSACTION: 200}

    def why_not(self) -> str | None:
        """Return nothing: it works everywhere."""
        return None

    @contextmanager
    def open(self, folder: Path, kept: Path, seed: int, fault: str | None = None) -> Iterator["Deaths"]:
        """See the states between the steps; the seed draws the order of the deaths."""
        with Victims(folder) as victims:
            yield Deaths(victims, folder, kept, seed, fault)


class _Point(NamedTuple):
    """Where a victim dies: while it works, or while it opens a file of that schema version."""

    version: int | None
    statement: int

    def __str__(self) -> str:
        what = "the work" if self.version is None else f"the migration from version {self.version}"
        return f"killed at statement {self.statement} of {what}"


class Deaths:
    """All statements at which a process can be killed."""

    def __init__(self, victims: Victims, folder: Path, kept: Path, seed: int, fault: str | None) -> None:
        self._victims = victims
        self._kept = kept
        self._fault = fault
        self._points: list[_Point] = []
        self.states: list[State] = []
        """What a store looks like after 0, 1, 2 … steps."""
        if fault != NO_TRANSACTION:
            self._add_work()
        self._migrations: dict[int, tuple[Path, Path]] = {}
        """For each version a folder with a file as that version has left it, and one with the file as it is now."""
        if fault in (None, NO_TRANSACTION):
            for version in range(NEWEST):
                self._add_migration(version, folder / f"version-{version}")
        random.Random(seed).shuffle(self._points)

    @property
    def cases(self) -> int:
        """Return how many there are."""
        return len(self._points)

    def judge(self, number: int) -> Verdict:
        """Kill a victim at point *number* of the drawn order."""
        point = self._points[number]
        source = None if point.version is None else self._migrations[point.version][0]
        death = self._victims.kill_at(point.statement, self._fault, source=source)
        found: list[Violation] = []
        try:
            if point.version is None:
                check(death.folder, death.acknowledged, self.states)
                demand_liveness(death.folder / FILE_NAME)
            else:
                self._check_migration(point, death.folder)
        except (Broken, StoreError, sqlite3.Error) as error:
            found.append(Violation("I1", f"{point}: {error}"))
            shutil.copytree(death.folder, self._kept / str(number), dirs_exist_ok=True)
        shutil.rmtree(death.folder, ignore_errors=True)
        return Verdict(figures={"crash points": 1}, violations=found, story=[str(point), *death.acknowledged])

    def _add_work(self) -> None:
        whole = self._victims.kill_at(NEVER)
        assert whole.statements is not None
        for made in (0, *whole.made):
            death = self._victims.kill_at(made + 1)  # the first statement of the next step, which does nothing yet
            self.states.append(whole_state_of(death.folder / FILE_NAME))
        self._points += [_Point(None, statement) for statement in range(1, whole.statements + 2)]

    def _add_migration(self, version: int, old: Path) -> None:
        old.mkdir()
        make_file(old / FILE_NAME, version)
        new = self._victims.kill_at(NEVER, source=old)
        assert new.statements is not None
        self._migrations[version] = old, new.folder
        self._points += [_Point(version, statement) for statement in range(1, new.statements + 1)]

    def _check_migration(self, point: _Point, folder: Path) -> None:
        assert point.version is not None
        old, new = self._migrations[point.version]
        check_migration(folder, old / FILE_NAME, new / FILE_NAME)
        if point.statement == 1:  # all of them leave the same file now, so one of them shows what comes of it
            demand_liveness(folder / FILE_NAME, failed=FAILED_TASKS if point.version else 0)
