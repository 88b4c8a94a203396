"""The gallery of hostile tasks: each ends as documented, its worker lives, its neighbours hardly notice, nothing stays.

What is left is judged from ``/proc``: every process that descends from the test carries its mark in its environment.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from thirdshift import BackgroundTaskManager, TaskStatus
from thirdshift.core.task import AttemptOutcome, BackgroundTask
from thirdshift.handle import TaskHandle
from thirdshift.host.lock import read_pid
from thirdshift.host.processes import descendants, parent_of
from thirdshift.testing import functions, hostile
from thirdshift.testing.memory_group import NoGroup, kills_in, memory_group
from thirdshift.testing.signals import TIMEOUT_S, Signal
from thirdshift.testing.torture import worker_program

pytestmark = pytest.mark.alone

PROGRAM = worker_program.__file__
MARK = "THIRDSHIFT_TEST_MARK"
SMALL_BYTES = 128 * 2**20
LONGEST_DELAY_S = 1.0
"""The most that a neighbour may take for what takes it a moment."""


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """What all processes of this test, however they have left it, carry in their environment."""
    value = uuid4().hex
    monkeypatch.setenv(MARK, value)
    return value


@pytest.fixture
def small_group() -> Iterator[Path]:
    """Where the kernel kills who takes more than ``SMALL_BYTES``, on a machine that lets us make such a place."""
    try:
        with memory_group(SMALL_BYTES) as group:
            yield group
    except NoGroup as reason:
        pytest.skip(str(reason))


@pytest.fixture
def manager(tmp_path: Path, mark: str) -> Iterator[BackgroundTaskManager]:
    """A worker of this process with two slots of each kind; nothing of it is left afterwards."""
    with BackgroundTaskManager(max_workers=2, database=tmp_path / "tasks.db", durability="relaxed") as manager:
        yield manager
    assert marked(mark) == set()


def marked(mark: str) -> set[int]:
    """Return the processes that carry *mark*, without this one, and without those that are dead."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if f"{MARK}={mark}".encode() in environment.split(b"\0"):
                found.add(int(entry.name))
    return found


def left_behind(mark: str, folder: Path) -> set[int]:
    """Return those of the marked processes that are neither children of the pool nor their guards."""
    known = {read_pid(path) for pattern in ("*.child-*.lock", "*.guard") for path in folder.rglob(pattern)}
    return {pid for pid in marked(mark) if pid not in known}


def wait_among_neighbours(manager: BackgroundTaskManager, handle: TaskHandle[Any]) -> tuple[BackgroundTask, float]:
    """Wait for the hostile task while others run in both pools; returns it, and the longest that one of them took."""
    manager.options(pool="process").submit(functions.echo).result(TIMEOUT_S)  # the second child has started
    longest_s = 0.0
    give_up_at = time.monotonic() + TIMEOUT_S
    while not handle.status.is_finished:
        assert time.monotonic() < give_up_at, f"it is {handle.status} still"
        for pool in ("process", "thread"):
            began = time.monotonic()
            manager.options(pool=pool).submit(functions.echo).result(TIMEOUT_S)
            longest_s = max(longest_s, time.monotonic() - began)
        time.sleep(0.01)
    return handle.task, longest_s


GALLERY: dict[str, tuple[Callable[..., Any], tuple[Any, ...], TaskStatus, AttemptOutcome, str]] = {
    "sleeps in C": (
        hostile.sleep_in_c, (), TaskStatus.FAILED, AttemptOutcome.TIMED_OUT, "TimedOut: the attempt ran longer"),
    "ignores SIGTERM": (
        hostile.ignore_sigterm, (), TaskStatus.FAILED, AttemptOutcome.TIMED_OUT, "TimedOut: the attempt ran"),
    "forks grandchildren": (
        hostile.fork_a_family, (), TaskStatus.FAILED, AttemptOutcome.TIMED_OUT, "TimedOut: the attempt ran"),
    "leaves its group": (
        hostile.leave_the_group, (), TaskStatus.FAILED, AttemptOutcome.TIMED_OUT, "TimedOut: the attempt ran"),
    "breeds": (
        hostile.breed, (), TaskStatus.FAILED, AttemptOutcome.TIMED_OUT, "TimedOut: the attempt ran longer"),
    "asks for more memory than it may have": (
        hostile.eat_memory, (512,), TaskStatus.FAILED, AttemptOutcome.FAILED, "MemoryError: "),
    "asks for more memory than it may have in C": (
        hostile.eat_memory_in_c, (512,), TaskStatus.FAILED, AttemptOutcome.FAILED,
        "ProcessDied: the child process was killed by SIGSEGV (crash 3 in a row)"),
    "kills itself": (
        functions.kill_self, (int(signal.SIGKILL),), TaskStatus.FAILED, AttemptOutcome.FAILED,
        "ProcessDied: the child process was killed by SIGKILL (crash 3 in a row)"),
    "segfaults": (
        functions.segfault, (), TaskStatus.FAILED, AttemptOutcome.FAILED,
        "ProcessDied: the child process was killed by SIGSEGV (crash 3 in a row)"),
    "segfaults beside its daemon": (
        hostile.leave_and_crash, (), TaskStatus.FAILED, AttemptOutcome.FAILED,
        "ProcessDied: the child process was killed by SIGSEGV (crash 3 in a row)"),
    "writes for ever": (
        hostile.write_for_ever, (), TaskStatus.FAILED, AttemptOutcome.TIMED_OUT, "TimedOut: the attempt ran"),
    "calls os._exit": (
        functions.exit_now, (0,), TaskStatus.FAILED, AttemptOutcome.FAILED,
        "ProcessDied: the child process exited with status 0 (crash 3 in a row)"),
    "calls os._exit beside its daemon": (
        hostile.leave_and_exit, (7,), TaskStatus.FAILED, AttemptOutcome.FAILED,
        "ProcessDied: the child process exited with status 7 (crash 3 in a row)"),
}  # fmt: skip


@pytest.mark.parametrize("name", GALLERY)
def test_a_hostile_task_ends_and_nothing_of_it_is_left(
    manager: BackgroundTaskManager, mark: str, tmp_path: Path, name: str
) -> None:
    """What would not end has a limit of one second; the worker goes on, and no neighbour waits."""
    function, arguments, status, outcome, words = GALLERY[name]
    limit_s = 1 if outcome is AttemptOutcome.TIMED_OUT else TIMEOUT_S
    began = time.monotonic()
    handle = manager.options(pool="process", timeout=limit_s, max_retries=0).submit(function, *arguments)
    task, longest_s = wait_among_neighbours(manager, handle)
    assert time.monotonic() - began < 10
    assert left_behind(mark, tmp_path) == set()
    assert (task.status, task.attempts[-1].outcome) == (status, outcome)
    assert str(task.error).startswith(words)
    assert longest_s < LONGEST_DELAY_S
    assert manager.options(pool="process").submit(functions.add, 1, 2).result(TIMEOUT_S) == 3


def test_a_task_that_eats_memory_is_killed_by_the_kernel(
    small_group: Path, manager: BackgroundTaskManager, mark: str, tmp_path: Path
) -> None:
    """Nobody else is: its third crash is the last, and each attempt says by what it died and how much memory it had."""
    handle = manager.options(pool="process", max_retries=0).submit(hostile.eat_memory_in, str(small_group), 1_024)
    task, longest_s = wait_among_neighbours(manager, handle)
    assert left_behind(mark, tmp_path) == set()
    assert kills_in(small_group) == len(task.attempts) == 3
    assert str(task.error) == "ProcessDied: the child process was killed by SIGKILL (crash 3 in a row)"
    for attempt in task.attempts:
        assert attempt.traces.peak_memory_bytes is not None
        assert SMALL_BYTES / 2 < attempt.traces.peak_memory_bytes < 2 * SMALL_BYTES
    assert longest_s < LONGEST_DELAY_S
    assert manager.options(pool="process").submit(functions.add, 1, 2).result(TIMEOUT_S) == 3


def test_a_cancelled_task_leaves_nothing_behind(manager: BackgroundTaskManager, mark: str, tmp_path: Path) -> None:
    """Cancelled while its daemon and it sleep."""
    handle = manager.options(pool="process").submit(hostile.leave_the_group)
    give_up_at = time.monotonic() + TIMEOUT_S
    while not left_behind(mark, tmp_path):
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    assert manager.cancel_task(handle.id)
    assert handle.wait(TIMEOUT_S).status is TaskStatus.CANCELLED
    assert left_behind(mark, tmp_path) == set()


def test_a_task_that_ends_in_time_keeps_what_it_started(
    manager: BackgroundTaskManager, mark: str, tmp_path: Path
) -> None:
    """A daemon may be its purpose; it ends with the child that runs the tasks."""
    manager.options(pool="process").submit(hostile.start_daemon).result(TIMEOUT_S)
    time.sleep(0.2)  # its first half has ended too
    assert len(left_behind(mark, tmp_path)) == 1


@pytest.mark.parametrize("victim", ["child", "guard"])
def test_a_child_or_guard_that_is_killed_takes_the_attempt_with_it(
    manager: BackgroundTaskManager, tmp_path: Path, victim: str
) -> None:
    """And nothing else: the task starts again in a fresh child."""
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
        handle = manager.options(pool="process").submit(functions.hold, said.path, released.path)
        child = int(said.wait())
        os.kill(child if victim == "child" else parent_of(child), signal.SIGKILL)
        said.wait()
        released.release()
        task = handle.wait(TIMEOUT_S)
    assert (task.status, len(task.attempts)) == (TaskStatus.COMPLETED, 2)
    words = {"child": "was killed by SIGKILL", "guard": "was ended by the death of its guard"}[victim]
    assert task.attempts[0].error is not None
    assert words in task.attempts[0].error.message


def test_a_stopped_guard_still_obeys(manager: BackgroundTaskManager, mark: str, tmp_path: Path) -> None:
    """A task may stop even its guard; it is set going again when there is something to do."""
    handle = manager.options(pool="process", timeout=0.5, max_retries=0).submit(hostile.ignore_sigterm)
    while not (guards := [pid for pid in marked(mark) if parent_of(pid) == os.getpid() and descendants(pid)]):
        time.sleep(0.01)
    os.kill(guards[0], signal.SIGSTOP)
    assert handle.wait(TIMEOUT_S).attempts[-1].outcome is AttemptOutcome.TIMED_OUT
    assert left_behind(mark, tmp_path) == set()


@pytest.mark.parametrize("slots", [1, 2])
def test_a_thread_that_sleeps_for_an_hour_delays_others_by_its_limit(tmp_path: Path, slots: int) -> None:
    """And by less than a second more, with one slot too; nobody else gets its task meanwhile."""
    database = tmp_path / "tasks.db"
    with BackgroundTaskManager(database=database, start=False) as manager:
        hanging = manager.options(timeout=1).submit(hostile.sleep_in_c_for_an_hour)
        worker = subprocess.Popen([sys.executable, "-W", "error", PROGRAM, database, str(slots)])
        try:
            give_up_at = time.monotonic() + TIMEOUT_S
            while hanging.status is not TaskStatus.RUNNING:
                assert time.monotonic() < give_up_at
                time.sleep(0.01)
            longest_s = 0.0
            for _ in range(30):
                began = time.monotonic()
                manager.submit(functions.echo).result(TIMEOUT_S)
                longest_s = max(longest_s, time.monotonic() - began)
            assert longest_s < 1 + LONGEST_DELAY_S
            assert (hanging.status, hanging.task.attempts) == (TaskStatus.RUNNING, ())
            manager.cancel_task(hanging.id)
        finally:
            worker.kill()
            worker.wait()
    with BackgroundTaskManager(max_workers=1, database=database) as manager:
        assert manager.handle(hanging.id).wait(TIMEOUT_S).status is TaskStatus.CANCELLED


@pytest.mark.parametrize("victims", ["worker", "worker and child"])
def test_a_worker_that_is_killed_leaves_nothing_behind(tmp_path: Path, mark: str, victims: str) -> None:
    """Its guards notice, and end what its tasks have started; only then does a rescuer run those again."""
    database = tmp_path / "tasks.db"
    with BackgroundTaskManager(database=database, start=False) as manager:
        handle = manager.options(pool="process").submit(hostile.leave_the_group)
        worker = subprocess.Popen([sys.executable, "-W", "error", PROGRAM, database])
        give_up_at = time.monotonic() + TIMEOUT_S
        while len(marked(mark)) < 4:  # worker, guard, child and its daemon
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        old = marked(mark)
        (guard,) = (pid for pid in old if parent_of(pid) == worker.pid)
        children = [read_pid(path) for path in tmp_path.rglob("*.child-*.lock") if read_pid(path) in old]
        worker.kill()
        if victims != "worker":
            for pid in children:
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
        worker.wait()
        with BackgroundTaskManager(max_workers=1, database=database):
            while handle.task.attempts == ():
                assert time.monotonic() < give_up_at
            assert guard not in marked(mark)
            assert not old & marked(mark)
            manager.cancel_task(handle.id)
            handle.wait(TIMEOUT_S)
    assert marked(mark) == set()
