"""Task functions for tests: each does one plain thing, so that the test reads as what it is about."""

import ctypes
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

from thirdshift.core.declare import task
from thirdshift.core.errors import TaskInterrupted
from thirdshift.core.outcome import Cancel, Retry, Snooze
from thirdshift.core.retry import RetryPolicy
from thirdshift.host.processes import parent_of
from thirdshift.runtime.context import current_task
from thirdshift.testing.signals import append, receive, send

_LOOK_S = 0.005


def add(first: float, second: float) -> float:
    """Return the sum."""
    return first + second


def echo(value: Any = None) -> Any:
    """Return *value*."""
    return value


def greet(name: str) -> str:
    """Have a parameter that is called as an option is."""
    return f"hello {name}"


def fail(message: str) -> NoReturn:
    """Raise an error that says *message*."""
    raise ValueError(message)


def fail_before_attempt(number: int) -> int:
    """Fail until attempt *number*, at once again."""
    attempt = current_task().attempt
    if attempt < number:
        raise ValueError(f"attempt {attempt}")
    return attempt


def try_again_before_attempt(number: int) -> Any:
    """Ask for another try until attempt *number*."""
    attempt = current_task().attempt
    return Retry(after=0) if attempt < number else attempt


def snooze_before_attempt(number: int, seconds: float = 0.0) -> Any:
    """Ask to be run later until attempt *number*."""
    attempt = current_task().attempt
    return Snooze(seconds) if attempt < number else attempt


def fire_time_in_attempt(number: int) -> Any:
    """Return the schedule and the fire time that attempt *number* knows of."""
    task = current_task()
    return Retry(after=0) if task.attempt < number else [task.schedule, task.scheduled_for]


def call_off(reason: str) -> Cancel:
    """End the task as cancelled."""
    return Cancel(reason)


_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (OSError, TimeoutError, FileNotFoundError, ValueError)
}
AT_ONCE = RetryPolicy(first_s=0.0)
NEXT_YEAR = RetryPolicy(first_s=1e9, most_s=1e9)


@task(retry_on=(OSError,), give_up_on=(FileNotFoundError,), backoff=AT_ONCE)
def fail_of(kind: str) -> NoReturn:
    """Raise an error of this kind."""
    raise _KINDS[kind]("no")


@task(backoff=NEXT_YEAR)
def fail_until_next_year(message: str) -> NoReturn:
    """Raise an error that says *message*."""
    raise ValueError(message)


@task(backoff=NEXT_YEAR)
def ask_for_a_retry(after: float | None) -> Retry | int:
    """Ask for one."""
    attempt = current_task().attempt
    return Retry(after=after) if attempt == 1 else attempt


def unserialisable() -> Any:
    """Return what cannot be stored."""
    return object()


def bad_wait(seconds: Any) -> Snooze:
    """Ask for a wait that makes no sense."""
    return Snooze(seconds)


class Unspeakable(Exception):  # its name is what it is
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def raise_unspeakable() -> NoReturn:
    """Raise an error whose text cannot be had."""
    raise Unspeakable


def raise_half_a_character() -> NoReturn:
    """Raise an error whose text is not valid Unicode, as file names can be."""
    raise ValueError("caf\udce9")


def raise_interrupt() -> NoReturn:
    """Raise what is no ``Exception``."""
    raise KeyboardInterrupt("by hand")


def leave(status: int) -> NoReturn:
    """End the interpreter in the ordinary way."""
    sys.exit(status)


def context_facts() -> list[Any]:
    """Return what the running function knows about itself."""
    task = current_task()
    return [task.id, task.name, task.attempt, task.idempotency_key, task.should_stop]


def strange_progress(said: str, released: str) -> None:
    """Report progress that is no JSON, and wait."""
    current_task().progress(1, 4, loss=float("nan"), where=Path("/tmp"), nested={1: (2, float("inf"))})  # noqa: S108
    hold(said, released)


def report_progress(said: str, released: str) -> None:
    """Report that 1 of 4 is done, and wait."""
    current_task().progress(1, 4, phase="first")
    hold(said, released)


def say(path: str, line: str) -> None:
    """Say *line*."""
    send(path, line)


def hold(said: str, released: str) -> str:
    """Say the process's id, then wait until the test lets it go on."""
    send(said, str(os.getpid()))
    receive(released)
    return "released"


def until_stopped(said: str) -> str:
    """Say the process's id, then work until somebody asks to stop; returns why."""
    task = current_task()
    send(said, str(os.getpid()))
    while not task.should_stop:
        time.sleep(_LOOK_S)
    assert task.stop_reason is not None
    return task.stop_reason.value


def snooze_when_stopped(said: str) -> Any:
    """The polite long task: ends early when asked, to be run again."""
    until_stopped(said)
    return Snooze()


def fail_when_ended(said: str) -> None:
    """Say the process's id and wait to be ended; then fail while cleaning up."""
    send(said, str(os.getpid()))
    try:
        signal.pause()
    finally:
        raise RuntimeError("cleaning up failed")


def stubborn_family(said: str) -> None:
    """Start a process, say both ids, and let nothing but SIGKILL end either."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as child:
        send(said, f"{os.getpid()} {child.pid}")
        child.wait()


def exit_now(status: int) -> NoReturn:
    """End the process on the spot."""
    os._exit(status)


def kill_self(number: int) -> None:
    """Send a signal to the own process."""
    os.kill(os.getpid(), number)
    signal.pause()


def kill_self_before_attempt(number: int) -> int:
    """Report progress and kill the own process, until the attempt *number*."""
    task = current_task()
    task.progress(task.attempt, number)
    if task.attempt < number:
        kill_self(signal.SIGKILL)
    return task.attempt


def kill_worker() -> None:
    """Kill the worker, from one of its threads or from its child, whose parent is its guard."""
    is_child = threading.current_thread() is threading.main_thread()
    os.kill(parent_of(os.getppid()) if is_child else os.getpid(), signal.SIGKILL)
    signal.pause()


def sleep(seconds: float) -> None:
    """Take so long."""
    time.sleep(seconds)


def allocate(mebibytes: int) -> int:
    """Hold so much memory for a moment."""
    return len(bytearray(mebibytes << 20))


def credit(database: str, amount: int, mishap: str = "none") -> str:
    """Add an entry of *amount* and complete, in one transaction on *database*; *mishap* is where it raises."""
    with closing(sqlite3.connect(database)) as connection:
        with current_task().commit(connection) as done:
            connection.execute("INSERT INTO entry (amount) VALUES (?)", [amount])
            done.result = f"credited {amount}"
            if mishap == "inside" and current_task().attempt == 1:
                raise ValueError("not yet")
        if mishap == "after":
            raise ValueError("too late")
    return "dropped"


def credit_when_released(database: str, said: str, released: str) -> str:
    """Do that after the test has had time to do something to the task."""
    send(said)
    receive(released)
    return credit(database, 1)


def stand_still() -> None:
    """Do nothing until asked to stop."""
    task = current_task()
    while not task.should_stop:
        time.sleep(_LOOK_S)


def note_span(log: str, seconds: float) -> None:
    """Note in *log* when it begins and when it ends, so long later or when it is told to stop."""
    with open(log, "a", buffering=1) as file:
        file.write("begin\n")
        until = time.monotonic() + seconds
        while time.monotonic() < until and not current_task().should_stop:
            time.sleep(0.005)
        file.write("end\n")


def live(sign: str, seconds: float) -> str:
    """Go on for so long, with signs of life: ``progress`` or ``log``."""
    task = current_task()
    end_at = time.monotonic() + seconds
    while time.monotonic() < end_at and not task.should_stop:
        if sign == "progress":
            task.progress(time.monotonic(), end_at)
        else:
            task.log.info("still here")
        time.sleep(20 * _LOOK_S)
    return "alive"


def segfault() -> None:
    """Read where nothing is."""
    ctypes.string_at(0)


def log_run(log: str, signal_path: str, busy_s: float) -> None:
    """Write the start and the end of this attempt to *log*, and a line to the test at the start."""
    task = current_task()
    append(log, f"start {task.id} {task.attempt} {os.getpid()}")
    send(signal_path)
    time.sleep(busy_s)
    append(log, f"end {task.id} {task.attempt} {os.getpid()}")


def log_run_with_progress(log: str, signal_path: str, busy_s: float) -> None:
    """Come forward, so that no death is counted against this task, and be as :func:`log_run`."""
    current_task().progress()
    log_run(log, signal_path, busy_s)


def note(log: str, line: str) -> str:
    """Write *line* to *log* and return it."""
    append(log, line)
    return line


def text_of(log: str) -> str:
    """Return what stands in *log*."""
    return Path(log).read_text()


def two_steps(log: str, second_with: list[str], until_attempt: int) -> Any:
    """Do two steps, which write to *log*, and fail until attempt *until_attempt*; the second takes one of the texts."""
    task = current_task()
    first = task.step("first", note, log, "first")
    second = task.step("second", note, log, second_with[min(task.attempt, len(second_with)) - 1])
    if task.attempt < until_attempt:
        return Retry(after=0)
    return [first, second, task.step("set", set, ("b", "a"))]


def step_with_a_coroutine() -> None:
    """Take a step that cannot be taken so."""

    async def nothing() -> None: ...

    _ = current_task().step("first", nothing)


def die_after_each_step(log: str, steps: int) -> list[str]:
    """Do *steps* steps, which write to the file *log*; kill this process after each that it has done itself."""
    done: list[str] = []
    for number in range(steps):
        before = text_of(log)
        done.append(current_task().step(f"step {number}", note, log, str(number)))
        if text_of(log) != before:
            os.kill(os.getpid(), signal.SIGKILL)
    return done


class Kitchen:
    """Functions with an owner."""

    @staticmethod
    def boil(what: str) -> str:
        """A static method."""
        return f"boiled {what}"

    @classmethod
    def fry(cls, what: str) -> str:
        """A class method."""
        return f"{cls.__name__} fried {what}"

    def bake(self, what: str) -> str:
        """An ordinary method."""
        return f"{self} baked {what}"


@task(interrupt=True)
def spin(said: str) -> NoReturn:
    """Say the thread's name and work for ever, without a look at ``should_stop``."""
    send(said, threading.current_thread().name)
    while True:
        pass


@task(interrupt=True)
def spin_and_swallow(said: str) -> str:
    """Work until it is interrupted, and return as if nothing had happened."""
    try:
        spin(said)
    except TaskInterrupted:
        return "swallowed"


@task(interrupt=True)
def spin_and_fail(said: str) -> NoReturn:
    """Work until it is interrupted, and fail while cleaning up."""
    try:
        spin(said)
    finally:
        raise RuntimeError("cleaning up failed")


@task(interrupt=True)
def hold_interruptibly(said: str, released: str) -> str:
    """Wait in C, where no exception arrives, until the test lets it go on."""
    return hold(said, released)


@task(interrupt=True)
def echo_interruptibly(value: Any = None) -> Any:
    """Return *value*."""
    return value


@task(detach_after=0.0)
def hold_first_attempt(said: str, released: str) -> int:
    """Wait, in the first attempt, until the test lets it go on; returns the number of the attempt."""
    attempt = current_task().attempt
    if attempt == 1:
        hold(said, released)
    return attempt


@task(detach_after=3_600.0)
def hold_before_detaching(said: str, released: str) -> str:
    """Wait until the test lets it go on, long before anybody lets go of it."""
    return hold(said, released)


def progress_and_hold(said: str, released: str) -> str:
    """Come forward, and then no more."""
    current_task().progress(1, 2)
    return hold(said, released)
