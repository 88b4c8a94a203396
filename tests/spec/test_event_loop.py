"""The event loop: many coroutines on one thread, ended for real where that is possible, and honest where it is not."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager, TaskFailed, TaskStatus, UsageError, task
from thirdshift.core import codec
from thirdshift.core.events import AttemptOverran, Event, LoopBlocked, LoopFreed, WorkerFailed
from thirdshift.core.task import AttemptOutcome, PoolKind
from thirdshift.monitor.logs import log_event
from thirdshift.runtime.attempt import run_attempt
from thirdshift.runtime.clock import SystemClock
from thirdshift.runtime.context import TaskContext
from thirdshift.runtime.pools import event_loop, pool
from thirdshift.runtime.pools.event_loop import EventLoopPool
from thirdshift.testing import coroutines, functions, inline
from thirdshift.testing.signals import TIMEOUT_S, Signal

LOOP_THREAD = "thirdshift-async"


class Heard:
    """Keeps the worker's events; :meth:`wait` waits for one of a kind."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._arrived = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._arrived:
            self.events.append(event)
            self._arrived.notify_all()

    def wait(self, kind: type[Event]) -> Event:
        def of_kind() -> list[Event]:
            return [event for event in self.events if isinstance(event, kind)]

        with self._arrived:
            assert self._arrived.wait_for(of_kind, TIMEOUT_S), f"no {kind.__name__}"
            return of_kind()[0]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def manager(tmp_path: Path, heard: Heard) -> Iterator[BackgroundTaskManager]:
    """A manager with two coroutines and one thread at once."""
    pools = {"async": 2, "thread": 1, "process": 0}
    with BackgroundTaskManager(database=tmp_path / "tasks.db", pools=pools, observe=heard) as manager:
        yield manager


@pytest.fixture
def said(tmp_path: Path) -> Iterator[Signal]:
    with Signal(tmp_path / "said") as signal:
        yield signal


@pytest.fixture
def released(tmp_path: Path) -> Iterator[Signal]:
    with Signal(tmp_path / "released") as signal:
        yield signal


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for seconds until a coroutine's grace is over."""
    for module in (pool, event_loop):
        monkeypatch.setattr(module, "GRACE_S", 0.3)
    monkeypatch.setattr(event_loop, "_CLEAN_UP_S", 0.1)
    monkeypatch.setattr(event_loop, "_AGAIN_S", 0.01)


@pytest.fixture
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a loop be blocked soon."""
    monkeypatch.setattr(event_loop, "_SILENT_S", 0.1)
    monkeypatch.setattr(event_loop, "_PAUSE_S", 0.0)


# Many at once


def test_hundreds_run_at_once_on_one_thread(tmp_path: Path) -> None:
    """All 500 are inside before the first returns."""
    with BackgroundTaskManager("async", 500, database=tmp_path / "tasks.db") as manager:
        ids = manager.submit_many(coroutines.meet, [(500,)] * 500)
        assert {manager.handle(task_id).result(TIMEOUT_S) for task_id in ids} == {LOOP_THREAD}


def test_no_more_run_at_once_than_there_are_slots(
    manager: BackgroundTaskManager, said: Signal, released: Signal
) -> None:
    """The third waits for the end of one of two."""
    held = [manager.submit(coroutines.hold, said.path, released.path) for _ in range(2)]
    for _ in held:
        said.wait()
    third = manager.submit(coroutines.add, 1, 2)
    assert third.status is TaskStatus.PENDING
    released.release(2)
    assert third.result(TIMEOUT_S) == 3


def test_thousands_of_short_ones_run_once_each(tmp_path: Path) -> None:
    """Claimed ahead, in one thread, recorded by another."""
    with BackgroundTaskManager("async", database=tmp_path / "tasks.db", durability="relaxed") as manager:
        ids = manager.submit_many(coroutines.add, [(number, 1) for number in range(3_000)])
        assert [manager.handle(task_id).result(TIMEOUT_S) for task_id in ids] == list(range(1, 3_001))
        assert {attempt.number for each in manager.find_tasks() for attempt in each.attempts} <= {1}
        assert manager.get_stats()["completed"] == 3_000


def test_each_has_context_variables_of_its_own(manager: BackgroundTaskManager, said: Signal) -> None:
    """Also ``current_task``; nothing of the submitter's context is seen."""
    coroutines._mark.set("the submitter's")
    handles = [manager.options(name=name).submit(coroutines.mark, name, said.path) for name in ("a", "b", "c")]
    assert [each.result(TIMEOUT_S) for each in handles] == [["nothing", name, name] for name in ("a", "b", "c")]


def test_an_idle_worker_has_no_loop(tmp_path: Path) -> None:
    """Neither a thread nor the library, until the first coroutine comes."""
    script = """
import sys, threading
from thirdshift import BackgroundTaskManager
from thirdshift.testing import functions
def state():
    return "asyncio" in sys.modules, "thirdshift-async" in [thread.name for thread in threading.enumerate()]
with BackgroundTaskManager(database=sys.argv[1]) as manager:
    manager.submit(functions.add, 1, 2).result(120)
    print(*state())
    from thirdshift.testing import coroutines
    manager.submit(coroutines.add, 1, 2).result(120)
    print(*state())
print(*state())
"""
    command = [sys.executable, "-c", script, str(tmp_path / "tasks.db")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=180).stdout
    assert printed.splitlines() == ["False False", "True True", "True False"]


def test_a_module_is_imported_beside_the_loop(
    tmp_path: Path, manager: BackgroundTaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import may take seconds, in which all other coroutines would stand still."""
    source = "import threading\nplace = threading.current_thread().name\nasync def say(): return place\n"
    (tmp_path / "slow_to_import.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    manager.pause_queue("default")
    module = __import__("slow_to_import")
    handles = [manager.submit(module.say) for _ in range(2)]
    monkeypatch.delitem(sys.modules, "slow_to_import")
    manager.resume_queue("default")
    assert LOOP_THREAD not in {handle.result(TIMEOUT_S) for handle in handles}
    monkeypatch.delitem(sys.modules, "slow_to_import")


# Ended for real


def test_cancelling_ends_a_coroutine(manager: BackgroundTaskManager, said: Signal) -> None:
    """Where it waits; its traceback says where that was."""
    handle = manager.submit(coroutines.forever, said.path)
    said.wait()
    assert handle.cancel()
    found = handle.wait(TIMEOUT_S)
    assert (found.status, found.attempts[0].outcome) == (TaskStatus.CANCELLED, AttemptOutcome.CANCELLED)
    assert found.error is not None
    assert found.error.type == "Cancelled"
    assert "in forever" in str(found.error.traceback)
    assert manager.submit(coroutines.add, 1, 1).result(TIMEOUT_S) == 2


def test_a_time_limit_ends_a_coroutine(manager: BackgroundTaskManager, said: Signal) -> None:
    """It is a failure, and tried again."""
    handle = manager.options(timeout=0.1, max_retries=1).submit(coroutines.forever, said.path)
    found = handle.wait(TIMEOUT_S)
    assert found.status is TaskStatus.FAILED
    assert [attempt.outcome for attempt in found.attempts] == [AttemptOutcome.TIMED_OUT] * 2
    assert "in forever" in str(found.attempts[0].error and found.attempts[0].error.traceback)


def test_a_stall_limit_ends_a_coroutine(manager: BackgroundTaskManager, said: Signal) -> None:
    """One that shows no sign of life."""
    found = manager.options(stall_timeout=0.1, max_retries=0).submit(coroutines.forever, said.path).wait(TIMEOUT_S)
    assert found.attempts[0].outcome is AttemptOutcome.TIMED_OUT
    assert found.error is not None
    assert found.error.type == "Stalled"


def test_a_shutdown_ends_what_does_not_end_by_itself(
    tmp_path: Path, manager: BackgroundTaskManager, said: Signal
) -> None:
    """It is interrupted, uses up no retry, and runs again."""
    handle = manager.options(max_retries=0).submit(coroutines.forever, said.path)
    said.wait()
    assert manager.shutdown(timeout=0)
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False) as reader:
        found = reader.handle(handle.id).task
        assert (found.status, found.failures) == (TaskStatus.PENDING, 0)
        assert [attempt.outcome for attempt in found.attempts] == [AttemptOutcome.INTERRUPTED]


def test_a_clean_up_that_fails_changes_nothing(manager: BackgroundTaskManager, said: Signal) -> None:
    """It may take its time, and what it raises is told in the traceback."""
    handle = manager.submit(coroutines.fail_when_cancelled, said.path)
    said.wait()
    handle.cancel()
    found = handle.wait(TIMEOUT_S)
    assert found.status is TaskStatus.CANCELLED
    assert found.error is not None
    assert found.error.type == "Cancelled"
    assert "RuntimeError: cleaning up failed" in str(found.error.traceback)


def test_a_cancellation_that_is_swallowed_comes_again(
    manager: BackgroundTaskManager, said: Signal, short_grace: None
) -> None:
    """Until the coroutine returns; its task is cancelled, whatever it returns."""
    handle = manager.submit(coroutines.swallow, said.path, 3)
    said.wait()
    handle.cancel()
    assert [said.wait() for _ in range(3)] == ["swallowed"] * 3
    found = handle.wait(TIMEOUT_S)
    assert (found.status, found.result) == (TaskStatus.CANCELLED, None)


def test_a_coroutine_that_cannot_be_ended_is_left_alone(
    tmp_path: Path, manager: BackgroundTaskManager, heard: Heard, said: Signal, released: Signal, short_grace: None
) -> None:
    """It is like a thread then: shown as overrun, and nobody else runs its task meanwhile."""
    handle = manager.options(timeout=0.1, max_retries=0).submit(
        coroutines.swallow_until_released, said.path, released.path
    )
    said.wait()
    overran = heard.wait(AttemptOverran)
    assert isinstance(overran, AttemptOverran)
    assert overran.claim.id == handle.id
    assert handle.status is TaskStatus.RUNNING
    assert "overrun" in {reason.code.value for reason in manager.why(handle.id)}
    assert manager.submit(coroutines.add, 1, 1).result(TIMEOUT_S) == 2
    released.release()
    found = handle.wait(TIMEOUT_S)
    assert [attempt.outcome for attempt in found.attempts] == [AttemptOutcome.TIMED_OUT]


def test_what_was_left_behind_ends_with_the_loop(manager: BackgroundTaskManager, said: Signal) -> None:
    """Not with the attempt: coroutines may share connections, whose tasks somebody must have started."""
    assert manager.submit(coroutines.leave_a_task_behind, said.path).result(TIMEOUT_S) is None
    with pytest.raises(TimeoutError):
        said.wait(0.1)
    assert manager.shutdown()
    assert said.wait() == "ended"


# What never yields


@pytest.mark.parametrize("function", [coroutines.block, coroutines.block_in_a_child])
def test_a_loop_that_is_blocked_is_announced(
    manager: BackgroundTaskManager,
    heard: Heard,
    said: Signal,
    released: Signal,
    short_silence: None,
    caplog: pytest.LogCaptureFixture,
    function: Callable[..., object],
) -> None:
    """With the task, the function and the place; the coroutine is asked to stop, and threads go on meanwhile."""
    handle = manager.submit(function, said.path, released.path)
    said.wait()
    blocked = heard.wait(LoopBlocked)
    assert isinstance(blocked, LoopBlocked)
    assert blocked.claim is not None
    assert blocked.claim.id == handle.id
    assert "in receive" in blocked.where
    assert f"function={blocked.claim.function} id={handle.id}" in caplog.text
    assert manager.submit(functions.add, 1, 2).result(TIMEOUT_S) == 3
    released.release()
    heard.wait(LoopFreed)
    assert handle.result(TIMEOUT_S) == "StopReason.BLOCKING"
    assert manager.submit(coroutines.add, 1, 2).result(TIMEOUT_S) == 3


def test_what_waits_behind_a_blocked_loop_runs_elsewhere(
    tmp_path: Path, manager: BackgroundTaskManager, heard: Heard, said: Signal, released: Signal, short_silence: None
) -> None:
    """As soon as that is known, and without an attempt used up."""
    manager.submit(coroutines.block, said.path, released.path)
    said.wait()
    behind = [manager.submit(coroutines.add, number, 1) for number in range(5)]
    heard.wait(LoopBlocked)
    with BackgroundTaskManager("async", database=tmp_path / "tasks.db") as other:
        assert [each.result(TIMEOUT_S) for each in behind] == [1, 2, 3, 4, 5]
        assert [len(each.task.attempts) for each in behind] == [1] * 5
        released.release()
        assert other.failure is None


def test_one_that_looks_whether_to_stop_frees_the_loop(
    manager: BackgroundTaskManager, said: Signal, short_silence: None
) -> None:
    """``should_stop`` needs no loop."""
    assert manager.submit(coroutines.block_until_stopped, said.path).result(TIMEOUT_S) == "StopReason.BLOCKING"


def test_one_that_blocks_beyond_its_time_limit_overran(
    manager: BackgroundTaskManager, heard: Heard, said: Signal, released: Signal, short_silence: None, short_grace: None
) -> None:
    """A worker that stops cannot wait for it either, and says so."""
    handle = manager.options(timeout=0.1, max_retries=0).submit(coroutines.block, said.path, released.path)
    said.wait()
    heard.wait(AttemptOverran)
    assert handle.status is TaskStatus.RUNNING
    released.release()
    assert handle.wait(TIMEOUT_S).attempts[0].outcome is AttemptOutcome.TIMED_OUT


# Errors


def test_groups_of_errors_are_kept_whole(manager: BackgroundTaskManager) -> None:
    """Each with its own traceback."""
    handle = manager.options(max_retries=0).submit(coroutines.fail_in_a_group)
    with pytest.raises(TaskFailed, match="ExceptionGroup: unhandled errors in a TaskGroup") as caught:
        handle.result(TIMEOUT_S)
    assert "ValueError: first" in str(caught.value.traceback)
    assert "ValueError: second" in str(caught.value.traceback)


def test_leaving_the_interpreter_in_a_task_of_a_coroutine_is_a_failure(manager: BackgroundTaskManager) -> None:
    """asyncio lets it out of its loop, which goes on."""
    for _ in range(3):
        found = manager.options(max_retries=0).submit(coroutines.leave_in_a_group).wait(TIMEOUT_S)
        assert found.error is not None
        assert found.error.type == "SystemExit"
    assert manager.submit(coroutines.add, 1, 1).result(TIMEOUT_S) == 2


def test_a_coroutine_that_stops_the_loop_stops_nothing(manager: BackgroundTaskManager) -> None:
    """The loop is not its own: it goes on."""
    assert manager.submit(coroutines.stop_the_loop).result(TIMEOUT_S) == "still here"
    assert manager.submit(coroutines.add, 1, 1).result(TIMEOUT_S) == 2


def test_a_fault_of_the_loop_stops_the_worker_and_says_so(
    manager: BackgroundTaskManager, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever for a loop that is no more."""

    def broken(_pool: EventLoopPool, _berth: object) -> None:
        raise AssertionError("a fault of ours")

    monkeypatch.setattr(EventLoopPool, "_work", broken)
    manager.submit(coroutines.add, 1, 1)
    failed = heard.wait(WorkerFailed)
    assert isinstance(failed, WorkerFailed)
    assert str(failed.error.__cause__) == "a fault of ours"
    assert manager.failure is failed.error


def test_a_loop_that_cannot_be_made_stops_the_worker(
    manager: BackgroundTaskManager, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when there are no more descriptors."""

    def none_left() -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(asyncio, "new_event_loop", none_left)
    manager.submit(coroutines.add, 1, 1)
    heard.wait(WorkerFailed)
    assert isinstance(manager.failure, RuntimeError)


# Which pool


def test_an_async_function_is_async_by_itself(manager: BackgroundTaskManager) -> None:
    """Whatever the worker's type; plain functions go elsewhere."""
    assert manager.submit(coroutines.add, 1, 1).task.pool is PoolKind.ASYNC
    assert manager.submit(coroutines.Kitchen.fry, "rice").task.pool is PoolKind.ASYNC
    assert manager.submit(functions.add, 1, 1).task.pool is PoolKind.THREAD
    assert manager.options(pool="async").submit(coroutines.add, 1, 1).task.pool is PoolKind.ASYNC


def test_plain_functions_of_an_async_worker_run_in_threads(tmp_path: Path) -> None:
    """Four of them, so that what blocks has a place."""
    with BackgroundTaskManager("async", 7, database=tmp_path / "tasks.db") as manager:
        assert manager.submit(functions.add, 1, 1).task.pool is PoolKind.THREAD
        (worker,) = manager.workers()
        assert worker.pools == {PoolKind.THREAD: 4, PoolKind.PROCESS: 4, PoolKind.ASYNC: 7}


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_an_async_function_is_refused_elsewhere(manager: BackgroundTaskManager, kind: str) -> None:
    """At its declaration and at the submit."""
    with pytest.raises(UsageError, match=f"pool='{kind}': add is an async function, which runs in the event loop"):
        manager.options(pool=kind).submit(coroutines.add, 1, 1)
    with pytest.raises(UsageError, match="runs in the event loop"):
        task(pool=kind)(coroutines.add)  # type: ignore[call-overload]


def test_a_plain_function_is_refused_in_the_loop(manager: BackgroundTaskManager) -> None:
    """At its declaration and at the submit."""
    with pytest.raises(UsageError, match="pool='async': add is a plain function"):
        manager.options(pool="async").submit(functions.add, 1, 1)
    with pytest.raises(UsageError, match="is a plain function"):
        task(pool="async")(functions.add)


def test_static_and_class_methods_can_be_declared() -> None:
    """Under and above ``@staticmethod`` and ``@classmethod``."""

    async def fetch() -> None: ...

    for method in (staticmethod, classmethod):
        assert task(pool="async")(method(fetch)) is not None
        with pytest.raises(UsageError, match="fetch is an async function"):
            task(pool="process")(method(fetch))


# Elsewhere


def attempt(function: Callable[..., object], *args: object) -> object:
    """Run one attempt of *function* in this thread and return its result."""
    reference = f"{function.__module__}:{function.__qualname__}"
    context = TaskContext("1" * 32, "name", 1)
    ending = run_attempt(reference, codec.encode_arguments(args, {}), context, SystemClock())
    assert ending.encoded_result is not None, ending.error
    return codec.decode_result(ending.encoded_result)


def test_a_coroutine_has_a_loop_of_its_own_where_there_is_none() -> None:
    """In the child process that a task gets which has killed two of them, and in line, also beside a running loop."""
    assert attempt(coroutines.add, 1, 2) == 3
    assert attempt(coroutines.context_facts) == ["1" * 32, "name", 1, "1" * 32, False]

    async def beside() -> object:
        return attempt(coroutines.context_facts)

    assert asyncio.run(beside()) == ["1" * 32, "name", 1, "1" * 32, False]


def test_coroutines_run_in_line() -> None:
    """As every task does there."""
    with inline() as manager:
        assert manager.submit(coroutines.fail_before_attempt, 2).result() == 2


@pytest.mark.alone
def test_nothing_is_announced_of_a_loop_that_only_slept(
    manager: BackgroundTaskManager, heard: Heard, said: Signal, short_silence: None
) -> None:
    """It answers while its coroutines wait."""
    handle = manager.submit(coroutines.forever, said.path)
    said.wait()
    time.sleep(2.5)
    handle.cancel()
    assert handle.wait(TIMEOUT_S).status is TaskStatus.CANCELLED
    assert not [event for event in heard.events if isinstance(event, LoopBlocked)]


def test_the_log_says_when_nobody_is_to_blame(caplog: pytest.LogCaptureFixture) -> None:
    """A callback of a coroutine that has ended."""
    log_event(LoopBlocked(None, "app.py:1 in spin", 1.0))
    log_event(LoopFreed(2.0))
    assert 'loop.blocked silent_s=1.0 by=nobody at="app.py:1 in spin"' in caplog.text
    assert "loop.freed blocked_s=2.0" in caplog.text
