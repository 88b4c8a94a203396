"""kill -9 of workers and children at random moments: nothing is lost or finished twice, no process is left behind.

Judged from the log that the tasks themselves append to, and from the attempt rows. The seed draws who is killed and
after how many starts; what runs at that moment is the machine's doing, so a case is much the same again, not exactly.
"""

import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from thirdshift import BackgroundTaskManager
from thirdshift.testing import coroutines, functions
from thirdshift.testing.signals import TIMEOUT_S, Signal
from thirdshift.testing.torture import worker_program
from thirdshift.testing.torture.checker import Violation
from thirdshift.testing.torture.harness import Verdict, demand

VICTIMS = ("worker", "child", "both")
SEED = 20_260_101
_TASKS = 120
_KILLS = 6


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
        demand(connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "the file is damaged")
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
    demand(set(ends.values()) == {"completed"}, "a task is lost")
    demand(max(starts.values()) == 1, "one attempt started twice")
    for task_id in story.ids:
        recorded = dict(story.attempts[task_id])
        *earlier, (last, outcome) = story.attempts[task_id]
        if task_id in story.given_up:  # it was in the line of fire three times, which P5 takes for its own doing
            demand(
                [outcome for _, outcome in earlier[-2:]] == ["interrupted"] * 2, "a task failed without three crashes"
            )
            ran_in = {story.processes.get((task_id, number)) for number, _ in story.attempts[task_id][-3:]}
            demand(ran_in - {None} <= story.killed, "a task failed for a death that nobody caused")
        else:
            demand(outcome == "completed", "a task has not completed")
            demand((task_id, last) in ended, "an outcome is on record that no task has reached")
        demand({outcome for _, outcome in earlier} <= {"interrupted"}, "an outcome is doubled")
        started = {number for task, number in starts if task == task_id}
        demand(started <= set(recorded), "a start has no recorded attempt")
    lines = [(what, task) for what, task, _ in story.log]
    for child, parent in story.parents.items():
        if parent not in story.given_up:
            demand(lines.index(("end", parent)) < lines.index(("start", child)), "a task did not wait for another")


def wait_for_starts(said: Signal, wanted: int, worker: subprocess.Popen[bytes]) -> None:
    for _ in range(wanted):
        said.wait()
    demand(worker.poll() is None, "a worker has ended by itself")


def demand_gone(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                demand(select.select([descriptor], [], [], TIMEOUT_S)[0], f"process {pid} was left behind")
            finally:
                os.close(descriptor)


def kill_at_random(
    folder: Path, tasks: int, kills: int, seed: int | str = SEED, plant: str | None = None
) -> tuple[Story, Counter[str]]:
    """Kill a worker, one of its children, or both, at seeded random moments while its tasks run.

    Every fourth task waits for the one before it. Returns the story and how often each was killed. *plant* is SQL that
    breaks the store for the workers; then none waits, for it might wait for ever.
    """
    draw = random.Random(seed)
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
            worker = worker or start_worker(database)
            try:
                wait_for_starts(said, draw.randint(1, tasks // kills), worker)
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


def start_worker(database: Path) -> "subprocess.Popen[bytes]":
    """Start a worker; what it says stands beside the database."""
    with database.with_name("workers.log").open("ab") as said:
        return subprocess.Popen([sys.executable, "-W", "error", worker_program.__file__, database], stderr=said)


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


class Kills:
    """Rounds of kills; one round is one case."""

    name = "kills"
    what = "kill -9 of workers, of their children, and of both while tasks run in threads, processes and coroutines"
    controls: Mapping[str, int] = dict.fromkeys(FAULTS, 3)

    def why_not(self) -> str | None:
        """Return why nothing can be judged here."""
        return None if Path("/proc/self").exists() else "there is no /proc, which says who is left"

    @contextmanager
    def open(self, folder: Path, kept: Path, seed: int, fault: str | None = None) -> Iterator["Rounds"]:
        """Break the store for the workers by the planted SQL, if any."""
        yield Rounds(folder, kept, seed, fault)


class Rounds:
    """All rounds of one seed."""

    cases: int | None = None

    def __init__(self, folder: Path, kept: Path, seed: int, fault: str | None) -> None:
        self._folder = folder / "round"
        self._kept = kept
        self._seed = seed
        self._fault = fault

    def judge(self, number: int) -> Verdict:
        """Kill, finish what is left, and judge the story."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        plant = None if self._fault is None else FAULTS[self._fault]
        found: list[Violation] = []
        lines: list[str] = []
        try:
            story, _ = kill_at_random(self._folder, _TASKS, _KILLS, f"{self._seed}/{number}", plant)
            lines = [" ".join(map(str, line)) for line in story.log]
            judge(story)
        except (AssertionError, TimeoutError) as error:
            found.append(Violation("I2", str(error)))
            shutil.copytree(self._folder, self._kept / str(number), dirs_exist_ok=True, ignore=_special)
        starts = sum(line.startswith("start") for line in lines)
        return Verdict(figures={"kills": _KILLS, "tasks": _TASKS, "starts": starts}, violations=found, story=lines)


def _special(folder: str, names: list[str]) -> list[str]:
    """Leave out pipes and sockets."""
    return [name for name in names if not (Path(folder) / name).is_file() and not (Path(folder) / name).is_dir()]
