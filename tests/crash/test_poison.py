"""A task that kills the process it runs in: counted by what the slot file says, never at its neighbours' cost."""

import contextlib
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager, TaskStatus
from thirdshift.core.task import AttemptOutcome, BackgroundTask
from thirdshift.engines.sqlite.slotfile import SlotFile, read_slots
from thirdshift.testing import coroutines, functions
from thirdshift.testing.signals import TIMEOUT_S
from thirdshift.testing.torture import worker_program

PROGRAM = worker_program.__file__
MOST_DEATHS = 15


def run_until_finished(database: Path, ids: list[str]) -> int:
    """Start one worker after another until all tasks are finished; returns how many workers died meanwhile."""
    unfinished = set(ids)
    with BackgroundTaskManager(database=database, start=False) as reader:
        for deaths in range(MOST_DEATHS):
            worker = subprocess.Popen([sys.executable, "-W", "error", PROGRAM, database, "4"])
            try:
                while worker.poll() is None:
                    unfinished = {task_id for task_id in unfinished if not reader.handle(task_id).status.is_finished}
                    if not unfinished:
                        return deaths
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        worker.wait(0.02)  # the processor is the worker's
            finally:
                worker.kill()
                worker.wait()
    raise AssertionError(f"{MOST_DEATHS} workers died")


def read_all(database: Path, ids: list[str]) -> list[BackgroundTask]:
    with BackgroundTaskManager(database=database, start=False) as reader:
        return [reader.handle(task_id).task for task_id in ids]


def test_a_poison_task_fails_alone(tmp_path: Path) -> None:
    """It takes two workers down; its third start has a process of its own, and its hundred neighbours complete."""
    database = tmp_path / "tasks.db"
    with BackgroundTaskManager(database=database, start=False) as manager:
        ids = [manager.submit(functions.sleep, 0.05).id for _ in range(30)]
        poison = manager.options(max_retries=5).submit(functions.kill_self, int(signal.SIGKILL)).id
        ids += [manager.submit(functions.sleep, 0.05).id for _ in range(70)]
    assert run_until_finished(database, [*ids, poison]) == 2
    assert {task.status for task in read_all(database, ids)} == {TaskStatus.COMPLETED}
    (found,) = read_all(database, [poison])
    assert found.status is TaskStatus.FAILED
    assert [attempt.outcome for attempt in found.attempts] == [
        AttemptOutcome.INTERRUPTED,
        AttemptOutcome.INTERRUPTED,
        AttemptOutcome.FAILED,
    ]
    first, second, third = (attempt.error for attempt in found.attempts)
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.message.endswith("died while it ran this task (crash 1 in a row)")
    assert second.message.endswith("died while it ran this task (crash 2 in a row)")
    assert str(third) == "ProcessDied: the child process was killed by SIGKILL (crash 3 in a row)"


def test_a_task_that_kills_every_worker_fails_in_the_end(tmp_path: Path) -> None:
    """Also from a process of its own: ten workers in a row do not die by chance."""
    database = tmp_path / "tasks.db"
    with BackgroundTaskManager(database=database, start=False) as manager:
        task_id = manager.submit(functions.kill_worker).id
    assert run_until_finished(database, [task_id]) == 10
    (found,) = read_all(database, [task_id])
    assert (found.status, len(found.attempts), found.failures) == (TaskStatus.FAILED, 10, 1)
    assert found.error is not None
    assert found.error.message.endswith("died while it ran this task (crash 10 in a row)")


def test_deaths_after_progress_are_not_counted(tmp_path: Path) -> None:
    """A long task that comes forward each time is not what kills the workers."""
    database = tmp_path / "tasks.db"
    with BackgroundTaskManager(database=database, start=False) as manager:
        task_id = manager.submit(functions.kill_self_before_attempt, 6).id
    assert run_until_finished(database, [task_id]) == 5
    (found,) = read_all(database, [task_id])
    assert (found.status, found.result) == (TaskStatus.COMPLETED, 6)


@pytest.mark.parametrize("pool", ["thread", "process", "async"])
def test_a_step_is_never_done_twice(tmp_path: Path, pool: str) -> None:
    """Its process is killed after each of five steps: the sixth start does nothing again, and no start is counted."""
    database, log = tmp_path / "tasks.db", tmp_path / "log"
    log.touch()
    with BackgroundTaskManager(database=database, start=False) as manager:
        function = coroutines.die_after_each_step if pool == "async" else functions.die_after_each_step
        task_id = manager.options(pool=pool, max_retries=0).submit(function, str(log), 5).id
    run_until_finished(database, [task_id])
    (found,) = read_all(database, [task_id])
    assert (found.status, found.result) == (TaskStatus.COMPLETED, ["0", "1", "2", "3", "4"])
    assert log.read_text().split() == ["0", "1", "2", "3", "4"]
    assert len(found.attempts) == 6


def test_a_retry_by_hand_starts_the_count_anew(tmp_path: Path) -> None:
    """Somebody has repaired what killed it."""
    database = tmp_path / "tasks.db"
    with BackgroundTaskManager(database=database) as manager:
        handle = manager.options(pool="process").submit(functions.kill_self, int(signal.SIGKILL))
        assert len(handle.wait(TIMEOUT_S).attempts) == 3
        assert manager.retry_task(handle.id)
        assert len(handle.wait(TIMEOUT_S).attempts) == 6


@pytest.mark.parametrize("seed", range(20))
def test_a_slot_file_may_say_anything(tmp_path: Path, seed: int) -> None:
    """After a power loss nobody knows what stands in it; it names attempts, and the store knows which are true."""
    path = tmp_path / "worker.slots"
    path.write_bytes(random.Random(seed).randbytes(seed * 7))
    for seq, attempt in read_slots(path):
        assert isinstance(seq, int)
        assert attempt != 0


def test_a_slot_file_tells_what_stood_where(tmp_path: Path) -> None:
    """With and without progress; what left its slot is not told."""
    path = tmp_path / "worker.slots"
    slots = SlotFile(path, 3)
    slots.enter(0, 7, 1)
    slots.enter(1, 8, 2)
    slots.note_progress(1)
    slots.enter(2, 9, 1)
    slots.leave(2)
    stood = {key: found.has_progress for key, found in read_slots(path).items()}
    assert stood == {(7, 1): False, (8, 2): True}
    slots.enter(1, 9, 1)
    slots.close()
    slots.leave(1)  # by a function that outlives its worker
    assert {key: found.has_progress for key, found in read_slots(path).items()} == {(7, 1): False, (9, 1): False}
    assert read_slots(tmp_path / "no such file") == {}
