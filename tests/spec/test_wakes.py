"""Lost wake-ups are noticed, and nothing else is taken for one."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from queue import SimpleQueue

import pytest

from thirdshift import BackgroundTaskManager
from thirdshift.core.engine import Announced, ClaimRequest, Exchange
from thirdshift.core.events import Event, WakesLost
from thirdshift.core.task import Claim, PoolKind, TaskId
from thirdshift.runtime import worker as worker_module
from thirdshift.runtime.wakes import GRACE_S, WakeWatch
from thirdshift.runtime.worker import Worker
from thirdshift.testing import functions
from thirdshift.testing.clock import START, FakeClock
from thirdshift.testing.signals import TIMEOUT_S, Signal

SUBMIT = """
import sys
from thirdshift import BackgroundTaskManager
from thirdshift.testing import functions

with BackgroundTaskManager(database=sys.argv[1], start=False) as manager:
    for number in range(int(sys.argv[2])):
        manager.submit_task(functions.add, number, 1)
"""


def claim(attempt: int = 1, pool: PoolKind = PoolKind.THREAD) -> Claim:
    return Claim(
        seq=1,
        id=TaskId("0" * 32),
        attempt=attempt,
        owner="worker",
        name="name",
        function="module:function",
        arguments=b"",
        queue="default",
        pool=pool,
        priority=0,
        failures=0,
        max_retries=0,
        timeout_s=None,
        durable=True,
        claimed_at=START,
    )


class Watched:
    """A watch, and the passes of a worker with two free slots in each of two pools."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.watch = WakeWatch(self.clock)
        self.make_pass()

    def make_pass(self, *found: Claim, next_due: datetime | None = None, room: int = 2, by_timer: bool = True) -> None:
        """Let the worker make one pass that finds these claims."""
        is_unannounced = self.watch.is_unannounced() and by_timer
        if is_unannounced:
            self.watch.found(found)
        free = {PoolKind.THREAD: room, PoolKind.PROCESS: 2} if room else None
        request = None if free is None else ClaimRequest(owner="worker", free=free)
        self.watch.passed(request, Exchange(recorded=(), claims=found, next_due=next_due))

    def judge_later(self) -> bool:
        self.clock.advance(GRACE_S)
        return self.watch.judge()


@pytest.fixture
def worker() -> Watched:
    return Watched()


def test_work_that_nobody_announced(worker: Watched) -> None:
    """It is counted once, and not before an announcement had its time."""
    worker.make_pass(claim())
    assert not worker.watch.judge()
    assert worker.judge_later()
    assert worker.watch.lost == 1
    assert not worker.judge_later()


INNOCENT: dict[str, Callable[[Watched], None]] = {
    "nothing was found": lambda worker: worker.make_pass(),
    "it was announced before": lambda worker: (worker.watch.hear(), worker.make_pass(claim()))[-1],
    "it is announced after": lambda worker: (worker.make_pass(claim()), worker.watch.hear())[-1],
    "the worker was asked to look": lambda worker: worker.make_pass(claim(), by_timer=False),
    "it had been claimed before": lambda worker: worker.make_pass(claim(attempt=2)),
    "it was due": lambda worker: (
        worker.make_pass(next_due=START + timedelta(seconds=1)),
        worker.clock.advance(1),
        worker.make_pass(claim()),
    )[-1],
    "the wall clock was set": lambda worker: (
        worker.make_pass(next_due=START + timedelta(hours=1)),
        worker.clock.step(3600),
        worker.make_pass(claim()),
    )[-1],
    "there was no room before": lambda worker: (worker.make_pass(room=0), worker.make_pass(claim()))[-1],
    "there was no more room before": lambda worker: (
        worker.make_pass(claim(2), claim(2)),
        worker.make_pass(claim()),
    )[-1],
}


@pytest.mark.parametrize("why", INNOCENT)
def test_what_is_no_lost_wake(why: str, worker: Watched) -> None:
    """The timer finds work for many reasons."""
    INNOCENT[why](worker)
    assert not worker.judge_later()
    assert worker.watch.lost == 0


def test_a_full_pool_hides_nothing_of_another(worker: Watched) -> None:
    """Room is a matter of each pool."""
    worker.make_pass(claim(2), claim(2))
    worker.make_pass(claim(pool=PoolKind.PROCESS))
    assert worker.judge_later()


def test_it_is_said_at_once_and_then_rarely(worker: Watched) -> None:
    """A program that goes on writing by itself fills no log."""
    said = []
    for _ in range(300):
        worker.make_pass(claim())
        assert worker.judge_later()
        said.append(worker.watch.must_say())
        worker.make_pass()
    assert said[0]
    assert sum(said) == 1 + int(299 * GRACE_S) // 60


@pytest.mark.alone
def test_a_socket_that_is_gone(tmp_path: Path) -> None:
    """Other processes cannot wake this one: their tasks run all the same, and the worker says what is wrong."""
    events: list[Event] = []
    with BackgroundTaskManager(database=tmp_path / "tasks.db", observe=events.append) as manager:
        run = tmp_path / "tasks.db.run"
        time.sleep(0.1)
        for path in run.glob("*.work"):
            path.unlink()
        deadline = time.monotonic() + TIMEOUT_S
        while not any(isinstance(event, WakesLost) for event in events) and time.monotonic() < deadline:
            submit_elsewhere(tmp_path / "tasks.db", 1)
            time.sleep(0.3)
        (state,) = manager.workers()
        assert state.lost_wakes == 1
        assert state.lost_wake_at is not None
        assert manager.wait_until_drained(TIMEOUT_S)
    assert WakesLost(1) in events
    assert not list(run.glob("*.card"))


@pytest.mark.alone
def test_a_stranger_need_not_wait_for_the_safety_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says that the log was written to."""
    monkeypatch.setattr(worker_module, "SAFETY_INTERVAL_S", 3600.0)
    database = tmp_path / "tasks.db"
    events: list[Event] = []
    with BackgroundTaskManager(database=database, observe=events.append) as manager:
        manager.submit(functions.add, 1, 2).result(TIMEOUT_S)
        time.sleep(0.5)  # by then nobody looks for anything
        write_as_a_stranger(database, "f" * 32)
        assert manager.handle("f" * 32).result(TIMEOUT_S) == 3


@pytest.mark.parametrize("case", ["all", "another queue", "not its queue", "must leave some alone"])
def test_an_announced_task_is_asked_for_by_who_can_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """By nobody who does not serve its queue, or who has to leave the tasks of some functions alone."""
    asked: SimpleQueue[tuple[str, str | None]] = SimpleQueue()
    ask = Worker._request

    def spy(worker: Worker, announced: Announced | None = None) -> ClaimRequest | None:
        request = ask(worker, announced)
        if announced is not None and request is not None:
            asked.put((announced.id, request.first))
        return request

    options: dict[str, dict[str, list[str]]] = {
        "another queue": {"queues": ["other"]},
        "not its queue": {"excluded_queues": ["default"]},
    }
    with BackgroundTaskManager(database=tmp_path / "tasks.db", **options.get(case, {})) as manager:  # type: ignore[arg-type]
        worker = manager._worker
        assert worker is not None
        if case == "must leave some alone":
            worker._unknown.meet("nowhere:nothing")
        monkeypatch.setattr(Worker, "_request", spy)
        submit_elsewhere(tmp_path / "tasks.db", 1)
        (task,) = manager.find_tasks()
        assert asked.get(timeout=TIMEOUT_S) == (task.id, task.id if case == "all" else None)


def test_who_can_run_the_next_task_of_a_limit_key_need_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of another process, which does not take it, ends the one before."""
    monkeypatch.setattr(worker_module, "SAFETY_INTERVAL_S", 10 * TIMEOUT_S)
    database = tmp_path / "tasks.db"
    with (
        BackgroundTaskManager(database=database, queues=["here"]) as manager,
        Signal(tmp_path / "said") as said,
        Signal(tmp_path / "released") as released,
    ):
        program = (
            "import sys, thirdshift; thirdshift.BackgroundTaskManager(database=sys.argv[1], queues=['there']); "
            "sys.stdin.read()"
        )
        other = subprocess.Popen([sys.executable, "-c", program, str(database)], stdin=subprocess.PIPE)
        for _ in range(3):
            there = manager.options(queue="there", limit_key="k").submit(functions.hold, said.path, released.path)
            said.wait()
            here = manager.options(queue="here", limit_key="k").submit(functions.add, 1, 2)
            released.release()
            assert here.result(TIMEOUT_S) == 3
            assert there.result(TIMEOUT_S) == "released"
        other.communicate()


def write_as_a_stranger(database: Path, task_id: str) -> None:
    """Add a copy of the first task, as any SQLite client can."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=TIMEOUT_S)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TEMP TABLE copy AS SELECT * FROM task LIMIT 1")
        connection.execute(
            "UPDATE copy SET seq = 1000, id = ?, status = 'pending', attempt = 0, finished_at = NULL, owner = NULL, "
            "claimed_at = NULL",
            [task_id],
        )
        connection.execute("INSERT INTO task SELECT * FROM copy")
        connection.execute("COMMIT")


@pytest.mark.alone
def test_nothing_is_lost_under_load(tmp_path: Path) -> None:
    """Submits of this and of other processes, to two workers with more to do than slots: all are announced."""
    events: list[Event] = []
    database = tmp_path / "tasks.db"
    options = {"max_workers": 2, "database": database, "observe": events.append, "durability": "relaxed"}
    with BackgroundTaskManager(**options) as manager:  # type: ignore[arg-type]
        command = [sys.executable, "-c", SUBMIT, str(database), "400"]
        others = [subprocess.Popen(command) for _ in range(2)]
        for number in range(400):
            manager.submit_task(functions.add, number, 1)
            time.sleep(0.005)
        for other in others:
            assert other.wait(TIMEOUT_S) == 0
        assert manager.wait_until_drained(TIMEOUT_S)
        time.sleep(2.2)  # what a wrong suspicion would take to become a count
        assert [state.lost_wakes for state in manager.workers()] == [0]
    assert not any(isinstance(event, WakesLost) for event in events)


def submit_elsewhere(database: Path, tasks: int) -> None:
    subprocess.run([sys.executable, "-c", SUBMIT, str(database), str(tasks)], check=True)
