"""Four processes submit and four work, all on one file: nothing is lost or doubled, nobody starves, nobody sees a lock.

Judged from the log that the tasks themselves append to, one line for each run, and from the attempt rows.
Long form: ``THIRDSHIFT_SECONDS=60`` (``make torture``).
"""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.alone

PROGRAM = Path(__file__).with_name("crowd_program.py")
SECONDS = float(os.environ.get("THIRDSHIFT_SECONDS") or 5)
EACH = 4
END_S = 120.0
"""Longest wait for a process that is told to end, and for the backlog to be worked off."""


@dataclass(frozen=True)
class Story:
    """What happened, from three sources that know nothing of each other."""

    acknowledged: list[str]
    """The ids that the submitters were given."""
    runs: list[tuple[str, int, int]]
    """(task, number of the attempt, process), as the tasks wrote it."""
    attempts: list[tuple[str, int, str, str]]
    """(task, number, outcome, worker) of every attempt on record."""
    statuses: dict[str, str]


def judge(story: Story) -> None:
    """Every acknowledged task has run once and has one outcome, and there is no other."""
    assert len(set(story.acknowledged)) == len(story.acknowledged), "two submits got one id"
    assert set(story.acknowledged) <= story.statuses.keys(), "a task is lost"
    assert story.statuses.keys() <= set(story.acknowledged), "a task was submitted by nobody"
    assert set(story.statuses.values()) == {"completed"}, "a task is not finished"
    runs = Counter(task for task, *_ in story.runs)
    assert runs.keys() == story.statuses.keys(), "a task has not run, or one that nobody knows has"
    assert max(runs.values()) == 1, "a task ran twice"
    outcomes = Counter(task for task, *_ in story.attempts)
    assert outcomes.keys() == story.statuses.keys(), "an outcome is lost"
    assert max(outcomes.values()) == 1, "an outcome is doubled"
    assert {(number, outcome) for _, number, outcome, _ in story.attempts} == {(1, "completed")}, "a wrong outcome"


def read_story(database: Path, log: Path) -> Story:
    acknowledged = [task for number in range(EACH) for task in Path(f"{log}.{number}").read_text().split()]
    lines = [line.split() for line in log.read_text().splitlines()]
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        attempts = connection.execute(
            "SELECT id, number, outcome, worker FROM attempt JOIN task ON seq = task"
        ).fetchall()
        statuses = dict(connection.execute("SELECT id, status FROM task").fetchall())
    return Story(acknowledged, [(task, int(number), int(pid)) for task, number, pid in lines], attempts, statuses)


class Member:
    """One process of the crowd."""

    def __init__(self, role: str, number: int, database: Path, log: Path, said: Path, is_broken: bool) -> None:
        arguments = [role, str(number), str(database), str(log), str(is_broken)]
        command = [sys.executable, "-W", "error", str(PROGRAM), *arguments]
        self._errors = said
        with said.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.pid: int = self.answer()["pid"]

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self._errors.read_text()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def tell(self) -> None:
        """Say the next line: begin, or end. What one that is dead has to say comes with its answer."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def end(self) -> str:
        """Wait for the end; returns what it has complained of."""
        assert self.process.wait(END_S) == 0, self._errors.read_text()
        return self._errors.read_text()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def run_crowd(
    database: Path, log: Path, seconds: float, *, is_broken: bool = False
) -> tuple[list[dict[str, Any]], list[int]]:
    """Let everybody begin together; returns the submitters' figures and the workers' process ids."""
    with ExitStack() as stack:

        def start(role: str, number: int) -> Member:
            member = Member(role, number, database, log, log.with_name(f"{role}-{number}.stderr"), is_broken)
            stack.callback(member.close)
            return member

        workers = [start("worker", number) for number in range(EACH)]
        submitters = [start("submitter", number) for number in range(EACH)]
        for member in (*workers, *submitters):
            member.tell()
        time.sleep(seconds)  # the length of the load, not a wait for an event
        for member in submitters:
            member.tell()
        figures = [member.answer() for member in submitters]
        for member in workers:
            member.tell()
        assert [member.answer() for member in workers] == [{"is_over": True}] * EACH
        complaints = [member.end() for member in (*workers, *submitters)]
        assert complaints == [""] * len(complaints)
        return figures, [member.pid for member in workers]


@pytest.mark.timeout(SECONDS + 2 * END_S)
def test_four_submitters_and_four_workers_share_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No ``database is locked`` and no ``StoreBusy`` reaches anybody, and every process comes forward."""
    database, log = tmp_path / "tasks.db", tmp_path / "log"
    log.touch()
    figures, workers = run_crowd(database, log, SECONDS)
    story = read_story(database, log)
    judge(story)
    runs = Counter(pid for *_, pid in story.runs)
    submitted = [len(Path(f"{log}.{number}").read_text().split()) for number in range(EACH)]
    with capsys.disabled():
        sys.stdout.write(f"\n{_summary(submitted, figures, [runs[pid] for pid in workers])}\n")
    assert min(submitted) > 0
    assert min(each["calls"] for each in figures) > 0
    assert min(each["results"] for each in figures) > 0
    assert runs.keys() == set(workers), "a worker has run nothing"
    assert len({worker for *_, worker in story.attempts}) == EACH
    demand_the_judge_sees(story)


def test_a_crowd_without_the_write_lock_complains(tmp_path: Path) -> None:
    """Negative control: transactions that begin without the lock fail, and the test sees what its processes say."""
    log = tmp_path / "log"
    log.touch()
    with pytest.raises(AssertionError, match=r"StoreBusy|locked"):
        run_crowd(tmp_path / "tasks.db", log, 2.0, is_broken=True)


def _summary(submitted: Sequence[int], figures: Sequence[dict[str, Any]], runs: Sequence[int]) -> str:
    calls = [each["calls"] for each in figures]
    slowest_ms = [round(each["slowest_s"] * 1e3) for each in figures]
    return (
        f"a crowd for {SECONDS:g} s: {sum(submitted)} tasks submitted by each of {EACH}: {list(submitted)},"
        f" in calls: {calls}, results waited for: {[each['results'] for each in figures]},"
        f" slowest submit in ms: {slowest_ms}; run by each of {EACH}: {list(runs)};"
        " 0 lost, 0 doubled, 0 complaints"
    )


def demand_the_judge_sees(story: Story) -> None:
    """Negative control: the same story with one fact changed is no longer believed."""
    task = story.acknowledged[0]
    rest = {other: status for other, status in story.statuses.items() if other != task}
    attempt = next(attempt for attempt in story.attempts if attempt[0] == task)
    run = next(run for run in story.runs if run[0] == task)
    forgeries = {
        "two submits got one id": replace(story, acknowledged=[task, *story.acknowledged]),
        "a task is lost": replace(story, statuses=rest),
        "a task was submitted by nobody": replace(story, acknowledged=story.acknowledged[1:]),
        "a task is not finished": replace(story, statuses={**rest, task: "running"}),
        "a task has not run": replace(story, runs=[other for other in story.runs if other != run]),
        "a task ran twice": replace(story, runs=[run, *story.runs]),
        "an outcome is lost": replace(story, attempts=[other for other in story.attempts if other != attempt]),
        "an outcome is doubled": replace(story, attempts=[attempt, *story.attempts]),
        "a wrong outcome": replace(
            story, attempts=[(task, 1, "failed", "w"), *(other for other in story.attempts if other != attempt)]
        ),
    }
    for words, forgery in forgeries.items():
        with pytest.raises(AssertionError, match=words):
            judge(forgery)
