"""Processes race for few unique keys, and work: at any time one task holds a key, and all are told which.

Judged from what the submits answered and from the history in the file. A submit reads its moment under the write lock,
an end before its transaction: so a later holder was submitted after the end of the one before, to the microsecond.
Long form, with eight processes: ``THIRDSHIFT_SUBMITS=10000`` (``make torture``).
"""

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path

import pytest

from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.testing.clock import FakeClock

pytestmark = pytest.mark.alone

PROGRAM = Path(__file__).with_name("racer.py")
SUBMITS = int(os.environ.get("THIRDSHIFT_SUBMITS") or 1_000)
RACERS = 8 if SUBMITS > 1_000 else 4
PERIOD_S = 0.25
"""How long the keys that end with ``0`` are held."""
END_S = 120.0


@dataclass(frozen=True)
class Life:
    """One task as the file tells it; moments in microseconds."""

    id: str
    key: str
    submitted_us: int
    finished_us: int
    runs: tuple[tuple[int, int], ...]

    @property
    def free_us(self) -> int:
        """When it gave its key back."""
        period_us = round(PERIOD_S * 1e6) if self.key.endswith("0") else 0
        return max(self.finished_us, self.submitted_us + period_us)


@dataclass(frozen=True)
class Answer:
    """What one submit was told, and when it began and ended."""

    key: str
    task: str
    began_us: int
    ended_us: int


@dataclass(frozen=True)
class Story:
    """What happened, from two sources that know nothing of each other."""

    lives: list[Life]
    answers: list[Answer]


def judge(story: Story) -> None:
    """One task at a time held each key, and every submit was led to the one that held it then."""
    lives = {life.id: life for life in story.lives}
    assert {answer.task for answer in story.answers} == lives.keys(), "a task is lost, or was submitted by nobody"
    for life in story.lives:
        ((started_us, ended_us),) = life.runs
        assert life.submitted_us <= started_us <= ended_us == life.finished_us, "a task ran outside of its life"
    by_key = sorted(story.lives, key=lambda life: (life.key, life.submitted_us))
    successors = {first.id: second for first, second in pairwise(by_key) if first.key == second.key}
    for task_id, successor in successors.items():
        assert lives[task_id].free_us <= successor.submitted_us, "two tasks held one key"
    for answer in story.answers:
        life, successor = lives[answer.task], successors.get(answer.task)
        assert life.key == answer.key, "a submit led to a task of another key"
        assert life.submitted_us <= answer.ended_us, "a submit led to a task that did not hold the key yet"
        is_newest = successor is None or answer.began_us <= successor.submitted_us
        assert is_newest, "a submit led to a task that held the key no longer"


def race(database: Path, racers: int, submits: int, keys: int) -> Story:
    """Let everybody begin together, and wait until all is done."""
    with ExitStack() as stack:
        processes: list[subprocess.Popen[str]] = []
        for number in range(racers):
            arguments = [str(number), str(database), str(submits // racers), str(keys), str(PERIOD_S)]
            command = [sys.executable, "-W", "error", str(PROGRAM), *arguments]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.communicate(timeout=END_S)[0] for process in processes]
    return Story(read_lives(database), [Answer(*answer) for line in said for answer in json.loads(line)])


def read_lives(database: Path) -> list[Life]:
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        runs = connection.execute("SELECT task, started_at, finished_at FROM attempt ORDER BY task, number").fetchall()
        by_task = {task: tuple(run[1:] for run in ran) for task, ran in groupby(runs, key=lambda run: run[0])}
        tasks = connection.execute("SELECT seq, id, unique_key, submitted_at, finished_at FROM task").fetchall()
    return [Life(*facts, runs=by_task[seq]) for seq, *facts in tasks]


@pytest.mark.timeout(3 * END_S)
def test_racing_submitters_get_one_task_for_each_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever they do about a conflict, while tasks end and keys become free."""
    keys = SUBMITS // 100
    story = race(tmp_path / "tasks.db", RACERS, SUBMITS, keys)
    judge(story)
    makers = Counter(life.key for life in story.lives)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{RACERS} processes, {len(story.answers)} submits of {keys} keys: {len(story.lives)} tasks,"
            f" {min(makers.values())} to {max(makers.values())} for each key; 0 held together\n"
        )
    assert len(story.answers) == SUBMITS
    assert len(makers) == keys
    assert len(story.lives) < SUBMITS, "no submit met another one"
    demand_the_judge_sees(story)


def test_a_race_without_the_index_is_found_out(tmp_path: Path) -> None:
    """Negative control: it is the index of the store that decides."""
    database = tmp_path / "tasks.db"
    SQLiteEngine.shared(database, clock=FakeClock()).close()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DROP INDEX task_unique_key")
    with pytest.raises(AssertionError, match="two tasks held one key"):
        judge(race(database, 2, 40, 2))


def first_of_two(story: Story) -> str:
    """Return the id of a task whose key another task had after it."""
    newest = {life.key: life.submitted_us for life in sorted(story.lives, key=lambda life: life.submitted_us)}
    return next(life.id for life in story.lives if life.submitted_us < newest[life.key])


def demand_the_judge_sees(story: Story) -> None:
    """Negative control: the same story with one fact changed is no longer believed."""
    answer = next(answer for answer in story.answers if answer.task == first_of_two(story))
    life = next(life for life in story.lives if life.id == answer.task)
    next_life = replace(life, id="f" * 32, submitted_us=life.free_us - 1, finished_us=life.free_us, runs=())
    next_life = replace(next_life, runs=((life.free_us, life.free_us),))

    def with_life(**changes: object) -> Story:
        lives = [replace(each, **changes) if each is life else each for each in story.lives]  # type: ignore[arg-type]
        return replace(story, lives=lives)

    def with_answer(**changes: int) -> Story:
        answers = [replace(each, **changes) if each is answer else each for each in story.answers]
        return replace(story, answers=answers)

    forgeries: dict[str, Callable[[], Story]] = {
        "a task is lost": lambda: replace(story, lives=[each for each in story.lives if each is not life]),
        "a task of another key": lambda: with_life(key="another"),
        "did not hold the key yet": lambda: with_answer(began_us=0, ended_us=0),
        "held the key no longer": lambda: with_answer(began_us=2**63, ended_us=2**63),
        "outside of its life": lambda: with_life(runs=((0, life.finished_us),)),
        "two tasks held one key": lambda: Story(
            [*story.lives, next_life],
            [*story.answers, Answer(life.key, next_life.id, next_life.submitted_us, next_life.free_us)],
        ),
    }
    for words, forge in forgeries.items():
        with pytest.raises(AssertionError, match=words):
            judge(forge())
