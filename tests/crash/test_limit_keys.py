"""Two workers are killed again and again while they run tasks of few limit keys: never too many of a key at once.

Judged from the log that the tasks themselves append to, one line at each start and end. A worker is stopped, noted as
dead, and killed: what it had begun has ended then, and nobody could start anything instead before.
Long form: ``THIRDSHIFT_KILLS=2000`` (``make torture``).
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager
from thirdshift.testing import functions
from thirdshift.testing.signals import TIMEOUT_S, Signal
from thirdshift.testing.torture import worker_program

PROGRAM = worker_program.__file__
KILLS = int(os.environ.get("THIRDSHIFT_KILLS") or 16)
TASKS = 10 * KILLS
KEYS = {"one": 1, "another": 1, "two": 2, "five": 5}
"""How many tasks of each limit key may run at once."""
SEED = 20_260_105


@dataclass(frozen=True)
class Story:
    """What happened, as the tasks wrote it and as the killer knows it."""

    keys: dict[str, str]
    log: list[tuple[str, str, int, int]]
    """(start, end or killed, task, number of the attempt, process)."""
    statuses: dict[str, str]


def most_at_once(story: Story) -> Counter[str]:
    """Return how many tasks of each limit key ran at once, at most."""
    running: dict[tuple[str, int], int] = {}
    most: Counter[str] = Counter()
    for what, task, attempt, pid in story.log:
        if what == "start":
            running[task, attempt] = pid
        elif what == "end":
            del running[task, attempt]
        else:
            running = {each: owner for each, owner in running.items() if owner != pid}
        most |= Counter(story.keys[task] for task, _ in running)
    assert not running, "an attempt has no end"
    return most


def judge(story: Story) -> None:
    assert set(story.statuses.values()) == {"completed"}, "a task waits for ever"
    most = most_at_once(story)
    assert all(most[key] <= limit for key, limit in KEYS.items()), f"too many of a key ran at once: {most}"


class Crowd:
    """Two worker processes on one file, each of which somebody kills now and then."""

    def __init__(self, database: Path, log: Path, stack: ExitStack) -> None:
        self._database = database
        self._log = log
        self._stack = stack
        self._workers: list[subprocess.Popen[bytes]] = []
        self.start()
        self.start()

    def start(self) -> None:
        worker = subprocess.Popen([sys.executable, "-W", "error", PROGRAM, self._database, "4"])
        self._stack.callback(worker.wait)
        self._stack.callback(worker.kill)
        self._workers.append(worker)

    def kill(self, number: int) -> None:
        """Kill one; another takes its place."""
        worker = self._workers.pop(number)
        worker.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(worker.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "the worker has ended by itself"
        with self._log.open("a") as log:
            log.write(f"killed - 0 {worker.pid}\n")
        worker.kill()
        worker.wait()
        self.start()


def read_log(log: Path) -> Iterator[tuple[str, str, int, int]]:
    for line in log.read_text().splitlines():
        what, task, attempt, pid = line.split()
        yield what, task, int(attempt), int(pid)


def live_through(folder: Path, kills: int, plant: str | None = None) -> Story:
    """Kill workers at random moments while they run the tasks of a few keys; the rest of them is run in peace.

    *plant* is SQL that breaks the store for the workers.
    """
    draw = random.Random(SEED)
    database, log = folder / "tasks.db", folder / "log"
    log.touch()
    keys: dict[str, str] = {}
    with ExitStack() as stack:
        manager = stack.enter_context(BackgroundTaskManager(database=database, start=False))
        said = stack.enter_context(Signal(folder / "said"))
        for key, limit in KEYS.items():
            manager.limit_key(key, limit)
        for _ in range(TASKS):
            key = draw.choice(list(KEYS))
            submitter = manager.options(limit_key=key, durability="relaxed", max_retries=0)
            handle = submitter.submit(functions.log_run_with_progress, str(log), said.path, draw.uniform(0.0, 0.1))
            keys[handle.id] = key
        if plant is not None:
            with closing(sqlite3.connect(database)) as connection:
                connection.executescript(plant)
        crowd = Crowd(database, log, stack)
        for _ in range(kills):
            for _ in range(draw.randrange(1, 8)):
                said.wait()
            crowd.kill(draw.randrange(2))
        assert manager.wait_until_drained(4 * TIMEOUT_S)
        statuses = {task_id: manager.handle(task_id).status.value for task_id in keys}
    return Story(keys, list(read_log(log)), statuses)


@pytest.mark.timeout(0 if KILLS > 100 else 300)
def test_never_too_many_of_a_limit_key_run_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever is killed; and all of them run in the end, as many at once as may."""
    story = live_through(tmp_path, KILLS)
    judge(story)
    starts = sum(what == "start" for what, *_ in story.log)
    most = dict(most_at_once(story))
    with capsys.disabled():
        sys.stdout.write(f"\n{KILLS} kills of workers, {TASKS} tasks, {starts} starts; most at once: {most}\n")
    assert most.keys() == KEYS.keys()
    assert most["five"] > 1, "a key that may run five at once has never run two"
    demand_the_judge_sees(story)


def test_workers_that_do_not_count_are_found_out(tmp_path: Path) -> None:
    """Negative control: it is the count of what runs that holds the others back."""
    plant = "DROP VIEW key_room; CREATE VIEW key_room AS SELECT *, 9 AS room FROM key_line"
    with pytest.raises(AssertionError, match="too many of a key ran at once"):
        judge(live_through(tmp_path, 1, plant))


def demand_the_judge_sees(story: Story) -> None:
    """Negative control: the same story with one fact changed is no longer believed."""
    task = next(task for task, key in story.keys.items() if key == "one")
    last = max(number for number, (what, *_) in enumerate(story.log) if what == "end")
    start = next(number for number, (what, name, *_) in enumerate(story.log) if (what, name) == ("start", task))
    other = next(each for each, key in story.keys.items() if key == "one" and each != task)
    twice = [*story.log[: start + 1], ("start", other, 99, 0), ("end", other, 99, 0), *story.log[start + 1 :]]
    with pytest.raises(AssertionError, match="too many of a key"):
        judge(replace(story, log=twice))
    with pytest.raises(AssertionError, match="an attempt has no end"):
        judge(replace(story, log=story.log[:last] + story.log[last + 1 :]))
    with pytest.raises(AssertionError, match="a task waits for ever"):
        judge(replace(story, statuses={**story.statuses, task: "pending"}))
