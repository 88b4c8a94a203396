"""kill -9 of a worker at random moments: nothing is lost, nothing is finished twice, no child is left behind.

Judged from the log that the tasks themselves append to, and from the attempt rows.
"""

import os
import random
import select
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager
from thirdshift.testing import functions
from thirdshift.testing.signals import TIMEOUT_S, Signal

PROGRAM = Path(__file__).with_name("worker_program.py")
TASKS = 500
KILLS = 25
SEED = 20_260_101


@dataclass(frozen=True)
class Story:
    """What happened, from two sources that know nothing of each other."""

    ids: list[str]
    log: list[tuple[str, str, int]]
    """(start or end, task, number of the attempt), as the tasks wrote it."""
    attempts: dict[str, list[tuple[int, str]]]
    """(number, outcome) of every attempt on record."""
    statuses: dict[str, str]


def read_story(ids: list[str], log: Path, database: Path) -> Story:
    lines = [line.split() for line in log.read_text().splitlines()]
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute(
            "SELECT id, number, outcome FROM attempt JOIN task ON seq = task ORDER BY id, number"
        ).fetchall()
        statuses = dict(connection.execute("SELECT id, status FROM task").fetchall())
    attempts: dict[str, list[tuple[int, str]]] = {}
    for task_id, number, outcome in rows:
        attempts.setdefault(task_id, []).append((number, outcome))
    return Story(ids, [(what, task, int(number)) for what, task, number, _pid in lines], attempts, statuses)


def judge(story: Story) -> None:
    """Nothing lost, one outcome each, every further start has a recorded cause."""
    starts = Counter((task, number) for what, task, number in story.log if what == "start")
    ended = {(task, number) for what, task, number in story.log if what == "end"}
    assert {story.statuses.get(task_id) for task_id in story.ids} == {"completed"}, "a task is lost"
    assert max(starts.values()) == 1, "one attempt started twice"
    for task_id in story.ids:
        recorded = dict(story.attempts[task_id])
        *earlier, (last, outcome) = story.attempts[task_id]
        assert outcome == "completed"
        assert (task_id, last) in ended, "an outcome is on record that no task has reached"
        assert {outcome for _, outcome in earlier} <= {"interrupted"}, "an outcome is doubled"
        started = {number for task, number in starts if task == task_id}
        assert started <= set(recorded), "a start has no recorded attempt"


def wait_for_starts(said: Signal, wanted: int, worker: subprocess.Popen[bytes]) -> None:
    for _ in range(wanted):
        said.wait()
    assert worker.poll() is None


def demand_gone(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                assert select.select([descriptor], [], [], TIMEOUT_S)[0], f"process {pid} was left behind"
            finally:
                os.close(descriptor)


def test_kill_9_loses_nothing_and_doubles_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A worker with threads and children is killed at seeded random moments while its tasks run."""
    draw = random.Random(SEED)
    database, log = tmp_path / "tasks.db", tmp_path / "log"
    log.touch()
    starts = restarts = kills = 0
    with BackgroundTaskManager(database=database, start=False) as manager, Signal(tmp_path / "said") as said:
        ids = []
        for number in range(TASKS):
            submitter = manager.options(pool=("thread", "process")[number % 2], durability="relaxed", max_retries=0)
            ids.append(submitter.submit(functions.log_run, str(log), said.path, draw.uniform(0.0, 0.02)).id)
        pids: set[int] = set()
        for _ in range(KILLS):
            worker = subprocess.Popen([sys.executable, "-W", "error", PROGRAM, database])
            pids.add(worker.pid)
            try:
                wait_for_starts(said, draw.randint(1, 2 * TASKS // KILLS - 6), worker)
            finally:
                worker.kill()
                worker.wait()
            kills += 1
            new = {int(line.split()[3]) for line in log.read_text().splitlines()} - pids
            demand_gone(new)
            pids |= new
        with BackgroundTaskManager(max_workers=2, database=database) as finisher:
            for task_id in ids:
                finisher.handle(task_id).wait(TIMEOUT_S)
    story = read_story(ids, log, database)
    judge(story)
    starts = sum(what == "start" for what, *_ in story.log)
    restarts = sum(len(attempts) - 1 for attempts in story.attempts.values())
    assert restarts >= KILLS / 2, "the kills hit running tasks"
    with capsys.disabled():
        sys.stdout.write(
            f"\nkills: {kills} over {TASKS} tasks, {starts} starts, {restarts} interruptions on record,"
            f" {len(pids)} processes seen and gone, 0 lost, 0 doubled\n"
        )
    demand_the_judge_sees(story)


def demand_the_judge_sees(story: Story) -> None:
    """Negative control: the same story with one fact changed is no longer believed."""
    task_id = next(task for task, attempts in story.attempts.items() if len(attempts) > 1)
    number, _ = story.attempts[task_id][0]
    first_start = next(entry for entry in story.log if entry[0] == "start")
    forgeries = {
        "a task is lost": Story(story.ids, story.log, story.attempts, {**story.statuses, task_id: "running"}),
        "an outcome is doubled": Story(
            story.ids,
            story.log,
            {**story.attempts, task_id: [(number, "completed"), *story.attempts[task_id][1:]]},
            story.statuses,
        ),
        "one attempt started twice": Story(story.ids, [first_start, *story.log], story.attempts, story.statuses),
        "a start has no recorded attempt": Story(
            story.ids, [("start", task_id, 99), *story.log], story.attempts, story.statuses
        ),
        "an outcome is on record that no task has reached": Story(
            story.ids,
            [entry for entry in story.log if entry[:2] != ("end", task_id)],
            story.attempts,
            story.statuses,
        ),
    }
    for words, forgery in forgeries.items():
        with pytest.raises(AssertionError, match=words):
            judge(forgery)
