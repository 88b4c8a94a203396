"""A wall clock that is set, a machine that is suspended: nothing starts twice, what is due starts, limits hold.

The clock is turned by hand. A machine that was suspended finds what it finds whose wall clock was set forward: hours
have passed by that clock, and no time by the monotonic one.
"""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from thirdshift import BackgroundTaskManager, TaskStatus
from thirdshift.core.clock import Clock
from thirdshift.core.task import AttemptOutcome, BackgroundTask
from thirdshift.handle import TaskHandle
from thirdshift.monitor.logs import log_event
from thirdshift.runtime.pools.event_loop import EventLoopPool
from thirdshift.runtime.pools.pool import Pool
from thirdshift.runtime.pools.processes import ProcessPool
from thirdshift.runtime.pools.threads import ThreadPool
from thirdshift.runtime.worker import SAFETY_INTERVAL_S
from thirdshift.testing import coroutines, functions
from thirdshift.testing.clock import FakeClock
from thirdshift.testing.signals import TIMEOUT_S, Signal

DAY_S = 86_400
POOLS: dict[str, tuple[Callable[[int, Clock], Pool], Any]] = {
    "thread": (ThreadPool, functions),
    "process": (ProcessPool, functions),
    "async": (EventLoopPool, coroutines),
}
"""Each pool, and the module whose functions run in it."""


class Workers:
    """Two workers with one slot in each pool, on one store. They look at it when the test says so."""

    def __init__(self, manager: BackgroundTaskManager, clock: FakeClock) -> None:
        self._clock = clock
        self.first, self.second = (
            manager.new_worker([make(1, clock) for make, _ in POOLS.values()], random=lambda: 1.0, observe=log_event)
            for _ in range(2)
        )

    def look(self, after_s: float = SAFETY_INTERVAL_S) -> None:
        """Let time pass, usually so much that both look for all there is, also for dead workers."""
        self._clock.advance(after_s)
        for worker in (self.first, self.second):
            worker.tick()

    def look_until_it_ends(self, handle: TaskHandle[Any], every_s: float = 0.0) -> BackgroundTask:
        """Make passes, so many seconds apart on the clock, until the task is finished; returns it."""
        give_up_at = time.monotonic() + TIMEOUT_S
        while not handle.status.is_finished:
            assert time.monotonic() < give_up_at, f"it is {handle.status} still"
            self.look(every_s)
            time.sleep(0.005)
        return handle.task


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def manager(tmp_path: Path, clock: FakeClock) -> Iterator[BackgroundTaskManager]:
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False, clock=clock) as manager:
        yield manager


@pytest.fixture
def workers(manager: BackgroundTaskManager, clock: FakeClock) -> Iterator[Workers]:
    workers = Workers(manager, clock)
    workers.first.enlist()
    workers.second.enlist()
    yield workers
    workers.first.leave()
    workers.second.leave()


@pytest.fixture
def said(tmp_path: Path) -> Iterator[Signal]:
    with Signal(tmp_path / "said") as signal:
        yield signal


@pytest.fixture
def released(tmp_path: Path) -> Iterator[Signal]:
    with Signal(tmp_path / "released") as signal:
        yield signal


@pytest.mark.parametrize("pool", POOLS)
def test_a_running_task_neither_starts_again_nor_is_ended(
    pool: str, clock: FakeClock, manager: BackgroundTaskManager, workers: Workers, said: Signal, released: Signal
) -> None:
    """Its worker lives, and of its minute hardly a second has passed, whatever the wall clock says."""
    _, module = POOLS[pool]
    handle = manager.options(pool=pool, timeout=60, max_retries=0).submit(module.hold, said.path, released.path)
    workers.first.tick()
    said.wait()
    for step_s in (DAY_S, -2 * DAY_S, DAY_S / 2):
        clock.step(step_s)
        workers.look()
    manager.options(pool=pool).submit(module.say, said.path, "the other one works")
    workers.look()
    assert said.wait() == "the other one works"  # and nobody has said anything before it
    released.release()
    task = workers.look_until_it_ends(handle)
    assert (task.result, len(task.attempts)) == ("released", 1)


@pytest.mark.parametrize("pool", POOLS)
def test_a_time_limit_counts_the_time_that_passed(
    pool: str, clock: FakeClock, manager: BackgroundTaskManager, workers: Workers, said: Signal
) -> None:
    """Also when the wall clock was set back since."""
    _, module = POOLS[pool]
    handle = manager.options(pool=pool, timeout=60, max_retries=0).submit(module.until_stopped, said.path)
    workers.first.tick()
    said.wait()
    clock.step(-DAY_S)
    (attempt,) = workers.look_until_it_ends(handle, every_s=1.0).attempts
    assert attempt.outcome is AttemptOutcome.TIMED_OUT


def test_what_is_scheduled_starts_when_the_wall_clock_says_so(
    clock: FakeClock, manager: BackgroundTaskManager, workers: Workers
) -> None:
    """No worker sleeps past it: a sleep that began before the step ends within the safety interval."""
    handle = manager.options(run_at=clock.now() + timedelta(hours=3)).submit(functions.echo, "due")
    assert workers.first.tick() <= SAFETY_INTERVAL_S
    clock.step(-DAY_S)
    workers.look()
    assert handle.status is TaskStatus.SCHEDULED
    clock.step(DAY_S + 3 * 3_600)
    workers.look()
    assert workers.look_until_it_ends(handle).result == "due"


def test_a_run_time_is_not_made_up(
    clock: FakeClock, manager: BackgroundTaskManager, workers: Workers, said: Signal, released: Signal
) -> None:
    """An attempt that ended, by the wall clock, before it began: nobody knows how long it took."""
    handle = manager.submit(functions.hold, said.path, released.path)
    workers.first.tick()
    said.wait()
    clock.step(-DAY_S)
    released.release()
    (attempt,) = workers.look_until_it_ends(handle).attempts
    assert attempt.started_at is not None
    assert attempt.finished_at < attempt.started_at
    assert attempt.run_time is None
