"""An attempt that records its own end, on a connection of the application: fenced like every other."""

import sqlite3
from collections.abc import Callable

import pytest

from thirdshift.core.engine import ClaimRequest
from thirdshift.core.errors import LostAttempt, UsageError
from thirdshift.core.outcome import Ending, settle
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import Attempt, AttemptOutcome, BackgroundTask, Claim, Fence, PoolKind, TaskError, Traces
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.engines.sqlite.joined import SQLiteJoined, join
from thirdshift.testing.clock import FakeClock
from thirdshift.testing.conformance import new_task

Connect = Callable[[], sqlite3.Connection]


def claim_one(engine: SQLiteEngine) -> Claim:
    """Claim the one task that is pending, as a worker of its own."""
    worker = engine.register(slots=1)
    (claim,) = engine.exchange([], ClaimRequest(owner=worker.id, free={PoolKind.THREAD: 1})).claims
    return claim


def submit_and_claim(engine: SQLiteEngine) -> Claim:
    engine.submit([new_task()])
    return claim_one(engine)


def fence_of(engine: SQLiteEngine, claim: Claim) -> Fence:
    join_reference = engine.capabilities.join
    assert join_reference is not None
    return Fence(join_reference, engine.location, claim.seq, claim.id, claim.attempt, claim.owner, claim.durable)


def begin(engine: SQLiteEngine, connection: sqlite3.Connection) -> SQLiteJoined:
    joined = join(connection, engine.location, True)
    assert joined.begin()
    return joined


def complete(engine: SQLiteEngine, connection: sqlite3.Connection, claim: Claim, clock: FakeClock) -> None:
    """Record that the attempt completed, as ``current_task().commit`` does."""
    joined, fence = begin(engine, connection), fence_of(engine, claim)
    try:
        joined.check(fence)
        joined.complete(fence, Ending(AttemptOutcome.COMPLETED, None, clock.now(), b"[1,1]"))
        joined.commit()
    except BaseException:
        joined.roll_back()
        raise


def report(engine: SQLiteEngine, claim: Claim, clock: FakeClock) -> bool:
    """Let the worker record that the function failed; returns whether it could."""
    error = TaskError(type="E", message="m")
    traces = Traces(cpu_s=1.5, log="said so")
    ending = Ending(AttemptOutcome.FAILED, clock.now(), clock.now(), error=error, traces=traces)
    return engine.exchange([settle(claim, ending, 0.0)], None).recorded[0]


def stored(engine: SQLiteEngine, claim: Claim) -> BackgroundTask:
    found = engine.get(claim.id)
    assert found is not None
    return found


def only_attempt(task: BackgroundTask) -> Attempt:
    (attempt,) = task.attempts
    return attempt


def test_an_outcome_that_the_attempt_recorded_stands(engine: SQLiteEngine, stranger: Connect, clock: FakeClock) -> None:
    """The worker's own record changes nothing of it, and adds when it began and what it used."""
    claim = submit_and_claim(engine)
    complete(engine, stranger(), claim, clock)
    assert only_attempt(stored(engine, claim)).started_at is None
    for _ in range(2):  # and not twice
        assert not report(engine, claim, clock)
        clock.advance(1)
    task = stored(engine, claim)
    assert (task.status, task.result, task.failures) == (TaskStatus.COMPLETED, 1, 0)
    attempt = only_attempt(task)
    assert attempt.outcome is AttemptOutcome.COMPLETED
    assert attempt.error is None
    assert attempt.started_at == task.finished_at
    assert (attempt.traces.cpu_s, attempt.traces.log) == (1.5, "said so")


def test_an_attempt_that_lost_its_task_commits_nothing(
    engine: SQLiteEngine, stranger: Connect, clock: FakeClock
) -> None:
    """Neither before nor after the other one has ended; what it used is not added to anybody's."""
    lost = submit_and_claim(engine)
    engine.recover(lost.owner, frozenset())
    claim = claim_one(engine)
    assert (claim.id, claim.attempt) == (lost.id, 2)
    with pytest.raises(LostAttempt, match="another worker"):
        complete(engine, stranger(), lost, clock)
    complete(engine, stranger(), claim, clock)
    with pytest.raises(LostAttempt, match="recorded as ended"):
        complete(engine, stranger(), claim, clock)
    assert not report(engine, lost, clock)
    assert only_attempt(stored(engine, claim)).started_at is None
    assert only_attempt(stored(engine, claim)).worker == claim.owner


def test_a_cancelled_attempt_commits_nothing(engine: SQLiteEngine, stranger: Connect, clock: FakeClock) -> None:
    """And once it is inside its transaction, nobody can cancel it any more."""
    claim = submit_and_claim(engine)
    assert engine.cancel(claim.id)
    with pytest.raises(LostAttempt, match="cancelled while it ran"):
        complete(engine, stranger(), claim, clock)
    assert stored(engine, claim).status is TaskStatus.RUNNING
    other = submit_and_claim(engine)
    complete(engine, stranger(), other, clock)
    assert not engine.cancel(other.id)


def test_a_fence_is_asked_again_when_the_end_is_recorded(
    engine: SQLiteEngine, stranger: Connect, clock: FakeClock
) -> None:
    """For who has ended the transaction in between, and let others write."""
    claim, connection = submit_and_claim(engine), stranger()
    joined, fence = begin(engine, connection), fence_of(engine, claim)
    joined.check(fence)
    connection.execute("COMMIT")
    ending = Ending(AttemptOutcome.COMPLETED, None, clock.now(), b"[1,1]")
    with pytest.raises(UsageError, match="not open"):
        joined.complete(fence, ending)
    engine.recover(claim.owner, frozenset())
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(LostAttempt):
        joined.complete(fence, ending)
    joined.roll_back()
    assert stored(engine, claim).status is TaskStatus.PENDING
