"""Limits of queues and keys against a model that counts by itself: two workers, deaths, clock steps, new limits."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from thirdshift.core.engine import ClaimRequest
from thirdshift.core.limits import NO_LIMITS, QueueLimits
from thirdshift.core.outcome import Ending, settle
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import AttemptOutcome, Claim, PoolKind
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.testing.clock import FakeClock
from thirdshift.testing.conformance import new_task

QUEUES = ("mail", "web")
KEYS = ("a", "b")
POOLS = (PoolKind.THREAD, PoolKind.PROCESS)
LIMITS = st.builds(
    lambda concurrency, rate, burst: QueueLimits(concurrency=concurrency, rate=rate, burst=burst if rate else None),
    st.none() | st.integers(1, 3),
    st.none() | st.sampled_from((0.25, 1.0, 8.0)),
    st.none() | st.integers(1, 4),
)


class Limits(RuleBasedStateMachine):
    """Submits, claims, ends and deaths in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        folder = Path(self.stack.enter_context(TemporaryDirectory()))
        self.clock = FakeClock()
        self.engine = SQLiteEngine.shared(folder / "tasks.db", clock=self.clock)
        self.stack.callback(self.engine.close)
        self.limits = dict.fromkeys(QUEUES, NO_LIMITS)
        self.starts: dict[str, list[datetime]] = {queue: [] for queue in QUEUES}
        """When tasks were claimed since the limits of the queue were last set."""
        self.running: dict[str, list[Claim]] = {queue: [] for queue in QUEUES}
        self.allowed = dict.fromkeys(QUEUES, 0)
        """What ran already when the limits were set."""
        self.key_limits = dict.fromkeys(KEYS, 1)
        self.key_allowed = dict.fromkeys(KEYS, 0)
        self.workers = [self.engine.register(slots=8), self.engine.register(slots=8)]

    def teardown(self) -> None:
        try:
            self.demand_that_nothing_waits_for_ever()
        finally:
            self.stack.close()

    @rule(
        queue=st.sampled_from(QUEUES),
        pool=st.sampled_from(POOLS),
        priority=st.integers(0, 2),
        key=st.sampled_from((None, None, None, *KEYS)),
    )
    def submit(self, queue: str, pool: PoolKind, priority: int, key: str | None) -> None:
        self.engine.submit([new_task(queue=queue, pool=pool, priority=priority, max_retries=0, limit_key=key)])

    @rule(queue=st.sampled_from(QUEUES), limits=LIMITS)
    def limit(self, queue: str, limits: QueueLimits) -> None:
        self.engine.limit_queue(queue, limits)
        self.limits[queue], self.starts[queue] = limits, []
        self.allowed[queue] = len(self.running[queue])

    @rule(key=st.sampled_from(KEYS), concurrency=st.integers(1, 3))
    def limit_key(self, key: str, concurrency: int) -> None:
        self.engine.limit_key(key, concurrency)
        self.key_limits[key], self.key_allowed[key] = concurrency, self.running_of(key)

    def running_of(self, key: str) -> int:
        return sum(claim.limit_key == key for claims in self.running.values() for claim in claims)

    @rule(worker=st.integers(0, 1), threads=st.integers(0, 4), processes=st.integers(0, 2))
    def claim(self, worker: int, threads: int, processes: int) -> None:
        free = {kind: free for kind, free in zip(POOLS, (threads, processes), strict=True) if free}
        for claim in self.engine.exchange([], ClaimRequest(owner=self.workers[worker].id, free=free)).claims:
            self.running[claim.queue].append(claim)
            self.starts[claim.queue].append(self.clock.now())

    @precondition(lambda self: any(self.running.values()))
    @rule(data=st.data(), outcome=st.sampled_from((AttemptOutcome.COMPLETED, AttemptOutcome.INTERRUPTED)))
    def end(self, data: st.DataObject, outcome: AttemptOutcome) -> None:
        queue = data.draw(st.sampled_from([queue for queue in QUEUES if self.running[queue]]))
        claim = self.running[queue].pop(data.draw(st.integers(0, len(self.running[queue]) - 1)))
        now = self.clock.now()
        assert self.engine.exchange([settle(claim, Ending(outcome, now, now), 0.0)], None).recorded == [True]

    @rule(number=st.integers(0, 1))
    def die(self, number: int) -> None:
        """The worker's lock is free from now on; the other one takes its tasks over."""
        dead, self.workers[number] = self.workers[number], self.engine.register(slots=8)
        dead.close()
        self.engine.rescue(self.workers[number].id)
        for queue, claims in self.running.items():
            self.running[queue] = [claim for claim in claims if claim.owner != dead.id]

    @rule(seconds=st.sampled_from((0.1, 0.5, 1.0, 4.0, 60.0)))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def no_queue_runs_more_than_it_may(self) -> None:
        for queue, limits in self.limits.items():
            most = limits.concurrency
            assert most is None or len(self.running[queue]) <= max(most, self.allowed[queue]), "too many run"

    @invariant()
    def no_key_runs_more_than_it_may(self) -> None:
        for key, most in self.key_limits.items():
            assert self.running_of(key) <= max(most, self.key_allowed[key]), "too many of a key run"

    @invariant()
    def no_queue_starts_more_than_it_may(self) -> None:
        for queue, limits in self.limits.items():
            if limits.rate is None or limits.bucket is None:
                continue
            starts = self.starts[queue]
            for first, began in enumerate(starts):
                for last in range(first, len(starts)):
                    span_s = (starts[last] - began).total_seconds()
                    assert last - first + 1 <= limits.bucket + limits.rate * span_s + 1e-6, "too many started"

    def demand_that_nothing_waits_for_ever(self) -> None:
        """Whoever looks when the last claim said that he should finds all of it in the end."""
        for _ in range(200):
            for queue in QUEUES:
                while self.running[queue]:
                    claim, now = self.running[queue].pop(), self.clock.now()
                    self.engine.exchange([settle(claim, Ending(AttemptOutcome.COMPLETED, now, now), 0.0)], None)
            request = ClaimRequest(owner=self.workers[0].id, free=dict.fromkeys(POOLS, 8))
            exchange = self.engine.exchange([], request)
            for claim in exchange.claims:
                self.running[claim.queue].append(claim)
            if not exchange.claims:
                if exchange.next_due is None:
                    break
                self.clock.advance((exchange.next_due - self.clock.now()) / timedelta(seconds=1))
        counts = self.engine.counts()
        assert {status for status, count in counts.items() if count} <= {TaskStatus.COMPLETED}, "a task waits for ever"


def check(examples: int) -> None:
    run_state_machine_as_test(
        Limits,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # a file for each example: making a failing one smaller takes minutes
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


def test_limits_are_never_exceeded_and_nothing_waits_for_ever() -> None:
    """Whatever happens in between."""
    check(examples=25)


FAULTS = {
    "too many run": ("limits", "SELECT count(*) FROM task WHERE status = 'running' AND queue = ?1", "SELECT 0"),
    "too many of a key run": ("runnable_keyed", "t.*, l.room", "t.*, 9 AS room"),
    "too many started": ("take_starts", "starts = ?2", "starts = starts"),
}


@contextmanager
def planted(name: str, right: str, wrong: str) -> Iterator[None]:
    whole = QUERY[name]
    assert right in whole
    QUERY[name] = whole.replace(right, wrong)
    try:
        yield
    finally:
        QUERY[name] = whole


@pytest.mark.parametrize("words", FAULTS)
def test_the_model_finds_a_planted_fault(words: str) -> None:
    """Negative control."""
    with planted(*FAULTS[words]), pytest.raises(AssertionError, match=words):
        check(examples=200)
