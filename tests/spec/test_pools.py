"""The pools themselves: what one attempt is told never reaches the next one."""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from thirdshift.core import codec
from thirdshift.core.events import Event
from thirdshift.core.outcome import Ending
from thirdshift.core.task import AttemptOutcome, Claim, PoolKind, TaskId
from thirdshift.host.lock import FileLock
from thirdshift.runtime.clock import SystemClock
from thirdshift.runtime.context import StopReason, TaskContext
from thirdshift.runtime.pools.processes import ProcessPool
from thirdshift.runtime.pools.slots import Runner, Slot
from thirdshift.runtime.pools.threads import ThreadPool
from thirdshift.testing.clock import START
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
    pool=PoolKind.PROCESS,
    priority=0,
    failures=0,
    max_retries=3,
    timeout_s=None,
    durable=True,
    claimed_at=START,
)


class Locks:
    """A registration that only names lock files."""

    def __init__(self, folder: Path) -> None:
        self.id = "w"
        self._folder = folder

    def enter_slot(self, slot: int, claim: Claim) -> None: ...

    def note_progress(self, slot: int) -> None: ...

    def leave_slot(self, slot: int) -> None: ...

    def child_lock(self, number: int) -> str:
        return str(self._folder / f"child-{number}.lock")

    def close(self) -> None: ...


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    """The runner of one process slot."""
    runner = ProcessPool(1, SystemClock()).make_runner(0, Locks(tmp_path))
    yield runner
    runner.close()


def run(runner: Runner, number: int = 1) -> AttemptOutcome:
    """Run one attempt of task *number*, in this thread."""
    claim = CLAIM._replace(id=TaskId(f"{number:032x}"))
    context = TaskContext(claim.id, claim.name, claim.attempt)
    return runner.run(claim, context, lambda: None).outcome


def test_a_child_that_dies_before_it_is_up_has_called_nothing(runner: Runner, tmp_path: Path) -> None:
    """So the attempt never stood in the slot, and a worker that dies meanwhile leaves no suspicion on it."""
    entered: list[str] = []
    context = TaskContext(CLAIM.id, CLAIM.name, CLAIM.attempt)
    lock = FileLock(tmp_path / "child-0.lock")  # a child that does not get it says so and ends
    assert lock.try_acquire()
    assert runner.run(CLAIM, context, lambda: entered.append("early")).outcome is AttemptOutcome.INTERRUPTED
    lock.release()
    assert runner.run(CLAIM, context, lambda: entered.append("up")).outcome is AttemptOutcome.COMPLETED
    assert entered == ["up"]


@pytest.mark.parametrize("order", ["end", "kill"])
def test_a_signal_that_comes_too_late_hits_nobody(runner: Runner, order: str) -> None:
    """Its attempt is over and the next one has not begun: that one gets a child of its own."""
    assert run(runner) is AttemptOutcome.COMPLETED
    for number in range(2, 8):
        assert runner.end()
        if order == "kill":
            runner.kill()
        assert run(runner, number) is AttemptOutcome.COMPLETED


def test_a_request_to_stop_that_comes_too_late_hits_nobody(runner: Runner, tmp_path: Path) -> None:
    """Attempt 1 of one task is not attempt 1 of another, which runs by then."""
    late = TaskContext("f" * 32, "echo", 1)
    late.stop_reason = StopReason.TIMED_OUT
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released, ThreadPoolExecutor(1) as slot:
        arguments = codec.encode_arguments((said.path, released.path), {})
        claim = CLAIM._replace(function="thirdshift.testing.functions:hold", arguments=arguments)
        running = slot.submit(runner.run, claim, TaskContext(claim.id, claim.name, claim.attempt), lambda: None)
        said.wait()
        for _ in range(100):
            runner.pass_on_stop(late)
        threading.Event().wait(0.1)
        released.release()
        assert running.result(TIMEOUT_S).outcome is AttemptOutcome.COMPLETED


class Ends:
    """Keeps the claims of the attempts that ended."""

    def __init__(self, on_record: Callable[[], object] = lambda: None) -> None:
        self.claims: queue.Queue[Claim] = queue.Queue()
        self._on_record = on_record

    def report(self, claim: Claim, ending: Ending) -> None:
        self.claims.put(claim)

    def record(self, *, is_idle: bool) -> None:
        self._on_record()

    def progress(self, claim: Claim, facts: object) -> None: ...

    def took(self, claim: Claim) -> None: ...

    def announce(self, event: Event) -> None: ...


def test_who_is_told_to_record_an_end_finds_the_slot_free() -> None:
    """A worker that claims then must not wait for the slot's thread."""
    pool = ThreadPool(1, SystemClock())
    seen: queue.Queue[tuple[int, list[Claim]]] = queue.Queue()
    pool.start(Locks(Path()), Ends(lambda: seen.put((pool.room(), pool.busy()))), 0)
    pool.give([CLAIM._replace(pool=PoolKind.THREAD)])
    room, busy = seen.get(timeout=TIMEOUT_S)
    assert room >= 1
    assert busy == []
    pool.close()
    pool.join()


def test_an_end_is_reported_before_it_is_forgotten() -> None:
    """At every moment a claim is held, reported, or both: what is neither would be given back, and run twice."""
    pool = ThreadPool(1, SystemClock())
    seen: queue.Queue[list[Claim]] = queue.Queue()
    ends = Ends()
    ends.report = lambda claim, ending: seen.put(pool.held())  # type: ignore[method-assign]
    pool.start(Locks(Path()), ends, 0)
    claim = CLAIM._replace(pool=PoolKind.THREAD)
    pool.give([claim])
    assert seen.get(timeout=TIMEOUT_S) == [claim]
    pool.close()
    pool.join()
    assert pool.held() == []


def test_slots_that_begin_while_claims_are_taken_back_lose_none(tmp_path: Path) -> None:
    """Each claim is run or given back, and never both, however the two meet."""
    pool = ThreadPool(4, SystemClock())
    ends = Ends()
    pool.start(Locks(tmp_path), ends, 0)
    claims = [
        CLAIM._replace(seq=number, id=TaskId(f"{number:032x}"), priority=number % 3, pool=PoolKind.THREAD)
        for number in range(400)
    ]
    returned: list[Claim] = []
    for start in range(0, len(claims), 40):
        pool.give(claims[start : start + 40])
        returned += pool.take_back(lambda claim: claim.seq % 2 == 0)
    while pool.has_claims:
        threading.Event().wait(0.01)
    pool.close()
    pool.join()
    ran = [ends.claims.get_nowait() for _ in range(ends.claims.qsize())]
    assert sorted(claim.seq for claim in [*ran, *returned]) == list(range(400))


def test_a_slot_that_began_while_the_pool_was_held_puts_its_claim_back(tmp_path: Path) -> None:
    """It looked before the pool was held and begins after it: nobody would ask that attempt to stop."""
    pool = ThreadPool(1, SystemClock())
    told = threading.Event()
    pool._sink = Ends(told.set)
    pool.give([CLAIM._replace(pool=PoolKind.THREAD)])
    slot = Slot(pool, 0, pool.make_runner(0, Locks(tmp_path)), Locks(tmp_path), pool._sink, SystemClock())
    answers = iter([True, False])
    pool._may_begin = lambda: next(answers)  # type: ignore[method-assign]
    assert pool._begin_next(slot, slot.runner) is None
    assert told.is_set()
    assert pool.busy() == []
    assert pool.take_back(lambda _claim: True) == [CLAIM._replace(pool=PoolKind.THREAD)]


def test_no_seat_is_given_while_it_is_counted_what_is_held() -> None:
    """A claim made meanwhile would be in the store and unknown here: it would be given back, and run twice."""
    pool = ThreadPool(1, SystemClock())
    assert pool.begin_count()
    assert pool.reserve("w") is None
    pool.end_count()
    seat = pool.reserve("w")
    assert seat is not None
    assert not pool.begin_count()
    pool.end_count()
    seat.leave()


def test_a_held_pool_starts_nothing_and_gives_everything_back(tmp_path: Path) -> None:
    """What runs goes on; what waits is still the worker's."""
    pool = ThreadPool(1, SystemClock())
    ends = Ends()
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
        arguments = codec.encode_arguments((said.path, released.path), {})
        running = CLAIM._replace(function="thirdshift.testing.functions:hold", arguments=arguments)
        waiting = [CLAIM._replace(id=TaskId(f"{number:032x}"), priority=number) for number in (3, 9, 5)]
        pool.start(Locks(tmp_path), ends, 0)
        pool.give([running])
        said.wait()
        pool.give(waiting)
        pool.hold()
        released.release()
        assert ends.claims.get(timeout=TIMEOUT_S) == running
        assert sorted(claim.priority for claim in pool.take_back(lambda _claim: True)) == [3, 5, 9]
        assert pool.busy() == []
    pool.close()
    pool.join()
    assert ends.claims.empty()
