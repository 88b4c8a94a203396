"""Recurring work as an application sees it: made by a call or a declaration, stored, and run by whoever works."""

import asyncio
import inspect
import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from thirdshift import (
    BackgroundTaskManager,
    Schedule,
    ScheduleNotFound,
    SchedulerConfig,
    TaskFilter,
    TaskStatus,
    UsageError,
    task,
)
from thirdshift.core.events import Event, FireTimesMissed
from thirdshift.core.health import HealthCode
from thirdshift.monitor.reasons import sentence
from thirdshift.scheduling import TaskScheduler
from thirdshift.testing import FakeClock, functions, run_for, run_until_idle

RARELY = SchedulerConfig(check_interval_seconds=600.0)
"""Only what is slept to exactly, or woken for, happens in time."""
START = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START)


@pytest.fixture
def manager(tmp_path: Path, clock: FakeClock) -> Iterator[BackgroundTaskManager]:
    """One that only submits, by a clock that is turned by hand."""
    with BackgroundTaskManager(database=tmp_path / "app.db", start=False, clock=clock) as manager:
        yield manager


def wait_until(holds: Callable[[], bool], manager: BackgroundTaskManager) -> None:
    """Wait until that is so; looked at whenever a task has finished."""
    finished = threading.Event()
    end = manager._engine.on_finished(finished.set)
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        finished.wait(0.2)
        finished.clear()
    end()


def completed(manager: BackgroundTaskManager) -> int:
    return manager.get_stats()["completed"]


def test_an_interval_runs_again_and_again(tmp_path: Path) -> None:
    """Each fire time is slept to exactly: the safety check comes every ten minutes here."""
    with BackgroundTaskManager(database=tmp_path / "app.db", scheduler=RARELY) as manager:
        began = time.monotonic()
        schedule_id = manager.schedule_task_interval(functions.echo, 0.2, "hello")
        wait_until(lambda: completed(manager) >= 3, manager)
        assert 0.6 <= time.monotonic() - began < 10
        assert manager.get_task_status(schedule_id) is not None
        assert manager.cancel_task(schedule_id)
        assert not manager.cancel_task(schedule_id)
        assert manager.find_tasks()[0].arguments == (("hello",), {})


def test_a_schedule_of_another_process_wakes_the_scheduler(tmp_path: Path) -> None:
    """Made there with nobody working, it fires here at its moment."""
    program = (
        "import sys; from thirdshift import BackgroundTaskManager; from thirdshift.testing import functions\n"
        "with BackgroundTaskManager(database=sys.argv[1], start=False) as manager:\n"
        "    manager.schedule_task_interval(functions.echo, 0.1, 1)\n"
    )
    with BackgroundTaskManager(database=tmp_path / "app.db", scheduler=RARELY) as manager:
        subprocess.run([sys.executable, "-c", program, str(tmp_path / "app.db")], check=True, timeout=180)
        wait_until(lambda: completed(manager) >= 1, manager)


def test_a_scheduler_that_is_switched_off_makes_no_tasks(tmp_path: Path, clock: FakeClock) -> None:
    """Another process may."""
    off = SchedulerConfig(enabled=False)
    with BackgroundTaskManager(database=tmp_path / "app.db", scheduler=off, clock=clock) as manager:
        manager.schedule_task_interval(functions.echo, 1, 1)
        assert not [thread for thread in threading.enumerate() if thread.name == "thirdshift-scheduler"]


def test_once_is_a_task_that_is_due_later(manager: BackgroundTaskManager, clock: FakeClock) -> None:
    """A naive moment is local time; its id is the task's."""
    naive = (clock.now() + timedelta(hours=1)).astimezone().replace(tzinfo=None)
    task_id = manager.schedule_task_once(functions.echo, naive, "later", name="reminder")
    assert manager.get_task_status(task_id) is TaskStatus.SCHEDULED
    assert [each.name for each in run_until_idle(manager, advance=clock)] == ["reminder"]
    assert clock.now() == START + timedelta(hours=1)


def test_the_id_of_a_schedule_works_like_that_of_a_task(manager: BackgroundTaskManager) -> None:
    """Its status is that of the newest task, and cancelling it ends it."""
    schedule_id = manager.schedule_task_cron(functions.echo, "0 3 * * *", 1, timezone="Europe/Berlin", name="nightly")
    assert manager.get_task_status(schedule_id) is TaskStatus.SCHEDULED
    (ran,) = run_for(manager, timedelta(days=1))
    assert ran.scheduled_for == datetime(2030, 1, 1, 2, tzinfo=UTC)
    assert manager.get_task_status(schedule_id) is TaskStatus.COMPLETED
    manager.schedules.run_now("nightly")
    assert manager.get_task_status(schedule_id) is TaskStatus.PENDING
    assert manager.cancel_task(schedule_id)
    assert manager.schedules.preview("nightly") == []
    assert manager.get_task_status("0" * 32) is None


def test_said_again_at_the_next_start_it_is_the_same_schedule(manager: BackgroundTaskManager) -> None:
    """Without a name too; another rule or other arguments are another one then."""
    ids = [manager.schedule_task_interval(functions.echo, 60, "a") for _ in range(2)]
    others = [
        manager.schedule_task_interval(functions.echo, 60, "b"),
        manager.schedule_task_interval(functions.echo, 61, "a"),
        manager.schedule_task_cron(functions.echo, "* * * * *", "a"),
    ]
    assert len({*ids, *others}) == 4
    named = [manager.schedule_task_interval(functions.echo, every, 1, name="sync") for every in (60, 120)]
    assert named[0] == named[1]
    found = manager.schedules.get("sync")
    assert found is not None
    assert found.words == "Every 2 minutes"


def test_what_is_missed_is_said(tmp_path: Path) -> None:
    """As an event of the worker that makes up for it."""
    events: list[Event] = []
    clock = FakeClock(START)
    with BackgroundTaskManager(database=tmp_path / "app.db", start=False, clock=clock) as manager:
        manager.schedule_task_interval(functions.echo, 3600, 1, name="hourly", missed="run_once")
    clock.advance(5.5 * 3600)
    with BackgroundTaskManager(database=tmp_path / "app.db", clock=clock, observe=events.append) as manager:
        wait_until(lambda: completed(manager) == 1, manager)
    assert [event.schedules for event in events if isinstance(event, FireTimesMissed)] == [["hourly"]]


@pytest.mark.parametrize("overlap", ["skip", "queue", "cancel_previous"])
def test_runs_of_one_schedule_never_overlap(tmp_path: Path, overlap: str) -> None:
    """With free slots, fire times that come faster than the work is done, and runs by hand in between."""
    log = tmp_path / "log"
    with BackgroundTaskManager(database=tmp_path / "app.db", max_workers=4) as manager:
        manager.schedules.add(
            functions.note_span, Schedule(every=0.1, overlap=overlap), args=(str(log), 0.17), name="slow"
        )
        for _ in range(10):
            manager.schedules.run_now("slow")
            wait_until(lambda: bool(log.exists()), manager)
        wait_until(lambda: log.read_text().count("end") >= 5, manager)
        manager.schedules.end("slow")
        manager.cancel_tasks(TaskFilter())
    lines = log.read_text().split()
    assert lines == ["begin", "end"] * (len(lines) // 2)


def test_a_function_declares_its_schedule(tmp_path: Path) -> None:
    """Stored by the worker that imports its module; gone when the function says nothing more."""
    (tmp_path / "chores.py").write_text(
        "from datetime import timedelta\nfrom thirdshift import task, Schedule\n"
        "@task(schedule='0 3 * * *', queue='chores')\ndef nightly(): ...\n"
        "@task(schedule=Schedule(every=timedelta(hours=1), overlap='queue'))\ndef hourly(): ...\n"
    )
    program = (
        "import sys, chores; from thirdshift import BackgroundTaskManager\n"
        "from thirdshift.core.schedule_store import FROM_CODE\n"
        "with BackgroundTaskManager(database='app.db') as manager:\n"
        "    manager._scheduler.stop(); manager.schedules.declare()\n"
        "    print([(each.name, each.words, each.source, each.task.queue) for each in manager.schedules.all()])\n"
    )

    def found() -> str:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=True
        )
        return done.stdout.strip()

    assert found() == str(
        [
            ("chores:hourly", "Every hour", "code", "default"),
            ("chores:nightly", "At 03:00 every day, UTC", "code", "chores"),
        ]
    )
    (tmp_path / "chores.py").write_text("def nightly(): ...\ndef hourly(): ...\n")
    program = program.replace(
        "chores;", "chores, thirdshift.core.declare as d; d._scheduled.append(len); d._scheduled.clear();"
    )
    program = program.replace(
        "manager.schedules.declare()", "manager.schedules._declared = -1; manager.schedules.declare()"
    )
    assert found() == "[]"


def test_what_cannot_be_scheduled_is_refused(manager: BackgroundTaskManager) -> None:
    """With what to do instead."""
    with pytest.raises(UsageError, match=r"write schedule='0 3 \* \* \*'"):
        task(schedule=60)(functions.echo)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="without arguments"):
        task(schedule="0 3 * * *")(functions.greet)
    with pytest.raises(UsageError, match="give a Schedule"):
        manager.schedules.add(functions.echo, "0 3 * * *")  # type: ignore[arg-type]
    parent = manager.submit(functions.echo, 1)
    with pytest.raises(UsageError, match="results of other tasks"):
        manager.schedule_task_interval(functions.echo, 60, parent.output)
    with pytest.raises(UsageError, match="both an option of the schedule and a parameter"):
        manager.schedule_task_interval(functions.greet, 60, name="x")
    with pytest.raises(ScheduleNotFound, match="thirdshift schedules list"):
        manager.schedules.pause("nothing")


def test_a_schedule_can_be_looked_at(manager: BackgroundTaskManager, clock: FakeClock) -> None:
    """Its next fire times, also while it is paused, and its last ones."""
    manager.schedule_task_cron(functions.echo, "0 */6 * * *", 1, name="four", overlap="queue")
    assert [at.hour for at in manager.schedules.preview("four", 3)] == [6, 12, 18]
    assert manager.schedules.pause("four")
    assert [at.hour for at in manager.schedules.preview("four", 3)] == [6, 12, 18]
    assert manager.schedules.resume("four")
    fire = manager.schedules.run_now("four")
    assert fire.task is not None
    (last,) = manager.schedules.fires("four")
    assert last == fire
    assert manager.schedules.delete("four")
    assert manager.schedules.all() == []


def test_a_schedule_is_read_with_any_tool(manager: BackgroundTaskManager) -> None:
    """The rule stands in the file as JSON."""
    manager.schedule_task_interval(functions.echo, 60, 1, name="sync")
    ((rule,),) = manager._engine._read("SELECT rule FROM schedule")  # type: ignore[attr-defined]
    assert json.loads(rule)["every"] == 60.0


def test_why_a_schedule_does_not_fire(manager: BackgroundTaskManager, clock: FakeClock) -> None:
    """In words; and health names those that nobody looks after."""
    schedule_id = manager.schedule_task_interval(functions.echo, 3600, 1, name="sync")

    def why() -> str:
        (reason,) = manager.why(schedule_id)
        return sentence(reason, clock.now())

    def late() -> list[str]:
        (found,) = (each for each in manager.health("complete") if each.code is HealthCode.SCHEDULES)
        return [each["name"] for each in found.facts["late"]]

    assert why() == "it is the schedule sync (Every hour), which fires next in 60 min"
    assert late() == []
    clock.advance(7200)
    assert why() == (
        "it is the schedule sync (Every hour), which was due 60 min ago: no worker makes the tasks of schedules"
    )
    assert late() == ["sync"]
    run_until_idle(manager)
    assert why().endswith("fires next in 60 min; it fired last 0 ms ago")
    manager.schedules.pause("sync")
    assert "`thirdshift schedules resume` ends that" in why()
    manager.cancel_task(schedule_id)
    assert "makes no more tasks" in why()


def test_a_coroutine_does_all_that_with_schedules(manager: BackgroundTaskManager) -> None:
    """By calls with an *a* before the name, which say the same."""
    schedules = manager.schedules

    async def work() -> None:
        added = await schedules.aadd(functions.echo, Schedule(every=3600), args=[1], name="sync", queue="mail")
        assert added == await schedules.aget("sync")
        assert added.task.queue == "mail"
        assert await schedules.aall() == [added]
        assert await schedules.apreview("sync", 2) == [START + timedelta(hours=hour) for hour in (1, 2)]
        fire = await schedules.arun_now("sync")
        assert await schedules.afires("sync", 1) == [fire]
        assert await schedules.apause("sync")
        assert not await schedules.apause("sync")
        assert await schedules.aresume("sync")
        assert await schedules.aend("sync")
        assert await schedules.adelete("sync")
        with pytest.raises(ScheduleNotFound):
            await schedules.apause("sync")
        await schedules.aadd(functions.echo, Schedule(every=1), name="old", source="list")
        assert await schedules.akeep_only("list", []) == ["old"]

    asyncio.run(work())


def test_the_event_loop_runs_on_while_a_schedule_is_written(manager: BackgroundTaskManager) -> None:
    """Also while another program holds the file locked."""

    async def work() -> None:
        with closing(sqlite3.connect(manager.database, isolation_level=None)) as stranger:
            stranger.execute("BEGIN IMMEDIATE")
            adding = asyncio.create_task(manager.schedules.aadd(functions.echo, Schedule(every=60), name="sync"))
            assert not (await asyncio.wait([adding], timeout=0.1))[0]
            stranger.execute("COMMIT")
        assert (await adding).name == "sync"

    asyncio.run(work())


def test_every_call_for_people_has_a_twin_for_coroutines() -> None:
    """With the same parameters and the same answer."""
    calls = inspect.getmembers(TaskScheduler, inspect.isfunction)
    twins = {name: call for name, call in calls if inspect.iscoroutinefunction(call)}
    for_the_manager = {"status_of", "why", "declare", "declare_file"}
    public = {name: call for name, call in calls if not name.startswith("_")}
    assert {f"a{name}" for name in public.keys() - twins.keys() - for_the_manager} == set(twins)
    for name, twin in twins.items():
        assert inspect.signature(twin) == inspect.signature(public[name[1:]]), name
