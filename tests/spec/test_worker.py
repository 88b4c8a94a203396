"""The worker when the store or its surroundings fail: outcomes wait, nothing is lost, and it says why it gave up."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager, StoreDamaged, TaskStatus
from thirdshift.core.errors import OutcomeUnknown
from thirdshift.core.events import (
    AttemptsClaimed,
    AttemptsSettled,
    Event,
    StoreUnavailable,
    WorkerFailed,
    WorkerStopped,
)
from thirdshift.core.task import AttemptOutcome, Claim
from thirdshift.engines.sqlite import SQLiteEngine, writer
from thirdshift.runtime import worker as worker_module
from thirdshift.runtime.clock import SystemClock
from thirdshift.runtime.pools import pool as pools
from thirdshift.runtime.pools.threads import ThreadPool
from thirdshift.runtime.worker import Worker
from thirdshift.testing import functions
from thirdshift.testing.signals import TIMEOUT_S, Signal


class Heard:
    """Keeps the worker's events; :meth:`wait` waits for one of a kind."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._arrived = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._arrived:
            self.events.append(event)
            self._arrived.notify_all()

    def wait(self, kind: type[Event], times: int = 1) -> list[Event]:
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.all(kind)) >= times, TIMEOUT_S), f"no {kind.__name__}"
            return self.all(kind)

    def all(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def said(tmp_path: Path) -> Iterator[Signal]:
    with Signal(tmp_path / "said") as signal:
        yield signal


@pytest.fixture
def released(tmp_path: Path) -> Iterator[Signal]:
    with Signal(tmp_path / "released") as signal:
        yield signal


@pytest.fixture
def manager(database: Path) -> Iterator[BackgroundTaskManager]:
    """Submits and reads; the worker of the test does the work."""
    with BackgroundTaskManager(database=database, start=False) as manager:
        yield manager


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def worker(database: Path, heard: Heard) -> Iterator[Worker]:
    """A worker with one thread."""
    clock = SystemClock()
    engine = SQLiteEngine.shared(database, clock=clock)
    worker = Worker(engine, [ThreadPool(1, clock)], clock=clock, random=lambda: 0.0, observe=heard)
    worker.start()
    yield worker
    worker.stop(TIMEOUT_S)
    engine.close()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what no event tells."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "it has not come to that"
        time.sleep(0.005)


def lock(database: Path) -> sqlite3.Connection:
    """Hold the write lock as another program would."""
    connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    return connection


def test_an_outcome_waits_in_memory_while_the_store_is_busy(
    manager: BackgroundTaskManager,
    worker: Worker,
    heard: Heard,
    database: Path,
    said: Signal,
    released: Signal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is recorded once, when the store is free again; the function does not run twice."""
    monkeypatch.setattr(writer, "BUSY_LIMIT_S", 0.02)
    handle = manager.submit(functions.hold, said.path, released.path)
    said.wait()
    with closing(lock(database)):
        released.release()
        heard.wait(StoreUnavailable)
        assert handle.status is TaskStatus.RUNNING
    assert handle.result(TIMEOUT_S) == "released"
    assert len(heard.wait(AttemptsSettled)) == 1
    assert len(handle.task.attempts) == 1


@pytest.mark.usefixtures("claims_ahead")
def test_a_stop_while_the_store_is_busy_gives_back_what_was_claimed_ahead(
    manager: BackgroundTaskManager,
    worker: Worker,
    heard: Heard,
    database: Path,
    said: Signal,
    released: Signal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As soon as it can; the claims are not forgotten on the way."""
    monkeypatch.setattr(writer, "BUSY_LIMIT_S", 0.02)
    for number in range(20):
        manager.submit(functions.add, number, 1).result(TIMEOUT_S)
    manager.pause_queue("default")
    held = manager.options(priority=20).submit(functions.hold, said.path, released.path)
    waiting = [manager.submit(functions.add, number, 1) for number in range(5)]
    manager.resume_queue("default")
    said.wait()
    assert {handle.status for handle in waiting} == {TaskStatus.RUNNING}
    with closing(lock(database)):
        stopping = threading.Thread(target=worker.stop, args=[TIMEOUT_S])
        stopping.start()
        released.release()
        heard.wait(StoreUnavailable)
    stopping.join(TIMEOUT_S)
    assert heard.wait(WorkerStopped) == [WorkerStopped(heard.all(WorkerStopped)[0].worker, 0)]  # type: ignore[union-attr]
    assert held.status is TaskStatus.COMPLETED
    assert {(handle.status, len(handle.task.attempts)) for handle in waiting} == {(TaskStatus.PENDING, 0)}
    assert manager.workers() == []


def test_who_listens_cannot_stop_the_work(database: Path, manager: BackgroundTaskManager) -> None:
    """An observer that raises is not heard; the tasks are done all the same."""

    def broken(_event: Event) -> None:
        raise RuntimeError("observer")

    clock = SystemClock()
    engine = SQLiteEngine.shared(database, clock=clock)
    worker = Worker(engine, [ThreadPool(1, clock)], clock=clock, random=lambda: 0.0, observe=broken)
    worker.start()
    assert [manager.submit(functions.add, number, 1).result(TIMEOUT_S) for number in range(3)] == [1, 2, 3]
    assert worker.stop(TIMEOUT_S)
    assert worker.failure is None
    engine.close()


@pytest.mark.usefixtures("claims_ahead")
@pytest.mark.parametrize("error", [OutcomeUnknown("x.db", "disk I/O error"), StoreDamaged("x.db", "malformed")])
def test_a_store_that_cannot_be_trusted_stops_the_worker(
    manager: BackgroundTaskManager, worker: Worker, heard: Heard, said: Signal, released: Signal, error: Exception
) -> None:
    """It says why, starts nothing more, and stopping it does not hang."""
    for number in range(20):
        manager.submit(functions.add, number, 1).result(TIMEOUT_S)
    manager.pause_queue("default")
    held = manager.options(priority=20).submit(functions.hold, said.path, released.path)
    waiting = [manager.submit(functions.add, number, 1) for number in range(5)]
    manager.resume_queue("default")
    said.wait()
    claimed = len(heard.all(AttemptsClaimed))
    SQLiteEngine._open[Path(manager.database)]._writer._stopped_by = error  # type: ignore[assignment]  # as after a bad fsync
    released.release()
    assert heard.wait(WorkerFailed) == [WorkerFailed(error)]
    assert worker.failure is error
    assert worker.stop(TIMEOUT_S)
    assert len(heard.all(AttemptsClaimed)) == claimed
    assert held.status is TaskStatus.RUNNING  # run again by whoever comes after this process
    assert {handle.status for handle in waiting} == {TaskStatus.RUNNING}


@pytest.mark.alone
def test_a_short_timeout_is_kept_to_the_moment(
    manager: BackgroundTaskManager, worker: Worker, heard: Heard, said: Signal
) -> None:
    """Not at the next safety look: it ends long before a second has passed."""
    handle = manager.options(timeout=0.05, max_retries=0).submit(functions.until_stopped, said.path)
    (attempt,) = handle.wait(TIMEOUT_S).attempts
    assert attempt.run_time is not None
    assert 0.04 <= attempt.run_time.total_seconds() < 0.7


@pytest.mark.alone
def test_a_freed_slot_takes_the_next_task_at_once(
    manager: BackgroundTaskManager, worker: Worker, said: Signal, released: Signal
) -> None:
    """The end of one attempt is the start of the next, not a second later."""
    first = manager.submit(functions.hold, said.path, released.path)
    said.wait()
    following = [manager.submit(functions.hold, said.path, released.path) for _ in range(10)]
    released.release(11)
    for handle in [first, *following]:
        handle.result(TIMEOUT_S)
    moments = [handle.task.attempts[0] for handle in [first, *following]]
    gaps = [
        (after.started_at - before.finished_at).total_seconds()
        for before, after in pairwise(moments)
        if after.started_at is not None
    ]
    assert sorted(gaps)[len(gaps) // 2] < 0.3


@pytest.mark.alone
def test_a_due_task_costs_nothing_while_all_slots_are_busy(
    manager: BackgroundTaskManager, worker: Worker, said: Signal, released: Signal
) -> None:
    """The worker sleeps until a slot is free; it does not look again and again."""
    manager.submit(functions.hold, said.path, released.path)
    said.wait()
    handle = manager.options(run_at=datetime.now(UTC) + timedelta(seconds=0.05)).submit(functions.echo, 1)
    pause = threading.Event()
    pause.wait(0.1)
    before = os.times()
    pause.wait(0.5)
    after = os.times()
    released.release()
    assert handle.result(TIMEOUT_S) == 1
    assert (after.user + after.system) - (before.user + before.system) < 0.25


@pytest.mark.usefixtures("claims_ahead")
def test_a_pause_and_a_cancellation_give_back_what_was_claimed_ahead(
    manager: BackgroundTaskManager, worker: Worker, said: Signal, released: Signal
) -> None:
    """They take effect at once, not after the tasks that are before them in the slots."""
    manager.submit(functions.add, 1, 1).result(TIMEOUT_S)
    manager.pause_queue("line")
    manager.pause_queue("default")
    held = manager.options(priority=20).submit(functions.hold, said.path, released.path)
    called_off = manager.options(priority=19).submit(functions.add, 1, 1)
    following = [manager.options(queue="line").submit(functions.add, number, 1) for number in range(9)]
    manager.resume_queue("default")
    said.wait()
    manager.resume_queue("line")
    wait_until(lambda: {each.status for each in [called_off, *following]} == {TaskStatus.RUNNING})
    assert called_off.cancel()
    wait_until(lambda: called_off.status is TaskStatus.CANCELLED)
    assert called_off.task.attempts == ()
    manager.pause_queue("line")
    wait_until(lambda: {each.status for each in following} == {TaskStatus.PENDING})
    released.release()
    assert held.result(TIMEOUT_S) == "released"
    manager.resume_queue("line")
    assert [each.result(TIMEOUT_S) for each in following] == list(range(1, 10))
    assert {len(each.task.attempts) for each in following} == {1}


def test_an_idle_worker_starts_a_task_without_a_claim_of_its_own(worker: Worker, database: Path, heard: Heard) -> None:
    """It is claimed in the commit that submits it; only its end is a commit of the worker.

    Of several tasks the one with the fewest commits counts: the monitor commits now and then.
    """
    with BackgroundTaskManager(database=database, start=False) as manager:
        writer = SQLiteEngine._open[database]._writer
        made = []
        for _ in range(5):
            commits = writer.commits
            assert manager.submit(functions.add, 1, 2).result(TIMEOUT_S) == 3
            made.append(writer.commits - commits)
        assert min(made) == 2
        assert [claim.attempt for event in heard.wait(AttemptsClaimed, 5) for claim in event.claims] == [1] * 5  # type: ignore[attr-defined]


def test_a_submitter_that_is_interrupted_after_its_commit_loses_nothing(
    manager: BackgroundTaskManager, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker finds a claim in the store that it knows nothing of, and gives it back."""

    class Interrupted(BaseException):
        pass

    def interrupted(_seat: pools.PoolSeat, _claim: Claim) -> bool:
        raise Interrupted

    monkeypatch.setattr(pools, "_SEAT_LIMIT_S", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(pools.PoolSeat, "take", interrupted)
        with pytest.raises(Interrupted):
            manager.options(task_id="a" * 32).submit(functions.add, 1, 2)
    handle = manager.handle("a" * 32)
    assert handle.result(TIMEOUT_S) == 3
    assert [attempt.outcome for attempt in handle.task.attempts] == [AttemptOutcome.COMPLETED]


def test_a_dead_workers_tasks_run_again_at_once(
    database: Path, said: Signal, released: Signal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of the death: nobody waits for the safety interval, which is far too long here."""
    with BackgroundTaskManager(database=database, start=False) as manager:
        handle = manager.submit(functions.hold, said.path, released.path)
        program = "import sys, thirdshift; thirdshift.BackgroundTaskManager(database=sys.argv[1]); sys.stdin.read()"
        victim = subprocess.Popen([sys.executable, "-c", program, str(database)], stdin=subprocess.PIPE)
        said.wait()
        monkeypatch.setattr(worker_module, "SAFETY_INTERVAL_S", 10 * TIMEOUT_S)
        with BackgroundTaskManager(database=database) as second:
            wait_until(lambda: len(second.workers()) == 2)
            assert second.submit(functions.add, 1, 2).result(TIMEOUT_S) == 3  # by now it has looked for others
            victim.kill()
            victim.communicate()
            said.wait()
            released.release()
            assert handle.result(TIMEOUT_S) == "released"
            assert [attempt.outcome for attempt in handle.task.attempts] == [
                AttemptOutcome.INTERRUPTED,
                AttemptOutcome.COMPLETED,
            ]
