"""The task functions of :mod:`thirdshift.testing.functions` as coroutines, under the same names, and some more."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
import threading
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

from thirdshift.core.declare import task
from thirdshift.core.outcome import Cancel, Retry, Snooze
from thirdshift.runtime.context import current_task
from thirdshift.testing import functions
from thirdshift.testing.functions import Unspeakable
from thirdshift.testing.signals import append, send

_LOOK_S = 0.005


async def add(first: float, second: float) -> float:
    """Return the sum."""
    return first + second


async def echo(value: Any = None) -> Any:
    """Return *value*."""
    return value


async def fail(message: str) -> NoReturn:
    """Raise an error that says *message*."""
    raise ValueError(message)


async def fail_before_attempt(number: int) -> int:
    """Fail until attempt *number*, at once again."""
    return functions.fail_before_attempt(number)


async def try_again_before_attempt(number: int) -> Any:
    """Ask for another try until attempt *number*."""
    return functions.try_again_before_attempt(number)


async def snooze_before_attempt(number: int, seconds: float = 0.0) -> Any:
    """Ask to be run later until attempt *number*."""
    return functions.snooze_before_attempt(number, seconds)


async def fire_time_in_attempt(number: int) -> Any:
    """Return the schedule and the fire time that attempt *number* knows of."""
    return functions.fire_time_in_attempt(number)


async def call_off(reason: str) -> Cancel:
    """End the task as cancelled."""
    return Cancel(reason)


@task(retry_on=(OSError,), give_up_on=(FileNotFoundError,), backoff=functions.AT_ONCE)
async def fail_of(kind: str) -> NoReturn:
    """Raise an error of this kind."""
    functions.fail_of(kind)


@task(backoff=functions.NEXT_YEAR)
async def fail_until_next_year(message: str) -> NoReturn:
    """Raise an error that says *message*."""
    raise ValueError(message)


@task(backoff=functions.NEXT_YEAR)
async def ask_for_a_retry(after: float | None) -> Retry | int:
    """Ask for one."""
    return functions.ask_for_a_retry(after)


async def unserialisable() -> Any:
    """Return what cannot be stored."""
    return object()


async def bad_wait(seconds: Any) -> Snooze:
    """Ask for a wait that makes no sense."""
    return Snooze(seconds)


async def note(log: str, line: str) -> str:
    """Write *line* to *log* and return it."""
    return functions.note(log, line)


async def two_steps(log: str, second_with: list[str], until_attempt: int) -> Any:
    """Do two steps, one of them with a plain function; see the plain ``two_steps``."""
    task = current_task()
    first = await task.astep("first", note, log, "first")
    second = await task.astep("second", functions.note, log, second_with[min(task.attempt, len(second_with)) - 1])
    if task.attempt < until_attempt:
        return Retry(after=0)
    return [first, second, await task.astep("set", set, ("b", "a"))]


async def step_with_a_coroutine() -> None:
    """Take a step that cannot be taken so."""
    functions.step_with_a_coroutine()


async def die_after_each_step(log: str, steps: int) -> list[str]:
    """Kill this process after each step that it has done itself; see the plain ``die_after_each_step``."""
    done: list[str] = []
    for number in range(steps):
        before = functions.text_of(log)
        done.append(await current_task().astep(f"step {number}", note, log, str(number)))
        if functions.text_of(log) != before:
            os.kill(os.getpid(), signal.SIGKILL)
    return done


async def raise_unspeakable() -> NoReturn:
    """Raise an error whose text cannot be had."""
    raise Unspeakable


async def raise_half_a_character() -> NoReturn:
    """Raise an error whose text is not valid Unicode, as file names can be."""
    raise ValueError("caf\udce9")


async def raise_interrupt() -> NoReturn:
    """Raise what is no ``Exception``."""
    raise KeyboardInterrupt("by hand")


async def leave(status: int) -> NoReturn:
    """End the interpreter in the ordinary way."""
    sys.exit(status)


async def credit(database: str, amount: int, mishap: str = "none") -> str:
    """Add an entry of *amount* and complete, in one transaction on *database*; *mishap* is where it raises."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        async with current_task().commit(connection) as done:
            connection.execute("INSERT INTO entry (amount) VALUES (?)", [amount])
            done.result = f"credited {amount}"
            if mishap == "inside" and current_task().attempt == 1:
                raise ValueError("not yet")
        if mishap == "after":
            raise ValueError("too late")
    return "dropped"


async def credit_when_released(database: str, said: str, released: str) -> str:
    """Do that after the test has had time to do something to the task."""
    send(said)
    await _receive(released)
    return await credit(database, 1)


async def stop_the_loop() -> str:
    """Do what only the loop's owner may."""
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)
    return "still here"


async def leave_in_a_group() -> None:
    """End the interpreter from a task that this one started, and wait for that."""
    async with asyncio.TaskGroup() as group:
        group.create_task(leave(3))


async def fail_in_a_group() -> None:
    """Start two tasks that fail, and wait for them."""
    async with asyncio.TaskGroup() as group:
        for message in ("first", "second"):
            group.create_task(fail(message))


async def context_facts() -> list[Any]:
    """Return what the running function knows about itself."""
    return functions.context_facts()


async def strange_progress(said: str, released: str) -> None:
    """Report progress that is no JSON, and wait."""
    current_task().progress(1, 4, loss=float("nan"), where=Path("/tmp"), nested={1: (2, float("inf"))})  # noqa: S108
    await hold(said, released)


async def report_progress(said: str, released: str) -> None:
    """Report that 1 of 4 is done, and wait."""
    current_task().progress(1, 4, phase="first")
    await hold(said, released)


async def say(path: str, line: str) -> None:
    """Say *line*."""
    send(path, line)


async def hold(said: str, released: str) -> str:
    """Say the process's id, then wait until the test lets it go on."""
    send(said, str(os.getpid()))
    await _receive(released)
    return "released"


async def until_stopped(said: str) -> str:
    """Say the process's id, then work until somebody asks to stop; returns why."""
    task = current_task()
    send(said, str(os.getpid()))
    while not task.should_stop:  # noqa: ASYNC110  # what users write
        await asyncio.sleep(_LOOK_S)
    assert task.stop_reason is not None
    return task.stop_reason.value


async def log_run(log: str, signal_path: str, busy_s: float) -> None:
    """Write the start and the end of this attempt to *log*, and a line to the test at the start."""
    task = current_task()
    append(log, f"start {task.id} {task.attempt} {os.getpid()}")
    send(signal_path)
    await asyncio.sleep(busy_s)
    append(log, f"end {task.id} {task.attempt} {os.getpid()}")


async def snooze_when_stopped(said: str) -> Any:
    """The polite long task: ends early when asked, to be run again."""
    await until_stopped(said)
    return Snooze()


async def forever(said: str) -> None:
    """Say so, and wait for ever."""
    send(said)
    await asyncio.Event().wait()


async def fail_when_cancelled(said: str) -> None:
    """Wait for ever; clean up slowly when cancelled, and fail at that."""
    try:
        await forever(said)
    finally:
        await asyncio.sleep(0.05)
        raise RuntimeError("cleaning up failed")


async def swallow(said: str, times: int) -> str:
    """Swallow so many cancellations, and say so each time; then return as if nothing had been."""
    send(said)
    for _ in range(times):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        send(said, "swallowed")
    return "done"


async def swallow_until_released(said: str, released: str) -> str:
    """Swallow every cancellation until the test lets it go on."""
    waiting = asyncio.ensure_future(_receive(released))
    send(said)
    while not waiting.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(waiting)
    return "released"


async def block(said: str, released: str) -> str:
    """Hold up the whole event loop until the test lets it go on; returns why it should have stopped."""
    functions.hold(said, released)
    return str(current_task().stop_reason)


async def block_in_a_child(said: str, released: str) -> str:
    """Hold up the whole event loop in a task that this one started."""
    return await asyncio.ensure_future(block(said, released))


async def block_until_stopped(said: str) -> str:
    """Hold up the whole event loop until it is asked to stop; returns why."""
    send(said)
    task = current_task()
    while not task.should_stop:
        time.sleep(_LOOK_S)  # noqa: ASYNC251  # that is what it is about
    return str(task.stop_reason)


async def meet(number: int) -> str:
    """Wait until *number* of these run at once; returns the name of the thread."""
    barrier = _meetings.setdefault(asyncio.get_running_loop(), asyncio.Barrier(number))
    await barrier.wait()
    return threading.current_thread().name


_meetings: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Barrier] = WeakKeyDictionary()

_mark: ContextVar[str] = ContextVar("mark", default="nothing")


async def mark(value: str, said: str) -> list[str]:
    """Set a context variable, let others run, and return what was there before, and then."""
    before = _mark.get()
    _mark.set(value)
    send(said)
    await asyncio.sleep(0.01)
    return [before, _mark.get(), current_task().name]


async def leave_a_task_behind(said: str) -> None:
    """Start a task that goes on, and return."""

    async def go_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            send(said, "ended")

    _behind.add(asyncio.ensure_future(go_on()))
    await asyncio.sleep(0)


_behind: set["asyncio.Future[None]"] = set()


class Kitchen:
    """Coroutines with an owner."""

    @staticmethod
    async def boil(what: str) -> str:
        """A static method."""
        return f"boiled {what}"

    @classmethod
    async def fry(cls, what: str) -> str:
        """A class method."""
        return f"{cls.__name__} fried {what}"


async def _receive(path: str) -> None:
    """Wait until the test releases one caller at *path*, without holding up the loop."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    loop.add_reader(descriptor, readable.set)
    try:
        while not _read(descriptor):
            readable.clear()
            await readable.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _read(descriptor: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        return bool(os.read(descriptor, 1))
    return False
