"""kill -9 of workers and children at random moments: nothing is lost or finished twice, no process is left behind.

Judged from the log that the tasks themselves append to, and from the attempt rows.
"""

import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager, TaskStatus
from thirdshift.testing import coroutines, functions
from thirdshift.testing.signals import TIMEOUT_S, Signal

pytestmark = pytest.mark.alone

PROGRAM = Path(__file__).with_name("worker_program.py")
KILLS = int(os.environ.get("THIRDSHIFT_KILLS") or 25)
TASKS = 20 * KILLS if KILLS < 200 else 50 * KILLS
VICTIMS = ("worker", "child", "both")
STOPPED_S = 120.0 if KILLS >= 200 else 4.0
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
    given_up: frozenset[str]
    """The tasks that failed because three or more of their starts in a row ended with the death of their process."""
    processes: dict[tuple[str, int], int]
    """Which process ran each attempt that said it had started."""
    killed: frozenset[int]
    """The processes that were killed, or were alive in a worker that was."""
    parents: dict[str, str]
    """The task that each one waits for which waits for any."""


def read_story(ids: list[str], log: Path, database: Path, killed: set[int], parents: dict[str, str]) -> Story:
    lines = [line.split() for line in log.read_text().splitlines()]
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute(
            "SELECT id, number, outcome FROM attempt JOIN task ON seq = task ORDER BY id, number"
        ).fetchall()
        statuses = dict(connection.execute("SELECT id, status FROM task").fetchall())
        given_up = connection.execute(
            "SELECT id FROM attempt JOIN task ON seq = task WHERE status = 'failed' AND number = task.attempt"
            " AND outcome = 'failed' AND error_type = 'ProcessDied' AND error_message LIKE '%(crash % in a row)'"
        ).fetchall()
    attempts: dict[str, list[tuple[int, str]]] = {}
    for task_id, number, outcome in rows:
        attempts.setdefault(task_id, []).append((number, outcome))
    return Story(
        ids,
        [(what, task, int(number)) for what, task, number, _pid in lines],
        attempts,
        statuses,
        frozenset(task_id for (task_id,) in given_up),
        {(task, int(number)): int(pid) for _what, task, number, pid in lines},
        frozenset(killed),
        parents,
    )


def judge(story: Story) -> None:
    """Nothing lost, one outcome each, every further start has a recorded cause."""
    starts = Counter((task, number) for what, task, number in story.log if what == "start")
    ended = {(task, number) for what, task, number in story.log if what == "end"}
    ends = {task_id: story.statuses.get(task_id) for task_id in story.ids if task_id not in story.given_up}
    assert set(ends.values()) == {"completed"}, "a task is lost"
    assert max(starts.values()) == 1, "one attempt started twice"
    for task_id in story.ids:
        recorded = dict(story.attempts[task_id])
        *earlier, (last, outcome) = story.attempts[task_id]
        if task_id in story.given_up:  # it was in the line of fire three times, which P5 takes for its own doing
            assert [outcome for _, outcome in earlier[-2:]] == ["interrupted"] * 2, (
                "a task failed without three crashes"
            )
            ran_in = {story.processes.get((task_id, number)) for number, _ in story.attempts[task_id][-3:]}
            assert ran_in - {None} <= story.killed, "a task failed for a death that nobody caused"
        else:
            assert outcome == "completed"
            assert (task_id, last) in ended, "an outcome is on record that no task has reached"
        assert {outcome for _, outcome in earlier} <= {"interrupted"}, "an outcome is doubled"
        started = {number for task, number in starts if task == task_id}
        assert started <= set(recorded), "a start has no recorded attempt"
    lines = [(what, task) for what, task, _ in story.log]
    for child, parent in story.parents.items():
        if parent not in story.given_up:
            assert lines.index(("end", parent)) < lines.index(("start", child)), "a task did not wait for another"


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


def kill_at_random(folder: Path, tasks: int, kills: int, plant: str | None = None) -> tuple[Story, Counter[str]]:
    """Kill a worker, one of its children, or both, at seeded random moments while its tasks run.

    Every fourth task waits for the one before it. Returns the story and how often each was killed. *plant* is SQL that
    breaks the store for the workers; then none waits, for it might wait for ever.
    """
    draw = random.Random(SEED)
    database, log = folder / "tasks.db", folder / "log"
    log.touch()
    killed: Counter[str] = Counter()
    with BackgroundTaskManager(database=database, start=False) as manager, Signal(folder / "said") as said:
        ids: list[str] = []
        parents: dict[str, str] = {}
        for number in range(tasks):
            pool = ("thread", "process", "async")[number % 3]
            function = coroutines.log_run if pool == "async" else functions.log_run
            after = ids[-1:] if number % 4 == 3 and plant is None else []
            submitter = manager.options(pool=pool, durability="relaxed", max_retries=0, after_any_outcome=after)
            ids.append(submitter.submit(function, str(log), said.path, draw.uniform(0.0, 0.02)).id)
            parents |= dict.fromkeys([ids[-1]] * len(after), ids[number - 1])
        if plant is not None:
            with closing(sqlite3.connect(database)) as connection:
                connection.executescript(plant)
        dead: set[int] = set()
        hit: set[int] = set()
        worker = None
        for number in range(kills):
            worker = worker or subprocess.Popen([sys.executable, "-W", "error", PROGRAM, database])
            try:
                wait_for_starts(said, draw.randint(1, 2 * tasks // kills - 6), worker)
                victim = "worker" if number == kills - 1 else draw.choice(VICTIMS)
                if victim != "worker":
                    hit |= kill_child(log, worker, draw)
            except BaseException:
                victim = "worker"
                raise
            finally:
                killed[victim] += 1
                if victim != "child":
                    hit |= {pid for pid in processes_of(log) - dead if Path(f"/proc/{pid}").exists()}
                    worker.kill()
                    worker.wait()
            if victim != "child":
                worker = None
                new = processes_of(log) - dead
                demand_gone(new)
                dead |= new
        with BackgroundTaskManager(max_workers=2, pools={"async": 2}, database=database) as finisher:
            for task_id in ids:
                finisher.handle(task_id).wait(TIMEOUT_S)
    return read_story(ids, log, database, hit, parents), killed


def processes_of(log: Path, lines: int | None = None) -> set[int]:
    """Return the processes that wrote the last *lines* of the log, or all of it."""
    return {int(line.split()[3]) for line in log.read_text().splitlines()[-(lines or 0) :]}


def kill_child(log: Path, worker: subprocess.Popen[bytes], draw: random.Random) -> set[int]:
    """Kill one of the processes that run tasks for *worker*, if it has any by now; returns which."""
    alive = sorted(pid for pid in processes_of(log, 20) - {worker.pid} if Path(f"/proc/{pid}").exists())
    if not alive:
        return set()
    victim = draw.choice(alive)
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    return {victim}


def test_kill_9_loses_nothing_and_doubles_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Workers with threads and children, their children, and both are killed at random moments while tasks run."""
    story, killed = kill_at_random(tmp_path, TASKS, KILLS)
    judge(story)
    starts = sum(what == "start" for what, *_ in story.log)
    restarts = sum(len(attempts) - 1 for attempts in story.attempts.values())
    assert restarts >= KILLS / 2, "the kills hit running tasks"
    assert set(killed) == set(VICTIMS)
    assert len(story.given_up) <= killed["child"] + killed["both"], "the last crash of each was that of its child"
    with capsys.disabled():
        sys.stdout.write(
            f"\nkills: {KILLS} ({dict(killed)}) over {TASKS} tasks, {starts} starts, {restarts} interruptions on "
            f"record, {len(story.given_up)} failed after three crashes in a row, 0 lost, 0 doubled, no process left\n"
        )
    demand_the_judge_sees(story)


FAULTS = {
    "an outcome is on record that no task has reached": """
        CREATE TRIGGER completed_when_claimed AFTER UPDATE OF status ON task WHEN NEW.status = 'running'
        BEGIN
            INSERT INTO attempt (task, number, outcome, worker, claimed_at, finished_at)
            VALUES (NEW.seq, NEW.attempt, 'completed', NEW.owner, NEW.claimed_at, NEW.claimed_at);
            UPDATE task SET status = 'completed', finished_at = NEW.claimed_at, owner = NULL, claimed_at = NULL
            WHERE seq = NEW.seq;
        END;
    """,
    "a start has no recorded attempt": """
        CREATE TRIGGER silent_rescue BEFORE INSERT ON attempt WHEN NEW.outcome = 'interrupted'
        BEGIN
            SELECT RAISE(IGNORE);
        END;
    """,
}
"""What the judge says of a store that acknowledges outcomes too early, and of one that rescues without a word."""


@pytest.mark.parametrize("words", FAULTS)
def test_the_kills_find_a_planted_fault(words: str, tmp_path: Path) -> None:
    """Negative control: the same kills, judged by the same judge."""
    story, _ = kill_at_random(tmp_path, tasks=120, kills=6, plant=FAULTS[words])
    with pytest.raises(AssertionError, match=words):
        judge(story)


def demand_the_judge_sees(story: Story) -> None:
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
            judge(forgery)


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
        stopped = subprocess.Popen([sys.executable, "-W", "error", PROGRAM, database])
        try:
            held = [
                manager.options(pool=pool).submit(functions.log_run, str(log), said.path, 0.5)
                for pool in ("thread", "process")
            ]
            wait_for_starts(said, len(held), stopped)
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
        story = read_story([handle.id for handle in held], log, database, set(), {})
    judge(story)
    assert [len(story.attempts[handle.id]) for handle in held] == [1, 1]
