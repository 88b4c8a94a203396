"""Waiting on the embedded engine: what it costs, when wake-ups are lost, and that no event loop is held up."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from thirdshift import BackgroundTaskManager, StoreBusy, TaskStatus, WaitTimeout, waiting
from thirdshift.engines.sqlite import SQLiteEngine, wake, writer
from thirdshift.submission import NO_OPTIONS
from thirdshift.testing import functions
from thirdshift.testing.signals import TIMEOUT_S, Signal

WORKER = """
import sys
from thirdshift import BackgroundTaskManager
with BackgroundTaskManager(database=sys.argv[1], durability="relaxed"):
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[BackgroundTaskManager]:
    with BackgroundTaskManager(database=tmp_path / "tasks.db", durability="relaxed", max_workers=2) as manager:
        yield manager


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the questions to the engine."""
    counter: Counter[str] = Counter()

    def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counter[name] += 1
            return method(*args, **kwargs)

        return call

    for name in ("get", "status", "statuses"):
        monkeypatch.setattr(SQLiteEngine, name, counted(name, getattr(SQLiteEngine, name)))
    return counter


def watchers() -> int:
    return sum(thread.name == "thirdshift-waits" for thread in threading.enumerate())


def until(is_so: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(TIMEOUT_S / 0.01)):
        if is_so():
            return
        pause.wait(0.01)
    raise TimeoutError("it never came to be so")


def test_an_end_here_wakes_those_who_wait_for_it_and_no_others(
    manager: BackgroundTaskManager, calls: Counter[str]
) -> None:
    """A few questions for each task, however many wait."""
    manager.pause_queue("line")
    ids = manager.options(queue="line").submit_many(functions.add, [(n, 1) for n in range(300)])
    threads = [threading.Thread(target=manager.wait_for, args=[each, TIMEOUT_S]) for each in ids]
    for thread in threads:
        thread.start()
    until(lambda: calls["status"] >= len(ids))
    manager.resume_queue("line")
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert calls["get"] == len(ids)
    assert calls["status"] <= 3 * len(ids)


def test_ends_elsewhere_cost_one_question_for_all(tmp_path: Path, calls: Counter[str]) -> None:
    """And the answer wakes those whose tasks ended."""
    command = [sys.executable, "-c", WORKER, str(tmp_path / "tasks.db")]
    with (
        BackgroundTaskManager(database=tmp_path / "tasks.db", durability="relaxed", start=False) as manager,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker,
    ):
        assert worker.stdout is not None
        assert worker.stdout.readline() == "up\n"
        manager.pause_queue("line")
        ids = manager.options(queue="line").submit_many(functions.add, [(n, 1) for n in range(300)])

        async def work() -> list[float]:
            tasks = [asyncio.create_task(manager.handle(each).aresult(TIMEOUT_S)) for each in ids]
            await asyncio.to_thread(until, lambda: calls["status"] >= len(ids))
            calls.clear()
            manager.resume_queue("line")
            return await asyncio.gather(*tasks)

        assert asyncio.run(work()) == list(range(1, 301))
        assert (calls["status"], calls["get"]) == (0, len(ids))
        assert 0 < calls["statuses"] <= len(ids)
        worker.communicate()


def test_one_thread_watches_while_somebody_waits(
    manager: BackgroundTaskManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends when nobody does, and another begins with the next who waits."""
    monkeypatch.setattr(waiting, "SAFETY_INTERVAL_S", 0.05)
    until(lambda: watchers() == 0)  # that of an earlier test's manager may still be ending
    for _ in range(2):
        assert watchers() == 0
        with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
            handle = manager.submit(functions.hold, said.path, released.path)
            with pytest.raises(WaitTimeout):
                handle.result(0.01)
            assert watchers() == 1
            released.release()
            assert handle.result(TIMEOUT_S) == "released"
        until(lambda: watchers() == 0)
        (tmp_path / "said").unlink()
        (tmp_path / "released").unlink()


def test_a_lost_wake_up_costs_a_safety_interval(
    manager: BackgroundTaskManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For threads and coroutines alike, and for who waits for room."""
    monkeypatch.setattr(waiting, "SAFETY_INTERVAL_S", 0.05)
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
        handle = manager.submit(functions.hold, said.path, released.path)
        said.wait()
        announce = wake.WakeHub.announce

        def deaf(self: wake.WakeHub, topic: str, tasks: Any = None) -> None:
            if topic == wake.WORK:
                announce(self, topic, tasks)

        monkeypatch.setattr(wake.WakeHub, "announce", deaf)

        async def work() -> tuple[str, str]:
            first = asyncio.create_task(handle.aresult(TIMEOUT_S))
            second = asyncio.create_task(asyncio.to_thread(handle.result, TIMEOUT_S))
            await asyncio.sleep(0.02)
            released.release()
            return await first, await second

        assert asyncio.run(work()) == ("released", "released")
    manager.queue_size = 1
    manager.pause_queue("default")
    first = manager.submit(functions.echo, 1)
    threading.Timer(0.1, first.cancel).start()
    assert manager.options(wait=TIMEOUT_S).submit(functions.echo, 2).status is TaskStatus.PENDING


@pytest.mark.parametrize("timeout", [1e300, float("inf")])
def test_a_wait_may_be_as_long_as_one_likes(manager: BackgroundTaskManager, tmp_path: Path, timeout: float) -> None:
    """Though no lock can be waited for so long."""
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
        handle = manager.submit(functions.hold, said.path, released.path)

        async def work() -> tuple[str, str]:
            waiting = asyncio.create_task(handle.aresult(timeout)), asyncio.to_thread(handle.result, timeout)
            released.release()
            return await waiting[0], await waiting[1]

        assert asyncio.run(work()) == ("released", "released")


def test_a_locked_store_holds_up_no_event_loop(manager: BackgroundTaskManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs on while submits wait in other threads; when they have waited too long, the error is theirs."""
    assert manager.submit(functions.echo, 1).result(TIMEOUT_S) == 1

    async def work() -> float:
        with closing(sqlite3.connect(manager.database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            submits = [asyncio.create_task(manager.asubmit(functions.add, n, 1)) for n in range(100)]
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert not any(submit.done() for submit in submits)
            assert threading.active_count() < 50
            other.execute("ROLLBACK")
            results = [await (await submit).aresult(TIMEOUT_S) for submit in submits]
            monkeypatch.setattr(writer, "BUSY_LIMIT_S", 0.02)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusy):
                await manager.asubmit(functions.echo)
        return sum(results)

    assert asyncio.run(work()) == sum(range(1, 101))


def test_a_loop_that_is_closed_too_early_harms_nobody(manager: BackgroundTaskManager, tmp_path: Path) -> None:
    """The worker that wakes its waiters lives on."""
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
        handle = manager.submit(functions.hold, said.path, released.path)
        said.wait()
        loop = asyncio.new_event_loop()
        task = loop.create_task(handle.aresult())
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()
        released.release()
        assert handle.result(TIMEOUT_S) == "released"
        assert manager.submit(functions.add, 1, 1).result(TIMEOUT_S) == 2
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # that it was left is what this test is about


def test_a_submit_that_no_longer_waits_lets_the_next_one_try(manager: BackgroundTaskManager) -> None:
    """Whether it was served or gave up."""
    manager.queue_size = 1
    manager.pause_queue("default")
    first = manager.submit(functions.echo, 1)
    line = waiting.RoomLine(manager._engine)
    woken = [threading.Event() for _ in range(3)]
    tasks = [manager._maker.make(NO_OPTIONS, functions.echo, [((n,), {})]) for n in range(3)]
    submits = [line.submit(task, 1, TIMEOUT_S, event.set) for task, event in zip(tasks, woken, strict=True)]
    assert [submit.store() for submit in submits] == [False] * 3
    submits[0].leave()
    assert [event.is_set() for event in woken] == [False, True, False]
    assert not submits[1].store()
    assert first.cancel()
    assert submits[1].store()
    submits[1].leave()
    assert woken[2].is_set()
    assert not submits[2].store()
    submits[2].leave()
    assert line._unlisten is None
