"""Threads that do not end: nobody waits for their places, nobody else runs their tasks, and all of it is said."""

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from thirdshift import BackgroundTaskManager, TaskInterrupted, TaskStatus, UsageError, task
from thirdshift.core import codec
from thirdshift.core.events import AttemptLost, AttemptOverran, Event, PoolFreed, PoolStuck
from thirdshift.core.outcome import Ending
from thirdshift.core.reason import ReasonCode
from thirdshift.core.task import AttemptOutcome, Claim, PoolKind, TaskId
from thirdshift.engines.sqlite.slotfile import read_slots
from thirdshift.handle import TaskHandle
from thirdshift.host.lock import held_by_somebody
from thirdshift.monitor.logs import log_event
from thirdshift.runtime.clock import SystemClock
from thirdshift.runtime.context import StopReason, TaskContext
from thirdshift.runtime.interrupt import Interrupt
from thirdshift.runtime.pools import threads
from thirdshift.runtime.pools.threads import ThreadPool, ThreadRunner
from thirdshift.testing import functions
from thirdshift.testing.clock import START, FakeClock
from thirdshift.testing.signals import TIMEOUT_S, Signal

CLAIM = Claim(
    seq=1,
    id=TaskId("1" * 32),
    attempt=1,
    owner="w",
    name="echo",
    function="thirdshift.testing.functions:echo",
    arguments=codec.encode_arguments(("value",), {}),
    queue="q",
    pool=PoolKind.THREAD,
    priority=0,
    failures=0,
    max_retries=3,
    timeout_s=None,
    durable=True,
    claimed_at=START,
)


class Heard:
    """Keeps the worker's events; :meth:`wait` waits for so many of a kind."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._arrived = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._arrived:
            self.events.append(event)
            self._arrived.notify_all()

    def all(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def wait(self, kind: type[Event], times: int = 1) -> list[Event]:
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.all(kind)) >= times, TIMEOUT_S), f"no {kind.__name__}"
            return self.all(kind)


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a thread lose its place soon."""
    monkeypatch.setattr(threads, "RETURN_S", 0.02)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def said(tmp_path: Path) -> Iterator[Signal]:
    with Signal(tmp_path / "said") as signal:
        yield signal


@pytest.fixture
def released(tmp_path: Path) -> Iterator[Signal]:
    with Signal(tmp_path / "released") as signal:
        yield signal


@pytest.fixture
def manager(tmp_path: Path, heard: Heard) -> Iterator[BackgroundTaskManager]:
    """A manager with one thread and one child process."""
    pools = {"thread": 1, "process": 1, "async": 0}
    with BackgroundTaskManager(database=tmp_path / "tasks.db", pools=pools, observe=heard) as manager:
        yield manager


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what no event tells."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "it has not come to that"
        time.sleep(0.005)


def slot_threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("thirdshift-thread-"))


def overrun(manager: BackgroundTaskManager, said: Signal, released: Signal, **options: Any) -> TaskHandle[str]:
    """Submit a task that waits for the test and should end at once."""
    handle = manager.options(timeout=0.01, max_retries=0, **options).submit(functions.hold, said.path, released.path)
    said.wait()
    return handle


# Places


def test_a_thread_that_does_not_end_loses_its_place(
    manager: BackgroundTaskManager, heard: Heard, said: Signal, released: Signal
) -> None:
    """Others go on, with one slot too; the attempt ends when its function returns, and then its thread does."""
    held = overrun(manager, said, released)
    assert [manager.submit(functions.add, number, 1).result(TIMEOUT_S) for number in range(5)] == [1, 2, 3, 4, 5]
    assert held.status is TaskStatus.RUNNING
    assert ReasonCode.OVERRUN in {reason.code for reason in manager.why(held.id)}
    assert len(slot_threads()) == 2
    released.release()
    assert held.wait(TIMEOUT_S).attempts[0].outcome is AttemptOutcome.TIMED_OUT
    wait_until(lambda: len(slot_threads()) == 1)
    assert len(heard.all(AttemptOverran)) == 1
    assert manager.submit(functions.add, 1, 2).result(TIMEOUT_S) == 3


def test_one_that_is_cancelled_or_stands_still_loses_its_place_too(
    manager: BackgroundTaskManager, said: Signal, released: Signal
) -> None:
    """One after the other."""
    cancelled = manager.submit(functions.hold, said.path, released.path)
    said.wait()
    assert cancelled.cancel()
    assert manager.submit(functions.add, 1, 1).result(TIMEOUT_S) == 2
    released.release()
    assert cancelled.wait(TIMEOUT_S).status is TaskStatus.CANCELLED
    stalled = manager.options(stall_timeout=0.01, max_retries=0).submit(functions.hold, said.path, released.path)
    said.wait()
    assert manager.submit(functions.add, 1, 2).result(TIMEOUT_S) == 3
    released.release()
    assert str(stalled.wait(TIMEOUT_S).error).startswith("Stalled")


def test_neither_its_retry_begins_nor_is_it_anybody_elses(
    tmp_path: Path, manager: BackgroundTaskManager, said: Signal, released: Signal
) -> None:
    """Until the function has returned."""
    handle = manager.options(timeout=0.01, max_retries=1).submit(functions.hold, said.path, released.path)
    said.wait()
    with BackgroundTaskManager(database=tmp_path / "tasks.db", max_workers=2) as other:
        assert [other.submit(functions.add, number, 1).result(TIMEOUT_S) for number in range(9)] == list(range(1, 10))
        assert (handle.status, handle.task.attempts) == (TaskStatus.RUNNING, ())
        released.release(2)
        said.wait()
        attempts = handle.wait(TIMEOUT_S).attempts
    assert (len(attempts), attempts[0].outcome) == (2, AttemptOutcome.TIMED_OUT)


def test_its_limit_key_is_nobody_elses(manager: BackgroundTaskManager, said: Signal, released: Signal) -> None:
    """Until the function has returned; then the next task of the key runs at once."""
    handle = overrun(manager, said, released, limit_key="ledger")
    next_one = manager.options(limit_key="ledger").submit(functions.add, 1, 2)
    assert manager.submit(functions.add, 1, 1).result(TIMEOUT_S) == 2
    assert (handle.status, next_one.status) == (TaskStatus.RUNNING, TaskStatus.PENDING)
    assert ReasonCode.KEY_LIMITED in {reason.code for reason in manager.why(next_one.id)}
    released.release()
    assert next_one.result(TIMEOUT_S) == 3
    assert handle.status is TaskStatus.FAILED


def test_one_that_returns_when_it_is_asked_keeps_its_place(
    manager: BackgroundTaskManager, heard: Heard, said: Signal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread is started for it, and nothing is said."""
    monkeypatch.setattr(threads, "RETURN_S", 2 * TIMEOUT_S)
    before = {thread.ident for thread in threading.enumerate()}
    handle = manager.options(timeout=0.05, max_retries=0).submit(functions.until_stopped, said.path)
    assert handle.wait(TIMEOUT_S).attempts[0].outcome is AttemptOutcome.TIMED_OUT
    assert heard.all(AttemptOverran) == []
    assert {each.ident for each in threading.enumerate() if each.name in slot_threads()} <= before


def test_every_thread_that_runs_a_function_stands_in_the_slot_file(
    tmp_path: Path, manager: BackgroundTaskManager, said: Signal, released: Signal
) -> None:
    """So that a death of the worker is counted for both. Progress before the limit does not count for the one."""
    before = manager.options(timeout=0.2, max_retries=0).submit(functions.progress_and_hold, said.path, released.path)
    said.wait()
    wait_until(lambda: len(manager.options(task_id="b" * 32).submit(functions.echo).task.attempts) == 1)
    after = manager.submit(functions.progress_and_hold, said.path, released.path)
    said.wait()
    (slots,) = tmp_path.rglob("*.slots")
    assert [each.has_progress for each in read_slots(slots).values()] == [False, True]
    released.release(2)
    assert before.wait(TIMEOUT_S).status is TaskStatus.FAILED
    assert after.result(TIMEOUT_S) == "released"
    wait_until(lambda: read_slots(slots) == {})


# Stuck


def test_a_pool_that_can_replace_no_more_threads_says_that_it_is_stuck(
    tmp_path: Path, manager: BackgroundTaskManager, heard: Heard, said: Signal, released: Signal
) -> None:
    """Once; it takes nothing any more, other workers do, and it goes on when a function returns."""
    held = [overrun(manager, said, released) for _ in range(2)]
    (stuck,) = heard.wait(PoolStuck)
    assert isinstance(stuck, PoolStuck)
    assert {claim.id for claim in stuck.overrun} == {handle.id for handle in held}
    waiting = manager.submit(functions.add, 1, 2)
    assert manager.options(pool="process").submit(functions.add, 2, 2).result(TIMEOUT_S) == 4
    assert waiting.status is TaskStatus.PENDING
    with BackgroundTaskManager(database=tmp_path / "tasks.db", max_workers=1):
        assert waiting.result(TIMEOUT_S) == 3
    released.release()
    heard.wait(PoolFreed)
    assert manager.submit(functions.add, 3, 3).result(TIMEOUT_S) == 6
    released.release()
    assert {handle.wait(TIMEOUT_S).attempts[0].outcome for handle in held} == {AttemptOutcome.TIMED_OUT}
    wait_until(lambda: len(slot_threads()) == 1)
    assert len(heard.all(PoolStuck)) == 1


@pytest.mark.usefixtures("claims_ahead")
def test_what_a_stuck_pool_had_claimed_ahead_is_given_back(
    manager: BackgroundTaskManager, heard: Heard, said: Signal, released: Signal
) -> None:
    """Without an attempt used up."""
    manager.submit(functions.add, 1, 1).result(TIMEOUT_S)
    manager.pause_queue("line")
    handles = [
        manager.options(queue="line", timeout=0.5, max_retries=0, priority=20 - number).submit(
            functions.hold, said.path, released.path
        )
        for number in range(2)
    ]
    following = [manager.options(queue="line").submit(functions.add, number, 1) for number in range(5)]
    manager.resume_queue("line")
    said.wait()
    wait_until(lambda: {each.status for each in following} == {TaskStatus.RUNNING})
    heard.wait(PoolStuck)
    wait_until(lambda: {each.status for each in following} == {TaskStatus.PENDING})
    released.release(2)
    assert [each.result(TIMEOUT_S) for each in following] == [1, 2, 3, 4, 5]
    assert {len(each.wait(TIMEOUT_S).attempts) for each in [*handles, *following]} == {1}


def test_a_stop_does_not_wait_for_what_a_stuck_pool_runs(
    tmp_path: Path, said: Signal, released: Signal, heard: Heard
) -> None:
    """However long it may take for others; it finishes what runs elsewhere."""
    manager = BackgroundTaskManager(database=tmp_path / "tasks.db", pools={"thread": 1, "process": 1}, observe=heard)
    held = [overrun(manager, said, released) for _ in range(2)]
    heard.wait(PoolStuck)
    elsewhere = manager.options(pool="process").submit(functions.until_stopped, said.path)
    said.wait()
    assert not manager.shutdown(timeout=10 * TIMEOUT_S)
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False) as reader:
        assert reader.get_task_status(elsewhere.id) is TaskStatus.COMPLETED
        assert not any(map(held_by_somebody, tmp_path.rglob("*.child-*.lock")))
        released.release(2)
        assert {reader.handle(each.id).wait(TIMEOUT_S).status for each in held} == {TaskStatus.FAILED}


def test_a_pool_that_gets_no_more_threads_is_stuck(
    tmp_path: Path, manager: BackgroundTaskManager, heard: Heard, said: Signal, released: Signal
) -> None:
    """The system may have none; that is no reason for the worker to give up."""
    assert manager._worker is not None
    pool = manager._worker._pools[PoolKind.THREAD]

    def refuse(_number: int) -> NoReturn:
        raise RuntimeError("can't start new thread")

    pool._add_slot = refuse  # type: ignore[attr-defined]
    held = overrun(manager, said, released)
    heard.wait(PoolStuck)
    released.release()
    heard.wait(PoolFreed)
    assert held.wait(TIMEOUT_S).status is TaskStatus.FAILED
    assert manager.submit(functions.add, 1, 2).result(TIMEOUT_S) == 3


def test_a_thread_that_a_stop_leaves_behind_did_not_overrun(
    tmp_path: Path, said: Signal, released: Signal, heard: Heard
) -> None:
    """If the process ends now, that is not its fault: its progress still counts."""
    manager = BackgroundTaskManager(database=tmp_path / "tasks.db", max_workers=1, observe=heard)
    handle = manager.submit(functions.progress_and_hold, said.path, released.path)
    said.wait()
    assert manager._worker is not None
    assert not manager.shutdown(timeout=0)
    (slots,) = tmp_path.rglob("*.slots")
    (running,) = manager._worker._pools[PoolKind.THREAD]._running(handle.id)
    wait_until(lambda: running.kill_at is None)  # its grace is over
    assert [each.has_progress for each in read_slots(slots).values()] == [True]
    assert heard.all(AttemptOverran) == []
    released.release()
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False) as reader:
        assert reader.handle(handle.id).result(TIMEOUT_S) == "released"


def test_a_stuck_pool_is_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """With the tasks that it is stuck in."""
    log_event(PoolStuck(PoolKind.THREAD, [CLAIM, CLAIM]))
    log_event(PoolFreed(PoolKind.THREAD))
    assert f"pool.stuck pool=thread overrun=2 ids={CLAIM.id},{CLAIM.id}" in caplog.text
    assert "pool.freed pool=thread" in caplog.text


class Nobody:
    """A registration and a worker that keep what they are told."""

    def __init__(self) -> None:
        self.id = "w"
        self.ended: list[int] = []
        self.events: list[Event] = []
        self.stands: dict[int, int] = {}

    def enter_slot(self, slot: int, claim: Claim) -> None:
        self.stands[slot] = claim.seq

    def leave_slot(self, slot: int) -> None:
        del self.stands[slot]

    def note_progress(self, slot: int) -> None: ...

    def child_lock(self, number: int) -> str:
        raise AssertionError("threads have none")

    def note_lost_wakes(self, count: int, at: object) -> None: ...

    def close(self) -> None: ...

    def report(self, claim: Claim, ending: Ending) -> None:
        self.ended.append(claim.seq)

    def record(self, *, is_idle: bool) -> None: ...

    def progress(self, claim: Claim, facts: object) -> None: ...

    def took(self, claim: Claim) -> None: ...

    def announce(self, event: Event) -> None:
        self.events.append(event)


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_places_are_counted_exactly(tmp_path: Path, slots: int) -> None:
    """However many overran, there is room for as many others as there are slots, until none is replaced any more."""
    clock, nobody, pool = FakeClock(), Nobody(), ThreadPool(slots, FakeClock())
    pool._clock = clock
    pool.start(nobody, nobody, 0)
    signals = {number: Signal(tmp_path / f"released-{number}") for number in range(1, 2 * slots + 1)}
    said = Signal(tmp_path / "said")
    for number, released in signals.items():
        assert (pool.room(), pool.reserve("w") is not None) == (slots, True)
        pool._seats.clear()
        arguments = codec.encode_arguments((said.path, released.path), {})
        claim = CLAIM._replace(
            seq=number,
            id=TaskId(f"{number:032x}"),
            function="thirdshift.testing.functions:hold",
            arguments=arguments,
            timeout_s=1.0,
        )
        pool.give([claim])
        said.wait()
        assert pool.room() == slots - 1
        assert len(set(nobody.stands.values())) == number
        clock.advance(1.0)
        pool.look()
        clock.advance(threads.RETURN_S)
        pool.look()
        assert pool.is_stuck == (number > slots)
        assert pool.waits_in_vain == (number > slots)
        if pool.is_stuck:
            break
    assert (pool.room(), pool.reserve("w")) == (0, None)
    assert len([event for event in nobody.events if isinstance(event, PoolStuck)]) == 1
    ran = list(nobody.stands.values())
    for count, number in enumerate(ran, start=1):
        signals[number].release()
        wait_until(lambda: pool.room() == slots and len(nobody.ended) == count)  # noqa: B023  # called at once
        assert not pool.is_stuck
    wait_until(lambda: sum(slot.thread is not None and slot.thread.is_alive() for slot in pool._slots) == slots)
    assert sorted(nobody.ended) == ran
    assert (nobody.stands, pool.held(), pool._capacity) == ({}, [], slots)
    pool.close()
    pool.join()
    for signal in (said, *signals.values()):
        signal.close()


# Interrupts


@pytest.mark.parametrize("function", [functions.spin, functions.spin_and_fail, functions.spin_and_swallow])
@pytest.mark.parametrize("reason", ["timeout", "stall_timeout", "cancel"])
def test_a_function_that_may_be_interrupted_ends(
    manager: BackgroundTaskManager, said: Signal, function: Callable[..., Any], reason: str
) -> None:
    """As timed out or cancelled, with where it was; its thread takes the next task."""
    limits = {} if reason == "cancel" else {reason: 0.05}
    handle = manager.options(max_retries=0, **limits).submit(function, said.path)
    said.wait()
    if reason == "cancel":
        handle.cancel()
    found = handle.wait(TIMEOUT_S)
    kind = {"timeout": "TimedOut", "stall_timeout": "Stalled", "cancel": "Cancelled"}[reason]
    outcome = AttemptOutcome.CANCELLED if reason == "cancel" else AttemptOutcome.TIMED_OUT
    assert [attempt.outcome for attempt in found.attempts] == [outcome]
    if function is not functions.spin_and_swallow:
        error = found.attempts[0].error
        assert error is not None
        assert error.type == kind
        assert "in spin" in str(error.traceback)
        assert "TaskInterrupted" in str(error.traceback)
        assert (function is functions.spin_and_fail) is ("interrupt.py" in str(error.traceback))
    wait_until(lambda: len(slot_threads()) == 1)
    assert manager.submit(functions.add, 1, 2).result(TIMEOUT_S) == 3


def test_a_function_that_waits_in_c_is_interrupted_when_it_comes_back(
    manager: BackgroundTaskManager, heard: Heard, said: Signal, released: Signal
) -> None:
    """Until then it overran like any other."""
    handle = manager.options(timeout=0.01, max_retries=0).submit(functions.hold_interruptibly, said.path, released.path)
    said.wait()
    heard.wait(AttemptOverran)
    assert manager.submit(functions.add, 1, 2).result(TIMEOUT_S) == 3
    assert handle.status is TaskStatus.RUNNING
    released.release()
    (attempt,) = handle.wait(TIMEOUT_S).attempts
    assert attempt.outcome is AttemptOutcome.TIMED_OUT
    assert attempt.error is not None
    assert "TaskInterrupted" in str(attempt.error.traceback)


def test_a_stop_interrupts_too_when_its_patience_is_over(tmp_path: Path, said: Signal, released: Signal) -> None:
    """The task runs again at the next start."""
    manager = BackgroundTaskManager(database=tmp_path / "tasks.db")
    handle = manager.options(max_retries=0).submit(functions.spin, said.path)
    said.wait()
    assert manager.shutdown(timeout=0)
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False) as reader:
        found = reader.handle(handle.id).task
    assert (found.status, [each.outcome for each in found.attempts]) == (
        TaskStatus.PENDING,
        [AttemptOutcome.INTERRUPTED],
    )


def test_a_limit_that_passed_before_the_function_begins_interrupts_it_at_once() -> None:
    """There was nothing to throw into when it passed."""
    context = TaskContext("1" * 32)
    context.stop_reason = StopReason.TIMED_OUT
    with pytest.raises(TaskInterrupted):
        Interrupt().call(pytest.fail, ["it was called"], {}, context)


class Careless(Interrupt):
    """Takes no notice of the function's return: the negative control."""

    def _disarm(self) -> None:
        pass


def hit(kind: type[Interrupt], rounds: int) -> tuple[int, bool]:
    """Throw into *rounds* short calls at arbitrary moments; returns how many were hit, and whether other code was."""
    thrown = [kind()]
    turn = threading.Event()
    is_over = False
    inside, is_hit_outside = 0, False

    def throw() -> None:
        pauses = itertools.cycle(range(0, 400, 7))
        while not is_over:
            turn.wait(TIMEOUT_S)
            turn.clear()
            for _ in range(next(pauses)):
                pass
            thrown[-1].throw()

    thrower = threading.Thread(target=throw, daemon=True)
    thrower.start()
    context = TaskContext("1" * 32)
    try:  # all that is in the loop is to be safe, but the call
        for _ in range(rounds):
            interrupt = kind()
            thrown[:] = [interrupt]
            turn.set()
            try:
                interrupt.call(sum, [range(2_000)], {}, context)
            except TaskInterrupted:
                inside += 1
            for _ in range(50):
                pass
    except TaskInterrupted:
        is_hit_outside = True
    is_over = True
    turn.set()
    thrower.join(TIMEOUT_S)
    return inside, is_hit_outside


@pytest.fixture
def restless() -> Iterator[None]:
    """Let threads change as often as they can."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval_s)


def test_nothing_is_raised_after_the_function_has_returned(restless: None) -> None:
    """Thousands of times around the end of short functions; one that takes no notice of their return is found out."""
    inside, is_hit_outside = hit(Interrupt, 5_000)
    assert (inside > 0, is_hit_outside) == (True, False)
    _, is_hit_outside = hit(Careless, 5_000)
    assert is_hit_outside


def test_the_slots_own_code_is_never_hit(restless: None) -> None:
    """Neither before the call, where a slot finds the function, nor after it: each attempt has an ending."""
    runner = ThreadRunner(SystemClock())
    claim = CLAIM._replace(function="thirdshift.testing.functions:echo_interruptibly")
    is_over = threading.Event()

    def throw() -> None:
        while not is_over.is_set():
            runner.end()

    thrower = threading.Thread(target=throw, daemon=True)
    thrower.start()
    seen = {runner.run(claim, TaskContext(claim.id, "", 1), lambda: None).outcome for _ in range(3_000)}
    is_over.set()
    thrower.join(TIMEOUT_S)
    assert seen <= {AttemptOutcome.COMPLETED, AttemptOutcome.FAILED}


def test_it_is_for_plain_functions_in_threads() -> None:
    """Elsewhere attempts are ended for real."""

    async def coroutine() -> None: ...

    def plain() -> None: ...

    options: list[dict[str, Any]] = [{"interrupt": True}, {"detach_after": 1.0}]
    for option in options:
        with pytest.raises(UsageError, match="coroutine runs in the event loop, where attempts are ended"):
            task(**option)(coroutine)
        with pytest.raises(UsageError, match="plain runs in a child process, where attempts are ended"):
            task(pool="process", **option)(plain)
        assert task(pool="thread", **option)(plain) is plain
    with pytest.raises(UsageError, match="detach_after was given -1"):
        task(detach_after=-1)


def test_it_is_not_needed_in_a_child_process(manager: BackgroundTaskManager, said: Signal) -> None:
    """A submitter may send it there all the same."""
    handle = manager.options(pool="process", timeout=0.1, max_retries=0).submit(functions.spin, said.path)
    assert handle.wait(TIMEOUT_S).attempts[0].outcome is AttemptOutcome.TIMED_OUT


# Detached


def test_a_detached_attempt_is_retried_beside_its_function(
    manager: BackgroundTaskManager, heard: Heard, said: Signal, released: Signal
) -> None:
    """That is what the declaration asks for; what the function returns at last is dropped."""
    handle = manager.options(timeout=0.01, max_retries=1).submit(functions.hold_first_attempt, said.path, released.path)
    assert handle.result(TIMEOUT_S) == 2
    first, second = handle.task.attempts
    assert (first.outcome, second.outcome) == (AttemptOutcome.TIMED_OUT, AttemptOutcome.COMPLETED)
    assert first.error is not None
    assert first.error.message.endswith("its function still runs, detached from its task")
    released.release()
    (lost,) = heard.wait(AttemptLost)
    assert isinstance(lost, AttemptLost)
    assert lost.settlement.claim.attempt == 1
    wait_until(lambda: len(slot_threads()) == 1)
    assert handle.task.attempts == (first, second)


def test_a_cancelled_one_is_cancelled_although_its_function_runs(
    manager: BackgroundTaskManager, heard: Heard, said: Signal, released: Signal
) -> None:
    """Nobody waits for it, neither for the task nor at the end of the worker."""
    handle = manager.submit(functions.hold_first_attempt, said.path, released.path)
    said.wait()
    handle.cancel()
    found = handle.wait(TIMEOUT_S)
    assert (found.status, found.attempts[0].outcome) == (TaskStatus.CANCELLED, AttemptOutcome.CANCELLED)
    assert manager.submit(functions.add, 1, 2).result(TIMEOUT_S) == 3
    assert manager.shutdown(timeout=TIMEOUT_S)
    released.release()
    wait_until(lambda: slot_threads() == [])


def test_nobody_lets_go_of_an_attempt_before_its_time(
    manager: BackgroundTaskManager, heard: Heard, said: Signal, released: Signal
) -> None:
    """Nor at a second reason to end it."""
    handle = manager.options(timeout=0.01, max_retries=0).submit(
        functions.hold_before_detaching, said.path, released.path
    )
    said.wait()
    heard.wait(AttemptOverran)
    handle.cancel()
    assert manager.submit(functions.add, 1, 2).result(TIMEOUT_S) == 3
    assert handle.status is TaskStatus.RUNNING
    released.release()
    assert handle.wait(TIMEOUT_S).status is TaskStatus.CANCELLED
