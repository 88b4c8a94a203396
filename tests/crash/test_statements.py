"""A process that is killed at any SQL statement loses nothing it acknowledged and leaves nothing half-done."""

import json
import os
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
from thirdshift.core.status import FINISHED, TaskStatus
from thirdshift.engines.sqlite import SQLiteEngine
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

    def kill_at(self, statement: int, fault: str | None = None) -> tuple[Path, list[str], int | None]:
        """Returns the folder that is left, what was acknowledged, and the number of statements if nobody died."""
        self._cases += 1
        folder = self._folder / str(self._cases)
        folder.mkdir()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"folder": str(folder), "die_at": statement, "fault": fault}) + "\n")
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
            first[len(kill.acknowledged)] = state_of(kill.folder / FILE_NAME)
    return [first[number] for number in range(len(first))]


def state_of(file: Path) -> State:
    """Everything that matters of a store: tasks, attempts and paused queues; workers are named by their order."""
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
    return {"tasks": sorted(tasks), "attempts": attempts, "paused": paused, "progress": progress}


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


def demand_liveness(file: Path) -> None:
    """A fresh worker ends everything that is not finished, each task with exactly one terminal outcome."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("UPDATE queue SET paused_at = NULL")
        connection.execute("UPDATE task SET due_at = 0 WHERE status IN ('scheduled', 'retrying')")
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
    assert counts[TaskStatus.FAILED] == 0


def check(folder: Path, acknowledged: list[str], states: list[State]) -> None:
    """What was acknowledged stands; what was under way is done whole or not at all."""
    found = state_of(folder / FILE_NAME)
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


def test_the_harness_catches_a_planted_fault(victims: Victims, kills: list[Kill], states: list[State]) -> None:
    """Negative control: a worker that acknowledges before it commits is found out."""
    caught = 0
    tried = range(1, len(kills), 5)
    for statement in tried:
        folder, acknowledged, _ = victims.kill_at(statement, "acknowledges before it commits")
        try:
            check(folder, acknowledged, states)
        except AssertionError:
            caught += 1
    assert caught > len(tried) / 10
