"""A process that is killed at any SQL statement loses nothing it acknowledged and leaves nothing half-done."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from thirdshift import BackgroundTaskManager
from thirdshift.core.errors import StoreError
from thirdshift.core.status import FINISHED, TaskStatus
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.engines.sqlite.connection import APPLICATION_ID
from thirdshift.engines.sqlite.queries import migrations
from thirdshift.testing.clock import FakeClock

CHILD = Path(__file__).with_name("statement_child.py")
FILE_NAME = "tasks.db"
State = dict[str, Any]


class Victims:
    """The process that forks one victim for each case."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cases = 0
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def kill_at(
        self, statement: int, fault: str | None = None, *, source: Path | None = None
    ) -> tuple[Path, list[str], int | None]:
        """Returns the folder that is left, what was acknowledged, and the number of statements if nobody died.

        With the folder *source* the victim only opens the file in a copy of it.
        """
        self._cases += 1
        folder = self._folder / str(self._cases)
        if source is None:
            folder.mkdir()
        else:
            shutil.copytree(source, folder)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        case = {"folder": str(folder), "die_at": statement, "fault": fault, "only_open": source is not None}
        process.stdin.write(json.dumps(case) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        return folder, answer["acknowledged"], answer["statements"]

    def close(self) -> None:
        self._process.communicate(timeout=10)


@dataclass(frozen=True)
class Kill:
    """One victim: what it acknowledged and what it left."""

    folder: Path
    acknowledged: list[str]


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    """In memory where that is possible: what a kill leaves does not depend on the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        victims = Victims(Path(folder))
        yield victims
        victims.close()


@pytest.fixture(scope="module")
def kills(victims: Victims) -> list[Kill]:
    """One kill at every statement, and one after the last."""
    _, _, statements = victims.kill_at(0)
    assert statements is not None
    return [Kill(*victims.kill_at(statement)[:2]) for statement in range(1, statements + 2)]


@pytest.fixture(scope="module")
def states(kills: list[Kill]) -> list[State]:
    """What a store looks like after 0, 1, 2 … steps: the first victim that died in the following step shows it."""
    first: dict[int, State] = {}
    for kill in kills:
        if len(kill.acknowledged) not in first:
            first[len(kill.acknowledged)] = whole_state_of(kill.folder / FILE_NAME)
    return [first[number] for number in range(len(first))]


def state_of(file: Path) -> State:
    """Everything that matters of a store: tasks, attempts, paused queues, keys; workers are named by their order."""
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
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
            assert len(set(numbers)) == len(numbers)
            assert all(1 <= number <= newest for number in numbers)
            assert sum(outcome in ("failed", "timed_out") for _, outcome in attempts) >= failures
            if status == "running":
                assert newest not in numbers
            if status in ("completed", "failed"):
                assert attempts[-1] == (newest, status)
        demand_consistent_dependencies(connection)


def demand_consistent_dependencies(connection: sqlite3.Connection) -> None:
    """Each says what follows from the status of its parent; who waits waits for somebody, and for nobody in vain."""
    statuses = dict(connection.execute("SELECT seq, status FROM task").fetchall())
    states: dict[int, list[str]] = {}
    for parent, child, need, state in connection.execute("SELECT parent, child, need, state FROM dependency"):
        status = TaskStatus(statuses[parent])
        good = "met" if need == "any" or status is TaskStatus.COMPLETED else "failed"
        assert state == (good if status.is_finished else "open")
        states.setdefault(child, []).append(state)
    for seq, status in statuses.items():
        if status == "waiting":
            assert "open" in states[seq]
            assert "failed" not in states[seq]


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
            manager.handle(task_id).wait(20)
        assert manager.shutdown(drain=True)
    clock = FakeClock()
    clock.advance(timedelta(days=1).total_seconds())
    engine = SQLiteEngine.shared(file, clock=clock)
    counts = engine.counts()
    assert engine.workers() == []
    engine.close()
    assert all(count == 0 for status, count in counts.items() if status not in FINISHED)
    assert counts[TaskStatus.FAILED] == failed


def check(folder: Path, acknowledged: list[str], states: list[State]) -> None:
    """What was acknowledged stands; what was under way is done whole or not at all."""
    found = whole_state_of(folder / FILE_NAME)
    done = len(acknowledged)
    allowed = states[done : done + 2]
    assert found in allowed, f"killed after {acknowledged[-1:]}: what is stored is no state between two steps"
    demand_consistency(folder / FILE_NAME)


def test_a_kill_at_any_statement_loses_nothing(
    kills: list[Kill], states: list[State], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every statement of every kind of write: submit, claim, settle, retry, cancel, rescue, pause, delete."""
    for kill in kills:
        check(kill.folder, kill.acknowledged, states)
        demand_liveness(kill.folder / FILE_NAME)
    with capsys.disabled():
        sys.stdout.write(f"\ncrash points: {len(kills)} at {len(states) - 1} operations, 0 violations\n")
    assert len(kills) > 100


@pytest.mark.parametrize(("fault", "share"), [("acknowledges before it commits", 0.1), ("has no fence", 0.05)])
def test_the_harness_catches_a_planted_fault(
    victims: Victims,
    kills: list[Kill],
    states: list[State],
    fault: str,
    share: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Negative control: who acknowledges before the commit, or settles what another worker holds, is found out."""
    caught = 0
    tried = range(1, len(kills), 5)
    for statement in tried:
        folder, acknowledged, _ = victims.kill_at(statement, fault)
        try:
            check(folder, acknowledged, states)
        except AssertionError:
            caught += 1
    with capsys.disabled():
        sys.stdout.write(f"\na victim that {fault}: caught at {caught} of {len(tried)} crash points\n")
    assert caught > len(tried) * share


# Migrations

NEWEST = migrations()[-1][0]

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
    assert found in (schema_of(old), schema_of(new)), f"the schema is half done: version {found[0]}"
    if found[0]:
        assert state_of(file) == state_of(new)
    SQLiteEngine.shared(file, clock=FakeClock()).close()
    assert schema_of(file) == schema_of(new)
    assert state_of(file) == state_of(new), "the next start does not find the tasks as they were"
    return found[0] == NEWEST


@pytest.mark.parametrize("version", range(NEWEST))
def test_a_kill_at_any_statement_of_a_migration_leaves_the_old_schema_or_the_new_one(
    victims: Victims, tmp_path: Path, version: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """From every earlier version, and from nothing; no task is lost, and the next start goes on."""
    make_file(tmp_path / FILE_NAME, version)
    new, opened, statements = victims.kill_at(0, source=tmp_path)
    assert opened == ["opened"]
    assert statements is not None
    if version:
        assert state_of(new / FILE_NAME) == state_of(tmp_path / FILE_NAME)
    migrated = 0
    for statement in range(1, statements + 1):
        folder, _, _ = victims.kill_at(statement, source=tmp_path)
        migrated += check_migration(folder, tmp_path / FILE_NAME, new / FILE_NAME)
    demand_liveness(new / FILE_NAME, failed=FAILED_TASKS if version else 0)
    with capsys.disabled():
        sys.stdout.write(
            f"\nmigration {version} to {NEWEST}: crash points: {statements},"
            f" {migrated} left the new schema, 0 violations\n"
        )
    assert 0 < migrated < statements


def test_the_harness_catches_a_migration_without_a_transaction(victims: Victims, tmp_path: Path) -> None:
    """Negative control."""
    make_file(tmp_path / FILE_NAME, NEWEST - 1)
    new, _, statements = victims.kill_at(0, source=tmp_path)
    assert statements is not None
    caught = 0
    for statement in range(1, statements + 1):
        folder, _, _ = victims.kill_at(statement, "has no transaction", source=tmp_path)
        try:
            check_migration(folder, tmp_path / FILE_NAME, new / FILE_NAME)
        except (AssertionError, sqlite3.Error, StoreError):
            caught += 1
    assert caught
