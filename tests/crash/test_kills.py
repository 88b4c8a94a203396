"""kill -9 of workers and children at random moments: nothing is lost or finished twice, no process is left behind.

Judged from the log that the tasks themselves append to, and from the attempt rows.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager, TaskStatus
from thirdshift.testing import functions
from thirdshift.testing.signals import TIMEOUT_S, Signal
from thirdshift.testing.torture import kills, worker_program

pytestmark = pytest.mark.alone

KILLS = int(os.environ.get("THIRDSHIFT_KILLS") or 25)
TASKS = 20 * KILLS if KILLS < 200 else 50 * KILLS
STOPPED_S = 120.0 if KILLS >= 200 else 4.0


def test_kill_9_loses_nothing_and_doubles_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Workers with threads and children, their children, and both are killed at random moments while tasks run."""
    story, killed = kills.kill_at_random(tmp_path, TASKS, KILLS)
    kills.judge(story)
    starts = sum(what == "start" for what, *_ in story.log)
    restarts = sum(len(attempts) - 1 for attempts in story.attempts.values())
    assert restarts >= KILLS / 2, "the kills hit running tasks"
    assert set(killed) == set(kills.VICTIMS)
    assert len(story.given_up) <= killed["child"] + killed["both"], "the last crash of each was that of its child"
    with capsys.disabled():
        sys.stdout.write(
            f"\nkills: {KILLS} ({dict(killed)}) over {TASKS} tasks, {starts} starts, {restarts} interruptions on "
            f"record, {len(story.given_up)} failed after three crashes in a row, 0 lost, 0 doubled, no process left\n"
        )
    demand_the_judge_sees(story)


@pytest.mark.parametrize("words", kills.FAULTS)
def test_the_kills_find_a_planted_fault(words: str, tmp_path: Path) -> None:
    """Negative control: the same kills, judged by the same judge."""
    story, _ = kills.kill_at_random(tmp_path, tasks=120, kills=6, plant=kills.FAULTS[words])
    with pytest.raises(AssertionError, match=words):
        kills.judge(story)


def demand_the_judge_sees(story: kills.Story) -> None:
    """Negative control: the same story with one fact changed is no longer believed."""
    task_id = next(
        task for task, attempts in story.attempts.items() if len(attempts) > 1 and task not in story.given_up
    )
    number, _ = story.attempts[task_id][0]
    first_start = next(entry for entry in story.log if entry[0] == "start")
    last_end = next(entry for entry in reversed(story.log) if entry[0] == "end")
    (last, _) = story.attempts[task_id][-1]
    crashes = [(last - 2, "interrupted"), (last - 1, "interrupted"), (last, "failed")]
    forgeries = {
        "a task is lost": replace(story, statuses={**story.statuses, task_id: "running"}),
        "an outcome is doubled": replace(
            story, attempts={**story.attempts, task_id: [(number, "completed"), *story.attempts[task_id][1:]]}
        ),
        "a task failed for a death that nobody caused": replace(
            story,
            attempts={**story.attempts, task_id: crashes},
            given_up=story.given_up | {task_id},
            killed=story.killed - {story.processes[task_id, last]},
        ),
        "a task did not wait for another": replace(story, parents={first_start[1]: last_end[1]}),
        "one attempt started twice": replace(story, log=[first_start, *story.log]),
        "a start has no recorded attempt": replace(story, log=[("start", task_id, 99), *story.log]),
        "an outcome is on record that no task has reached": replace(
            story, log=[entry for entry in story.log if entry[:2] != ("end", task_id)]
        ),
    }
    for words, forgery in forgeries.items():
        with pytest.raises(AssertionError, match=words):
            kills.judge(forgery)


def stop_between_commits(pid: int, database: Path) -> None:
    """Stop it while it does not hold the write lock: nobody could write while such a one is stopped."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=0)) as connection:
        while True:
            os.kill(pid, signal.SIGSTOP)
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)  # signals are quick, but not done when kill returns
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.01)
            else:
                connection.execute("ROLLBACK")
                return


def test_a_stopped_worker_is_never_robbed(tmp_path: Path) -> None:
    """However long it is stopped: it holds its locks, so its tasks wait for it and run once."""
    database, log = tmp_path / "tasks.db", tmp_path / "log"
    log.touch()
    with BackgroundTaskManager(database=database, start=False) as manager, Signal(tmp_path / "said") as said:
        stopped = subprocess.Popen([sys.executable, "-W", "error", worker_program.__file__, database])
        try:
            held = [
                manager.options(pool=pool).submit(functions.log_run, str(log), said.path, 0.5)
                for pool in ("thread", "process")
            ]
            kills.wait_for_starts(said, len(held), stopped)
            stop_between_commits(stopped.pid, database)
            with BackgroundTaskManager(database=database) as other:
                until = time.monotonic() + STOPPED_S
                while time.monotonic() < until:  # the other one works, looks for the dead, and takes nothing
                    assert other.submit(functions.add, 1, 1).result(TIMEOUT_S) == 2
                    time.sleep(0.1)
                assert {handle.status for handle in held} == {TaskStatus.RUNNING}
                os.kill(stopped.pid, signal.SIGCONT)
                for handle in held:
                    handle.wait(TIMEOUT_S)
        finally:
            stopped.kill()
            stopped.wait()
        story = kills.read_story([handle.id for handle in held], log, database, set(), {})
    kills.judge(story)
    assert [len(story.attempts[handle.id]) for handle in held] == [1, 1]
