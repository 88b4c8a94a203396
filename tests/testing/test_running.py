"""Tasks that run in the calling thread: at once, or when a test says so; by the real worker on the real store."""

import asyncio
import threading
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

import thirdshift
from thirdshift import (
    BackgroundTaskManager,
    Schedule,
    SchedulerConfig,
    Snooze,
    TaskFailed,
    TaskHandle,
    TaskPriority,
    TaskStatus,
    UsageError,
    WaitTimeout,
    current_task,
    task,
)
from thirdshift.core.errors import NotSerialisable
from thirdshift.core.task import AttemptOutcome
from thirdshift.testing import FakeClock, functions, inline, run_for, run_until_idle, running
from thirdshift.testing.fixtures import inline_tasks

__all__ = ["inline_tasks"]


def where() -> str:
    """Return the name of the thread that runs this."""
    return threading.current_thread().name


def parent(number: int) -> list[object]:
    """Submit a child and wait for it, as a task may."""
    before = current_task().id
    child = thirdshift.get_task_manager().submit(functions.add, number, 1)
    return [child.result(), before is not None and current_task().id == before]


def again() -> None:
    """Submit itself for ever."""
    thirdshift.submit_background_task(again)


def nightly(left: int) -> None:
    """Submit the next one for tomorrow."""
    if left:
        manager = thirdshift.get_task_manager()
        manager.options(run_at=manager.clock.now() + timedelta(days=1)).submit(nightly, left - 1)


def never_ready() -> Snooze:
    """Ask to be run later, for ever."""
    return Snooze(60)


async def greeting(name: str) -> list[str | None]:
    """Return a greeting and the id of the task that it is."""
    await asyncio.sleep(0)
    return [f"hello {name}", current_task().id]


@task(pool="process", timeout=5)
def in_a_process() -> str:
    """Run where the test runs, though it asks for a process."""
    return where()


# At once


def test_a_submit_runs_its_function_in_the_calling_thread() -> None:
    """And its result is there when the submit returns."""
    here = where()
    with inline() as manager:
        handle = manager.submit(where)
        assert (handle.status, handle.result()) == (TaskStatus.COMPLETED, here)
        assert manager.submit(in_a_process).result() == here
        assert manager.workers() == []
    assert not Path(manager.database).parent.exists()


def test_arguments_and_results_go_through_the_codec() -> None:
    """What production refuses is refused here, and values come back as they would there."""
    with inline() as manager:
        value = {"where": Path("a"), "odd": (1, {2})}
        assert manager.submit(functions.echo, value).result() == value
        with pytest.raises(NotSerialisable):
            manager.submit(functions.echo, object())
        with pytest.raises(TaskFailed, match="the result is a builtins"):
            manager.submit(functions.unserialisable).result()


def test_an_error_is_seen_as_in_production() -> None:
    """After all retries, with its traceback; nobody waits for them."""
    with inline() as manager:
        handle = manager.submit(functions.fail, "no such customer")
        with pytest.raises(TaskFailed, match="ValueError: no such customer") as caught:
            handle.result()
        assert caught.value.traceback is not None
        assert "raise ValueError(message)" in caught.value.traceback
        attempts = handle.task.attempts
        assert [attempt.outcome for attempt in attempts] == [AttemptOutcome.FAILED] * 4
        waits = [(after.claimed_at - before.finished_at).total_seconds() for before, after in pairwise(attempts)]
        assert waits == [1.0, 2.0, 4.0]


def test_a_function_steers_as_in_production() -> None:
    """Retries and snoozes are made at their moments, a cancellation ends the task."""
    with inline() as manager:
        assert manager.submit(functions.fail_before_attempt, 3).result() == 3
        snoozed = manager.submit(functions.snooze_before_attempt, 3, 3600).task
        assert (snoozed.result, snoozed.failures) == (3, 0)
        assert snoozed.attempts[2].claimed_at - snoozed.attempts[0].claimed_at == timedelta(hours=2)
        assert manager.submit(functions.call_off, "sold out").status is TaskStatus.CANCELLED
        assert manager.options(name="facts").submit(functions.context_facts).result()[1:3] == ["facts", 1]


def test_a_task_may_submit_and_wait_for_another() -> None:
    """It is the current one again afterwards."""
    with inline() as manager:
        assert manager.submit(parent, 1).result() == [2, True]
        assert current_task().id is None


def test_the_shared_manager_is_the_inline_one_inside_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So code that submits is tested as it is."""
    monkeypatch.setenv("THIRDSHIFT_WORKSPACE", str(tmp_path))
    with inline() as manager:
        task_id = thirdshift.submit_background_task(functions.add, 1, 2, name="sum")
        assert manager.handle(task_id).result() == 3
        assert thirdshift.get_task_manager() is manager
    assert list(tmp_path.iterdir()) == []


def test_the_fixture_gives_such_a_manager(inline_tasks: BackgroundTaskManager) -> None:
    """Imported into a conftest, or here."""
    assert inline_tasks.submit(functions.add, 1, 1).result() == 2


def test_what_is_due_later_waits_for_the_test() -> None:
    """And whoever waits for it is told at once instead of for ever."""
    clock = FakeClock()
    with inline(clock=clock) as manager:
        handle = manager.options(run_at=clock.now() + timedelta(days=1)).submit(functions.add, 1, 1)
        manager.pause_queue("line")
        paused = manager.options(queue="line").submit(functions.add, 2, 2)
        for each in (handle, paused):
            with pytest.raises(WaitTimeout):
                each.result(timeout=120)
        assert run_until_idle(manager) == []
        assert [ran.id for ran in run_until_idle(manager, advance=clock)] == [handle.id]
        assert (handle.result(), paused.status) == (2, TaskStatus.PENDING)
        manager.resume_queue("line")
        assert [ran.result for ran in run_until_idle(manager)] == [4]


def test_coroutines_submit_inline_too() -> None:
    """In another thread, because theirs must not be blocked."""

    async def submit() -> list[float]:
        with inline() as manager:
            handles = await asyncio.gather(*(manager.asubmit(functions.add, n, 1) for n in range(20)))
            return [await handle.aresult() for handle in handles]

    assert asyncio.run(submit()) == list(range(1, 21))


def test_async_functions_run_inline_too() -> None:
    """Also where a loop runs already."""

    async def submit(manager: BackgroundTaskManager) -> list[TaskHandle[list[str | None]]]:
        return [manager.submit(greeting, "you"), await manager.asubmit(greeting, "you")]

    with inline() as manager:
        for handle in [manager.submit(greeting, "you"), *asyncio.run(submit(manager))]:
            assert handle.result() == ["hello you", handle.id]


def test_work_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of a test that hangs."""
    monkeypatch.setattr(running, "_MOST", 50)
    with inline() as manager:
        with pytest.raises(RuntimeError, match="50 attempts have run"):
            manager.submit(never_ready)
        with pytest.raises(RuntimeError, match="50 attempts have run"):
            manager.submit(again)


def test_ctrl_c_ends_the_test_and_not_only_the_attempt() -> None:
    """It is no failure that is tried again."""
    with inline() as manager, pytest.raises(KeyboardInterrupt):
        manager.submit(functions.raise_interrupt)


# When the test says so


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def manager(tmp_path: Path, clock: FakeClock) -> BackgroundTaskManager:
    manager = BackgroundTaskManager(database=tmp_path / "tasks.db", start=False, clock=clock)
    with manager:
        yield manager  # type: ignore[misc]


def test_everything_due_runs_in_the_order_of_a_worker(manager: BackgroundTaskManager) -> None:
    """Highest priority first, whatever the pool; what a task submits takes its place in the line."""
    for number, priority in enumerate((TaskPriority.LOW, TaskPriority.NORMAL, TaskPriority.CRITICAL)):
        for pool in ("thread", "process"):
            manager.options(priority=priority, pool=pool, name=f"{priority.name} {number}").submit(functions.echo, 1)
    ran = run_until_idle(manager)
    assert [each.name for each in ran] == [name for name in ("CRITICAL 2", "NORMAL 1", "LOW 0") for _ in range(2)]
    assert {each.status for each in ran} == {TaskStatus.COMPLETED}
    assert run_until_idle(manager) == []
    assert manager.workers() == []


def test_time_stands_still_unless_it_is_told_to_pass(manager: BackgroundTaskManager, clock: FakeClock) -> None:
    """A failed attempt waits for its retry; each attempt is told as it was right after it."""
    began = clock.now()
    handle = manager.options(max_retries=1).submit(functions.fail, "x")
    assert [ran.status for ran in run_until_idle(manager)] == [TaskStatus.RETRYING]
    assert run_until_idle(manager) == []
    clock.advance(0.5)
    assert run_until_idle(manager) == []
    clock.advance(0.5)
    assert [ran.status for ran in run_until_idle(manager)] == [TaskStatus.FAILED]
    assert handle.task.finished_at == began + timedelta(seconds=1)


def test_time_jumps_from_one_due_moment_to_the_next(manager: BackgroundTaskManager, clock: FakeClock) -> None:
    """Until nothing is scheduled any more."""
    began = clock.now()
    with thirdshift.manager.stand_in(manager):
        manager.submit(nightly, 3)
        ran = run_until_idle(manager, advance=clock)
    assert [each.arguments[0][0] for each in ran] == [3, 2, 1, 0]
    assert clock.now() - began == timedelta(days=3)
    manager.submit(never_ready)
    with pytest.raises(RuntimeError, match="5 attempts have run"):
        run_until_idle(manager, advance=clock, most=5)
    assert manager.get_stats()["running"] == 0


def test_a_manager_with_a_worker_is_refused(tmp_path: Path) -> None:
    """Its own threads would run the tasks."""
    with (
        BackgroundTaskManager(database=tmp_path / "tasks.db") as manager,
        pytest.raises(UsageError, match="has a worker of its own"),
    ):
        run_until_idle(manager)


# Schedules


def test_a_schedule_fires_when_its_moment_has_come(manager: BackgroundTaskManager, clock: FakeClock) -> None:
    """No time passes for its sake; what passes for a task, or by hand, counts, by the rule for missed fire times."""
    manager.schedules.add(functions.echo, Schedule(every=60, missed="all"), task_name="tidy")
    assert run_until_idle(manager, advance=clock) == []
    clock.advance(60)
    assert [each.name for each in run_until_idle(manager)] == ["tidy"]
    manager.options(run_at=clock.now() + timedelta(seconds=150)).submit(functions.add, 1, 2)
    assert sorted(each.name for each in run_until_idle(manager, advance=clock)) == ["add", "tidy", "tidy"]


def test_time_that_passes_fires_every_schedule_moment_by_moment(
    manager: BackgroundTaskManager, clock: FakeClock
) -> None:
    """Together with tasks for later and with retries, in the order of their moments; then it stands at the end."""
    began = clock.now()
    for hours, name in ((3, "sync"), (4, "tidy")):
        manager.schedules.add(functions.echo, Schedule(every=timedelta(hours=hours)), task_name=name)
    manager.options(run_at=began + timedelta(hours=5), name="remind").submit(functions.fail_before_attempt, 2)
    manager.options(run_at=began + timedelta(hours=11), name="not yet").submit(functions.echo)
    ran = run_for(manager, timedelta(hours=9))
    hours = [(each.name, (each.attempts[-1].finished_at - began) // timedelta(hours=1)) for each in ran]
    assert hours[:4] == [("sync", 3), ("tidy", 4), ("remind", 5), ("remind", 5)]
    assert hours[4:] == [("sync", 6), ("tidy", 8), ("sync", 9)]
    assert [each.scheduled_for for each in ran[-2:]] == [began + timedelta(hours=hour) for hour in (8, 9)]
    assert clock.now() == began + timedelta(hours=9)
    assert run_for(manager, 0.5) == []


def test_schedules_rest_where_they_are_switched_off(tmp_path: Path, clock: FakeClock) -> None:
    """As a worker would leave them."""
    off = SchedulerConfig(enabled=False)
    with BackgroundTaskManager(database=tmp_path / "a.db", start=False, clock=clock, scheduler=off) as manager:
        manager.schedule_task_interval(functions.echo, 60)
        assert run_for(manager, 3600) == []


def test_a_submit_that_runs_at_once_runs_nothing_of_schedules() -> None:
    """Though time passes for its retry: a test sees what it submits."""
    with inline() as manager:
        manager.schedule_task_interval(functions.echo, 0.1)
        manager.submit(functions.fail_before_attempt, 2)
        assert [each.name for each in manager.find_tasks()] == ["fail_before_attempt"]
        assert [each.name for each in run_until_idle(manager)] == ["echo"]


def test_time_that_cannot_pass_is_refused(tmp_path: Path, manager: BackgroundTaskManager) -> None:
    """On a clock that nobody turns, and backwards; and work without end is an error here too."""
    with (
        BackgroundTaskManager(database=tmp_path / "other.db", start=False) as other,
        pytest.raises(UsageError, match="clock=FakeClock"),
    ):
        run_for(other, 1)
    with pytest.raises(UsageError, match="-1 seconds cannot pass"):
        run_for(manager, -1)
    manager.schedule_task_interval(functions.echo, 1)
    with pytest.raises(RuntimeError, match="Where so many are meant"):
        run_for(manager, 60, most=5)


def test_waiting_is_bounded_though_the_clock_stands_still(manager: BackgroundTaskManager) -> None:
    """Who waits waits in real time."""
    handle = manager.submit(functions.echo, 1)
    with pytest.raises(WaitTimeout):
        handle.result(timeout=0.01)
