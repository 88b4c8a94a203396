"""The suite that every engine passes: what ``thirdshift.core.engine`` promises, as tests.

Subclass :class:`EngineConformance` in a test module and say how the engine is opened. ::

    class TestMyEngine(EngineConformance):
        def open_engine(self, folder, clock):
            return MyEngine(folder / "tasks", clock=clock)

The pools and the manager have suites of their own in ``thirdshift.testing.manager_conformance``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from thirdshift.core import codec
from thirdshift.core.engine import ClaimRequest, Exchange, FailureGroup, TaskFilter
from thirdshift.core.errors import QueueFull, UniqueConflict
from thirdshift.core.limits import QueueLimits
from thirdshift.core.outcome import Ending, Settlement, settle
from thirdshift.core.pruning import Limit
from thirdshift.core.reason import Reason, ReasonCode
from thirdshift.core.status import FINISHED, TRANSITIONS, TaskPriority, TaskStatus
from thirdshift.core.task import (
    AttemptOutcome,
    BackgroundTask,
    Claim,
    NewTask,
    OnConflict,
    PoolKind,
    TaskError,
    Traces,
    UniqueKey,
)
from thirdshift.testing.engine_suite import EngineSuite
from thirdshift.testing.tasks import new_task

ODD = codec.encode_arguments(("half a character: \udc80",), {})
BOOM = TaskError(type="ValueError", message="boom", traceback="Traceback …")
NOT_THERE = TaskError(type="ModuleNotFoundError", message="No module named 'shop'")
LOST = TaskError(type="KeyError", message="'x'", traceback="Traceback …", where=("shop:find", "shop:run"))
_FINISHED = (TaskStatus.CANCELLED, TaskStatus.COMPLETED, TaskStatus.FAILED)
_NEEDS_ANOTHER = frozenset({TaskStatus.WAITING})
"""Statuses that one task alone cannot have; see ``thirdshift.testing.dependency_conformance``."""


class FakeSeat:
    """A slot that is free for whatever is submitted."""

    is_given_up = False

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.taken: list[Claim] = []
        self.is_left = False

    def take(self, claim: Claim) -> bool:
        """Note the claim."""
        self.taken.append(claim)
        return not self.is_given_up

    def leave(self) -> None:
        """Note that."""
        self.is_left = True


class EngineConformance(EngineSuite):
    """Subclass it and define :meth:`open_engine`."""

    # What the tests say

    def submit(self, **changes: object) -> NewTask:
        """Submit one task and return it."""
        task = new_task(**changes)
        self.engine.submit([task])
        return task

    def stored(self, task: NewTask) -> BackgroundTask:
        """Return *task* as it stands in the store."""
        found = self.engine.get(task.id)
        assert found is not None, "the task is stored"
        return found

    def exchange(
        self,
        *settlements: Settlement,
        free: int = 8,
        pool: PoolKind = PoolKind.THREAD,
        queues: set[str] | None = None,
        first: NewTask | None = None,
    ) -> Exchange:
        """Settle and claim as the worker of this test."""
        wanted = None if queues is None else frozenset(queues)
        first_id = None if first is None else first.id
        request = ClaimRequest(owner=self.worker.id, free={pool: free}, queues=wanted, first=first_id)
        return self.engine.exchange(settlements, request)

    def claim(self, free: int = 8, **options: object) -> list[Claim]:
        """Claim at most *free* tasks as the worker of this test."""
        return list(self.exchange(free=free, **options).claims)  # type: ignore[arg-type]

    def claim_one(self) -> Claim:
        """Claim the one task that there is to claim."""
        (claim,) = self.claim()
        return claim

    def end(self, claim: Claim, outcome: AttemptOutcome, *, backoff_s: float = 60.0, **facts: object) -> bool:
        """Settle *claim* without claiming anything; returns whether that was recorded."""
        (recorded,) = self.engine.exchange([self.ended(claim, outcome, backoff_s, **facts)], None).recorded
        return recorded

    def ended(self, claim: Claim, outcome: AttemptOutcome, backoff_s: float = 60.0, **facts: object) -> Settlement:
        """Return the settlement of *claim*."""
        now = self.clock.now()
        ending = Ending(outcome, now, now)._replace(**facts)  # type: ignore[arg-type]
        return settle(claim, ending, backoff_s)

    def complete(self, claim: Claim, value: object = None) -> bool:
        """Settle *claim* with a result."""
        return self.end(claim, AttemptOutcome.COMPLETED, encoded_result=codec.encode_result(value))

    def fail(self, claim: Claim, *, backoff_s: float = 60.0) -> bool:
        """Settle *claim* as failed."""
        return self.end(claim, AttemptOutcome.FAILED, backoff_s=backoff_s, error=BOOM)

    def why(self, task: NewTask) -> dict[ReasonCode, Mapping[str, Any]]:
        """Return the facts of each reason, most telling first."""
        return {reason.code: reason.facts for reason in self.engine.why(task.id)}

    def in_status(self, status: TaskStatus) -> NewTask:
        """Submit a task, in a queue of its own, and bring it to *status* by ordinary means."""
        queue = status.value
        if status is TaskStatus.SCHEDULED:
            return self.submit(queue=queue, run_at=self.clock.now() + timedelta(hours=1))
        task = self.submit(queue=queue)
        if status is TaskStatus.CANCELLED:
            assert self.engine.cancel(task.id)
        if status in (TaskStatus.PENDING, TaskStatus.CANCELLED):
            return task
        (claim,) = self.claim(queues={queue})
        match status:
            case TaskStatus.COMPLETED:
                self.complete(claim, "done")
            case TaskStatus.FAILED:
                self.end(claim._replace(failures=claim.max_retries), AttemptOutcome.FAILED, error=BOOM)
            case TaskStatus.RETRYING:
                self.fail(claim)
        assert self.stored(task).status is status
        return task

    # Submitting and reading

    def test_a_submitted_task_reads_back_equal(self) -> None:
        """Everything a submitter asked for is there again, exactly."""
        run_at = self.clock.now() + timedelta(microseconds=1)
        task = self.submit(
            name="mail",
            function="shop.mail:send",
            arguments=codec.encode_arguments(("ä",), {"subject": [1, 2.5, None]}),
            queue="mail",
            pool=PoolKind.PROCESS,
            priority=TaskPriority.HIGH,
            run_at=run_at,
            max_retries=7,
            timeout_s=2.5,
            tags=("a", "b"),
        )
        found = self.stored(task)
        assert (found.id, found.name, found.function, found.queue) == (task.id, "mail", "shop.mail:send", "mail")
        assert (found.pool, found.priority, found.max_retries, found.timeout_s) == (PoolKind.PROCESS, 20, 7, 2.5)
        assert (found.tags, found.due_at, found.submitted_at) == (("a", "b"), run_at, self.clock.now())
        assert found.arguments == (("ä",), {"subject": [1, 2.5, None]})
        assert (found.status, found.attempts, found.failures) == (TaskStatus.SCHEDULED, (), 0)
        assert (found.result, found.error, found.started_at, found.finished_at) == (None, None, None, None)

    def test_the_same_id_twice_makes_one_task(self) -> None:
        """Submitting again after an unknown outcome is safe, and changes nothing."""
        task = self.submit(name="first")
        self.engine.submit([new_task(id=task.id, name="second"), new_task()])
        assert self.stored(task).name == "first"
        assert self.engine.counts()[TaskStatus.PENDING] == 2

    def test_submitting_a_finished_task_again_does_not_run_it_again(self) -> None:
        """The id stands for the task as long as it is stored."""
        task = self.in_status(TaskStatus.COMPLETED)
        self.engine.submit([task])
        assert self.stored(task).status is TaskStatus.COMPLETED
        assert self.claim() == []

    def test_a_submit_stores_all_tasks_or_none(self) -> None:
        """A full queue refuses the whole call."""
        self.submit()
        with pytest.raises(QueueFull, match="queue_size is 2"):
            self.engine.submit([new_task(), new_task()], queue_size=2)
        assert self.engine.counts()[TaskStatus.PENDING] == 1

    def test_a_full_queue_has_room_again_when_a_task_was_claimed(self) -> None:
        """queue_size counts what waits to run: pending, scheduled and retrying tasks."""
        self.engine.submit([new_task()], queue_size=1)
        with pytest.raises(QueueFull):
            self.engine.submit([new_task()], queue_size=1)
        claim = self.claim_one()
        self.engine.submit([new_task(run_at=self.clock.now() + timedelta(hours=1))], queue_size=1)
        self.fail(claim)
        with pytest.raises(QueueFull):
            self.engine.submit([new_task()], queue_size=2)

    def test_nothing_is_known_of_an_unknown_id(self) -> None:
        """Unknown ids are answered, not raised."""
        for unknown in ("0" * 32, "", "no such id", "'; DROP TABLE task; --"):
            assert self.engine.get(unknown) is None
            assert not self.engine.cancel(unknown)
            assert not self.engine.retry(unknown)

    # The order of claims

    def test_priority_then_due_time_then_order_of_submission(self) -> None:
        """The order is strict."""
        now = self.clock.now()
        last = self.submit(priority=TaskPriority.LOW)
        third = self.submit()
        fourth = self.submit()
        second = self.submit(run_at=now - timedelta(seconds=1))
        first = self.submit(priority=TaskPriority.CRITICAL)
        order = [claim.id for claim in self.claim()]
        assert order == [task.id for task in (first, second, third, fourth, last)]

    def test_the_order_holds_across_queues_and_one_by_one(self) -> None:
        """Queues do not get turns: the most urgent task of all queues comes first."""
        tasks = [
            self.submit(queue="b", priority=0),
            self.submit(queue="a", priority=5),
            self.submit(queue="c", priority=9),
            self.submit(queue="b", priority=9),
            self.submit(queue="a", priority=0),
        ]
        order = [self.claim(free=1)[0].id for _ in tasks]
        assert order == [tasks[n].id for n in (2, 3, 1, 0, 4)]

    def test_the_order_holds_after_promotion(self) -> None:
        """A task whose moment has come stands where its priority and its due time say, not at the end."""
        start = self.clock.now()
        due_first = self.submit(run_at=start + timedelta(seconds=1))
        urgent = self.submit(run_at=start + timedelta(seconds=2), priority=TaskPriority.HIGH)
        self.clock.advance(3)
        later = self.submit()
        assert [claim.id for claim in self.claim()] == [urgent.id, due_first.id, later.id]

    def test_a_wall_clock_that_was_set_back_does_not_reorder_equal_tasks(self) -> None:
        """First in, first out, whatever the administrator does."""
        first = self.submit()
        self.clock.step(-3600)
        second = self.submit()
        assert [claim.id for claim in self.claim()] == [first.id, second.id]

    def test_a_claim_takes_no_more_than_there_is_room(self) -> None:
        """The rest stays for others."""
        for _ in range(5):
            self.submit()
        assert len(self.claim(free=2)) == 2
        assert self.engine.counts()[TaskStatus.PENDING] == 3

    def test_each_pool_gets_its_own_tasks(self) -> None:
        """A thread slot never runs a process task, nor the other way round."""
        for_threads, for_processes = self.submit(), self.submit(pool=PoolKind.PROCESS)
        assert [claim.id for claim in self.claim(pool=PoolKind.PROCESS)] == [for_processes.id]
        assert self.claim(pool=PoolKind.ASYNC) == []
        assert [claim.id for claim in self.claim()] == [for_threads.id]

    def test_one_pass_serves_several_pools(self) -> None:
        """Claims for all pools come in one exchange, each pool within its room, the most urgent first."""
        for pool in (PoolKind.THREAD, PoolKind.PROCESS) * 3:
            self.submit(pool=pool, priority=TaskPriority.HIGH if pool is PoolKind.PROCESS else TaskPriority.LOW)
        request = ClaimRequest(owner=self.worker.id, free={PoolKind.THREAD: 1, PoolKind.PROCESS: 2})
        pools = [claim.pool for claim in self.engine.exchange([], request).claims]
        assert pools == [PoolKind.PROCESS, PoolKind.PROCESS, PoolKind.THREAD]

    def test_a_worker_gets_tasks_of_its_queues_only(self) -> None:
        """queues limits, excluded leaves out, and no queue at all is none."""
        mail, other = self.submit(queue="mail"), self.submit(queue="other")
        assert self.claim(queues=set()) == []
        assert [claim.id for claim in self.claim(queues={"mail", "unknown"})] == [mail.id]
        request = ClaimRequest(owner=self.worker.id, free={PoolKind.THREAD: 8}, excluded=frozenset({"other"}))
        assert not self.engine.exchange([], request).claims
        assert [claim.id for claim in self.claim()] == [other.id]

    def test_a_paused_queue_is_left_alone_until_it_is_resumed(self) -> None:
        """Pausing changes nothing for the tasks that run."""
        running = self.submit(queue="mail")
        claim = self.claim_one()
        assert self.engine.set_paused("mail", True)
        assert not self.engine.set_paused("mail", True)
        waiting = self.submit(queue="mail")
        other = self.submit()
        assert [claim.id for claim in self.claim()] == [other.id]
        assert self.complete(claim)
        assert self.stored(running).status is TaskStatus.COMPLETED
        assert self.engine.set_paused("mail", False)
        assert not self.engine.set_paused("mail", False)
        assert [claim.id for claim in self.claim()] == [waiting.id]

    def test_a_queue_can_be_paused_before_its_first_task(self) -> None:
        """What comes later finds it paused."""
        assert self.engine.set_paused("mail", True)
        self.submit(queue="mail")
        assert self.claim() == []
        (queue,) = self.engine.queues()
        assert queue.paused_at == self.clock.now()

    # Limits

    def test_a_queue_runs_no_more_at_once_than_it_may(self) -> None:
        """All workers together, in the order of urgency, and other queues go on."""
        self.engine.limit_queue("mail", QueueLimits(concurrency=2))
        mail = [self.submit(queue="mail", priority=priority) for priority in (0, 5, 1)]
        other = self.submit(priority=-1)
        first, second, free = self.claim()
        assert [first.id, second.id, free.id] == [mail[1].id, mail[2].id, other.id]
        other_worker = self.engine.register(slots=8)
        request = ClaimRequest(owner=other_worker.id, free={PoolKind.THREAD: 8})
        assert not self.engine.exchange([], request).claims
        assert self.fail(first)
        assert [claim.id for claim in self.engine.exchange([], request).claims] == [mail[0].id]
        assert self.stored(mail[1]).status is TaskStatus.RETRYING

    def test_one_limit_holds_for_all_pools_of_a_queue(self) -> None:
        """And what one pool leaves goes to the other."""
        self.engine.limit_queue("default", QueueLimits(concurrency=3))
        for pool in (PoolKind.THREAD, PoolKind.PROCESS) * 3:
            self.submit(pool=pool)
        request = ClaimRequest(owner=self.worker.id, free={PoolKind.THREAD: 1, PoolKind.PROCESS: 5})
        claims = self.engine.exchange([], request).claims
        assert sorted(claim.pool.value for claim in claims) == ["process", "process", "thread"]

    def test_a_queue_starts_no_faster_than_it_may(self) -> None:
        """A burst after a quiet time, then one whenever the rate allows it; the claim says when that is."""
        self.engine.limit_queue("default", QueueLimits(rate=2.0, burst=3))
        for _ in range(8):
            self.submit()
        exchange = self.exchange()
        assert len(exchange.claims) == 3
        assert exchange.is_limited
        assert exchange.next_due == self.clock.now() + timedelta(seconds=0.5)
        self.clock.advance(0.499)
        assert self.claim() == []
        self.clock.advance(0.001)
        assert len(self.claim()) == 1
        self.clock.advance(0.75)
        exchange = self.exchange()
        assert len(exchange.claims) == 1
        assert exchange.next_due == self.clock.now() + timedelta(seconds=0.25)
        self.clock.advance(3600)
        assert len(self.claim()) == 3

    def test_a_clock_that_is_set_back_holds_up_no_limited_queue(self) -> None:
        """The time that the clock lost is not waited for."""
        self.engine.limit_queue("default", QueueLimits(rate=1.0))
        for _ in range(3):
            self.submit()
        self.claim_one()
        self.clock.step(-3600)
        assert self.claim() == []
        self.clock.advance(1)
        self.claim_one()

    def test_limits_can_be_changed_and_lifted(self) -> None:
        """From now on, whatever runs or is saved up."""
        self.engine.limit_queue("default", QueueLimits(concurrency=1, rate=1.0))
        assert [queue.limits for queue in self.engine.queues()] == [QueueLimits(concurrency=1, rate=1.0, burst=1)]
        for _ in range(6):
            self.submit()
        self.claim_one()
        self.engine.limit_queue("default", QueueLimits(concurrency=3))
        assert len(self.claim()) == 2
        self.engine.limit_queue("default", QueueLimits())
        assert len(self.claim()) == 3

    def test_a_limited_queue_is_not_claimed_as_it_is_submitted_to(self) -> None:
        """The claim is asked, which knows the limits."""
        self.engine.limit_queue("default", QueueLimits(concurrency=1))
        seat = FakeSeat(self.worker.id)
        unlisten = self.engine.on_submit(lambda _queue, _pool: seat)
        self.submit()
        unlisten()
        assert (seat.taken, seat.is_left) == ([], True)
        self.claim_one()

    def test_why_names_the_limit(self) -> None:
        """The one that is reached, of those that the queue has."""
        self.engine.limit_queue("default", QueueLimits(concurrency=1))
        first, second = self.submit(), self.submit()
        assert ReasonCode.QUEUE_LIMITED not in self.why(first)
        claim = self.claim_one()
        assert self.why(second)[ReasonCode.QUEUE_LIMITED] == {"queue": "default", "concurrency": 1}
        self.complete(claim)
        assert ReasonCode.QUEUE_LIMITED not in self.why(second)
        self.engine.limit_queue("default", QueueLimits(rate=0.5))
        self.claim_one()
        third = self.submit()
        free_at = self.clock.now() + timedelta(seconds=2)
        assert self.why(third)[ReasonCode.RATE_LIMITED] == {"queue": "default", "rate": 0.5, "free_at": free_at}

    # Limit keys

    def keys_of(self, claims: Sequence[Claim]) -> list[str | None]:
        """Return their limit keys."""
        return [claim.limit_key for claim in claims]

    def test_of_one_limit_key_one_task_runs_at_a_time(self) -> None:
        """Over all queues, pools and workers, first the most urgent; the others of the key stay pending."""
        first = self.submit(limit_key="c-7")
        urgent = self.submit(limit_key="c-7", queue="mail", priority=20)
        elsewhere = self.submit(limit_key="c-7", pool=PoolKind.PROCESS)
        request = ClaimRequest(owner=self.worker.id, free={PoolKind.THREAD: 8, PoolKind.PROCESS: 8})
        (claim,) = self.engine.exchange([], request).claims
        assert (claim.id, claim.limit_key, self.stored(urgent).limit_key) == (urgent.id, "c-7", "c-7")
        other = self.engine.register(slots=8)
        assert not self.engine.exchange([], replace(request, owner=other.id)).claims
        assert {self.stored(task).status for task in (first, elsewhere)} == {TaskStatus.PENDING}
        for task in (first, elsewhere):
            assert self.complete(claim)
            (claim,) = self.engine.exchange([], replace(request, owner=other.id)).claims
            assert claim.id == task.id

    def test_a_limit_key_holds_up_nobody_else(self) -> None:
        """Other keys and tasks without one are claimed past it, in their order."""
        self.submit(limit_key="a", priority=30)
        self.claim_one()
        for _ in range(3):
            self.submit(limit_key="a", priority=20)
        wanted = [self.submit(limit_key="b", priority=15), self.submit(), self.submit(limit_key="c")]
        assert [claim.id for claim in self.claim()] == [task.id for task in wanted]

    def test_how_many_of_a_limit_key_run_is_set_at_any_time(self) -> None:
        """Raised it holds at once; lowered it holds when enough of what runs has ended."""
        for _ in range(8):
            self.submit(limit_key="a")
        assert len(self.claim()) == 1
        self.engine.limit_key("a", 4)
        claims = self.claim()
        assert len(claims) == 3
        self.engine.limit_key("a", 2)
        for claim in claims[:2]:
            assert self.claim() == []
            self.complete(claim)
        assert self.claim() == []
        self.complete(claims[2])
        assert len(self.claim()) == 1
        self.engine.limit_key("a", 1)
        assert self.claim() == []

    def test_the_order_holds_among_tasks_with_and_without_a_limit_key(self) -> None:
        """Strictly by priority, due time and order of submission among those that may run; one by one and together."""
        self.engine.limit_key("a", 2)
        facts = [("a", 1), (None, 5), ("a", 9), ("b", 9), ("a", 7), (None, 7), ("b", 8), (None, 9), ("c", 1), ("a", 9)]
        tasks = [self.submit(limit_key=key, priority=priority) for key, priority in facts]
        wanted = [tasks[number].id for number in (2, 3, 7, 9, 5, 1, 8)]
        claims = self.claim(3) + self.claim(1) + self.claim()
        assert [claim.id for claim in claims] == wanted
        self.complete(claims[0])
        self.complete(claims[1])
        assert [claim.id for claim in self.claim()] == [tasks[6].id, tasks[4].id]

    @pytest.mark.parametrize("most", [1, 2, 5])
    def test_a_task_is_claimed_past_any_number_of_others_of_a_limit_key(self, most: int) -> None:
        """However many wait before it, in whatever pool their key is used up in the same moment."""
        for number in range(20):
            self.submit(limit_key=f"{number % 5}", pool=PoolKind.PROCESS, priority=50)
            self.submit(limit_key=f"{number % 5}", priority=40)
        self.submit(limit_key="last", priority=30)
        self.submit()
        free = {PoolKind.PROCESS: 5, PoolKind.THREAD: most}
        claims = self.engine.exchange([], ClaimRequest(owner=self.worker.id, free=free)).claims
        assert self.keys_of(claims) == ["0", "1", "2", "3", "4", "last", None][: 5 + most]

    @pytest.mark.parametrize(
        ("outcome", "status"),
        [
            (AttemptOutcome.FAILED, TaskStatus.RETRYING),
            (AttemptOutcome.SNOOZED, TaskStatus.SCHEDULED),
            (AttemptOutcome.TIMED_OUT, TaskStatus.RETRYING),
            (AttemptOutcome.COMPLETED, TaskStatus.COMPLETED),
        ],
    )
    def test_a_limit_key_is_free_while_its_task_does_not_run(self, outcome: AttemptOutcome, status: TaskStatus) -> None:
        """While it waits for its next try another one runs; then it comes when that has ended."""
        first, second = self.submit(limit_key="a"), self.submit(limit_key="a")
        assert self.end(self.claim_one(), outcome, after_s=60.0)
        assert self.stored(first).status is status
        claim = self.claim_one()
        assert claim.id == second.id
        self.clock.advance(61)
        assert self.claim() == []
        self.complete(claim)
        assert [claim.id for claim in self.claim()] == ([first.id] if status is not TaskStatus.COMPLETED else [])

    def test_a_limit_key_is_taken_until_the_function_has_returned(self) -> None:
        """Also by a task whose cancellation was asked for, or whose worker has died and is not rescued yet."""
        first, second = self.submit(limit_key="a"), self.submit(limit_key="a")
        self.claim_one()
        self.engine.cancel(first.id)
        assert self.claim() == []
        heir = self.engine.register(slots=8)
        self.worker.close()
        request = ClaimRequest(owner=heir.id, free={PoolKind.THREAD: 8})
        assert not self.engine.exchange([], request).claims
        self.engine.rescue(heir.id)
        (claim,) = self.engine.exchange([], request).claims
        assert claim.id == second.id

    def test_a_rescued_task_takes_its_limit_key_again(self) -> None:
        """Before others of the key, by its place in the line."""
        first, _ = self.submit(limit_key="a"), self.submit(limit_key="a")
        self.claim_one()
        heir = self.engine.register(slots=8)
        self.worker.close()
        self.engine.rescue(heir.id)
        (claim,) = self.engine.exchange([], ClaimRequest(owner=heir.id, free={PoolKind.THREAD: 8})).claims
        assert claim.id == first.id
        self.engine.give_back([claim])
        (again,) = self.engine.exchange([], ClaimRequest(owner=heir.id, free={PoolKind.THREAD: 8})).claims
        assert (again.id, again.limit_key) == (first.id, "a")

    def test_a_task_takes_both_its_queue_and_its_limit_key_or_neither(self) -> None:
        """What the limit of one refuses is not taken from the other."""
        self.engine.limit_queue("mail", QueueLimits(rate=1.0, burst=2))
        self.engine.limit_key("a", 2)
        for key in ("a", "a", "a", "b"):
            self.submit(queue="mail", limit_key=key)
        self.submit(queue="web", limit_key="a")
        assert self.keys_of(self.claim()) == ["a", "a"]
        self.clock.advance(1)
        assert self.keys_of(self.claim()) == ["b"], "the queue's start was not used up by a task that could not run"
        for key in ("a", "b"):
            self.submit(queue="mail", limit_key=key)
        other = self.engine.register(slots=1)
        self.engine.limit_key("a", 3)
        request = ClaimRequest(owner=other.id, free={PoolKind.THREAD: 1})
        (claim,) = self.engine.exchange([], request).claims
        assert (claim.queue, claim.limit_key) == ("web", "a"), "the key was not used up by a task that could not start"

    def test_a_paused_queue_holds_no_limit_key(self) -> None:
        """Nor do tasks that nobody works on: they do not run."""
        self.submit(limit_key="a", queue="paused", priority=90)
        self.submit(limit_key="a", queue="others", priority=80)
        task = self.submit(limit_key="a")
        self.engine.set_paused("paused", True)
        assert [claim.id for claim in self.claim(queues={"paused", "default"})] == [task.id]

    def test_tasks_of_a_limit_key_that_a_worker_cannot_run_are_left_to_others(self) -> None:
        """It takes the next one of the key whose function it finds."""
        strange = self.submit(limit_key="a", function="shop:send")
        task = self.submit(limit_key="a")
        self.submit(limit_key="b", function="shop:send")
        request = ClaimRequest(
            owner=self.worker.id, free={PoolKind.THREAD: 8}, unknown=frozenset({"shop:send", "shop:other"})
        )
        (claim,) = self.engine.exchange([], request).claims
        assert claim.id == task.id
        self.complete(claim)
        assert not self.engine.exchange([], request).claims
        assert strange.id in [claim.id for claim in self.claim()]
        assert self.engine.has_work(None, frozenset())

    def test_a_free_slot_takes_no_task_past_one_with_a_limit_key(self) -> None:
        """Unless that may not run; one with a key waits for a claim, which knows the limits."""
        self.submit(limit_key="a")
        seats = self.offered_seats()
        assert self.stored(self.submit()).status is TaskStatus.PENDING
        assert self.keys_of(self.claim()) == ["a", None]
        self.submit(limit_key="a")
        assert self.stored(self.submit()).status is TaskStatus.RUNNING
        assert self.stored(self.submit(limit_key="b")).status is TaskStatus.PENDING
        assert len(seats) == 2
        assert self.keys_of(self.claim()) == ["b"]

    def test_who_ends_a_task_of_a_limit_key_says_whether_others_may_run_the_next(self) -> None:
        """Also who claims nothing himself; nobody is called for a task that he takes, or where none waits."""
        for _ in range(3):
            self.submit(limit_key="a")
        (claim,) = self.claim(1)
        calls: list[str] = []
        self.engine.on_work(lambda: calls.append("called"))
        exchange = self.exchange(self.ended(claim, AttemptOutcome.COMPLETED))
        assert (len(exchange.claims), exchange.has_freed_key, calls) == (1, False, [])
        assert self.engine.exchange([self.ended(exchange.claims[0], AttemptOutcome.COMPLETED)], None).has_freed_key
        assert calls == ["called"]
        self.complete(self.claim_one())
        assert calls == ["called"]
        self.engine.limit_key("a", 2)
        assert calls == ["called"] * 2

    def test_why_names_the_tasks_that_have_the_limit_key(self) -> None:
        """And how many tasks come first, of those that may run."""
        first, second, third = (self.submit(limit_key="a") for _ in range(3))
        plain = self.submit()
        assert self.why(plain)[ReasonCode.TASKS_BEFORE]["count"] == 1
        claim, _ = self.claim()
        assert self.why(second)[ReasonCode.KEY_LIMITED] == {"key": "a", "concurrency": 1, "tasks": [first.id]}
        assert self.why(third)[ReasonCode.TASKS_BEFORE]["count"] == 1
        self.complete(claim)
        assert ReasonCode.KEY_LIMITED not in self.why(second)

    def test_limit_keys_are_listed_with_what_runs_and_waits(self) -> None:
        """Those that have tasks, and those with a limit of their own."""
        self.engine.limit_key("spare", 3)
        for key in ("a", "a", "b"):
            self.submit(limit_key=key)
        self.claim(1)
        shown = [(each.key, each.running, each.concurrency, each.pending) for each in self.engine.limit_keys(50)]
        assert shown == [("a", 1, 1, 1), ("b", 0, 1, 1), ("spare", 0, 3, 0)]
        assert [each.key for each in self.engine.limit_keys(1)] == ["a"]
        assert len(self.engine.find(TaskFilter(limit_key="a"))) == 2
        (queue,) = self.engine.queues()
        assert queue.counts == {TaskStatus.PENDING: 2, TaskStatus.RUNNING: 1}

    def test_whatever_becomes_of_the_first_task_of_a_limit_key_the_next_one_runs(self) -> None:
        """Cancelled, replaced by one of another key, deleted; and what comes to be pending again takes its place."""
        first = self.submit(limit_key="a", priority=20)
        unique = UniqueKey(key="k", on_conflict=OnConflict.REPLACE)
        second = self.submit(limit_key="a", priority=15, unique=unique)
        third = self.submit(limit_key="a", run_at=self.clock.now() + timedelta(seconds=5), priority=90)
        fourth = self.submit(limit_key="a")
        self.engine.cancel(first.id)
        self.engine.submit([new_task(limit_key="b", priority=15, unique=unique)])
        claims = self.claim()
        assert [(claim.id, claim.limit_key) for claim in claims] == [(second.id, "b"), (fourth.id, "a")]
        self.clock.advance(5)
        self.engine.retry(first.id)
        for claim in claims:
            self.complete(claim)
        (claim,) = self.claim()
        assert claim.id == third.id
        self.engine.cancel_all(TaskFilter(limit_key="a", statuses=frozenset({TaskStatus.PENDING})))
        self.complete(claim)
        self.engine.delete_finished(before=self.clock.now() + timedelta(seconds=1))
        assert self.engine.limit_keys(50) == []

    # Due times

    def test_a_scheduled_task_waits_for_its_moment(self) -> None:
        """Not a microsecond early, and at once when it has come."""
        task = self.submit(run_at=self.clock.now() + timedelta(seconds=10))
        exchange = self.exchange()
        assert not exchange.claims
        assert exchange.next_due == self.stored(task).due_at
        self.clock.advance(9.999999)
        assert self.claim() == []
        self.clock.advance(0.000001)
        exchange = self.exchange()
        assert [claim.id for claim in exchange.claims] == [task.id]
        assert exchange.next_due is None

    def test_the_next_due_moment_is_told_without_a_request_too(self) -> None:
        """A worker that only settles, or only looks, learns when to look again."""
        task = self.submit()
        claim = self.claim_one()
        due = self.submit(run_at=self.clock.now() + timedelta(seconds=10))
        exchange = self.engine.exchange([self.ended(claim, AttemptOutcome.COMPLETED)], None)
        assert exchange.next_due == self.stored(due).due_at
        assert self.engine.exchange([], None).next_due == self.stored(due).due_at
        assert self.stored(task).status is TaskStatus.COMPLETED

    def test_a_task_due_in_the_past_is_runnable_at_once(self) -> None:
        """Being late is no reason to wait."""
        task = self.submit(run_at=self.clock.now() - timedelta(days=1))
        assert self.stored(task).status is TaskStatus.PENDING
        assert [claim.id for claim in self.claim()] == [task.id]

    def test_more_due_tasks_than_one_pass_promotes_are_all_found(self) -> None:
        """A crowd that comes due at one moment is worked off in order."""
        due = self.clock.now() + timedelta(seconds=1)
        tasks = [new_task(run_at=due) for _ in range(2_100)]
        self.engine.submit(tasks)
        self.clock.advance(1)
        claimed = [claim.id for _ in range(4) for claim in self.claim(free=600)]
        assert claimed == [task.id for task in tasks]

    # Outcomes

    @pytest.mark.parametrize(
        ("outcome", "after_s", "status"),
        [
            (AttemptOutcome.COMPLETED, None, TaskStatus.COMPLETED),
            (AttemptOutcome.CANCELLED, None, TaskStatus.CANCELLED),
            (AttemptOutcome.INTERRUPTED, None, TaskStatus.PENDING),
            (AttemptOutcome.SNOOZED, None, TaskStatus.PENDING),
            (AttemptOutcome.SNOOZED, 30.0, TaskStatus.SCHEDULED),
            (AttemptOutcome.FAILED, None, TaskStatus.RETRYING),
            (AttemptOutcome.FAILED, 0.0, TaskStatus.PENDING),
            (AttemptOutcome.TIMED_OUT, None, TaskStatus.RETRYING),
        ],
    )
    def test_every_outcome_leads_to_its_status(
        self, outcome: AttemptOutcome, after_s: float | None, status: TaskStatus
    ) -> None:
        """The attempt is kept, and the task is where the lifecycle says."""
        task = self.submit()
        claim = self.claim_one()
        self.clock.advance(2)
        assert self.end(claim, outcome, after_s=after_s)
        found = self.stored(task)
        assert found.status is status
        (attempt,) = found.attempts
        assert (attempt.number, attempt.outcome, attempt.worker) == (1, outcome, self.worker.id)
        assert found.worker is None
        assert found.finished_at == (self.clock.now() if status in FINISHED else None)

    def test_a_result_is_kept_with_its_attempt(self) -> None:
        """And read back as the value that was returned."""
        task = self.submit()
        claim = self.claim_one()
        self.clock.advance(3)
        self.complete(claim, {"total": (1, 2)})
        found = self.stored(task)
        assert found.result == {"total": (1, 2)}
        assert found.error is None
        assert found.attempts[0].claimed_at == claim.claimed_at
        assert found.attempts[0].run_time == timedelta(0)

    def test_an_error_is_kept_with_its_attempt(self) -> None:
        """Type, message and traceback."""
        task = self.submit()
        self.fail(self.claim_one())
        assert self.stored(task).error == BOOM
        assert self.stored(task).attempts[0].error == BOOM
        assert self.stored(task).result is None

    def test_failures_count_and_retries_stop_at_max_retries(self) -> None:
        """3 retries mean at most 4 attempts; the last failure is final."""
        task = self.submit(max_retries=3)
        for failures in range(4):
            assert self.stored(task).failures == failures
            assert self.fail(self.claim_one(), backoff_s=0.0)
        found = self.stored(task)
        assert (found.status, found.failures, len(found.attempts)) == (TaskStatus.FAILED, 4, 4)
        assert [attempt.number for attempt in found.attempts] == [1, 2, 3, 4]
        assert self.claim() == []

    def test_a_task_without_retries_fails_at_once(self) -> None:
        """max_retries=0 is one attempt."""
        task = self.submit(max_retries=0)
        self.fail(self.claim_one())
        assert self.stored(task).status is TaskStatus.FAILED

    def test_a_retry_waits_for_its_backoff(self) -> None:
        """And comes back when it has passed."""
        task = self.submit()
        self.fail(self.claim_one(), backoff_s=60.0)
        assert self.stored(task).due_at == self.clock.now() + timedelta(seconds=60)
        self.clock.advance(59)
        assert self.claim() == []
        self.clock.advance(1)
        assert self.claim_one().attempt == 2

    def test_interruptions_and_snoozes_use_up_no_retry(self) -> None:
        """Only failures count."""
        task = self.submit(max_retries=0)
        for _ in range(3):
            self.end(self.claim_one(), AttemptOutcome.INTERRUPTED)
            self.end(self.claim_one(), AttemptOutcome.SNOOZED)
        assert self.stored(task).failures == 0
        assert len(self.stored(task).attempts) == 6
        assert self.complete(self.claim_one())

    def test_a_claim_that_was_given_back_is_no_attempt(self) -> None:
        """It keeps its place in the line."""
        first, second = self.submit(), self.submit()
        claims = self.claim()
        self.engine.give_back(claims)
        found = self.stored(first)
        assert (found.status, found.attempts, found.failures) == (TaskStatus.PENDING, (), 0)
        again = self.claim()
        assert [claim.id for claim in again] == [first.id, second.id]
        assert [claim.attempt for claim in again] == [2, 2]

    def test_settling_and_claiming_go_together(self) -> None:
        """A task that ended with an immediate retry can be claimed in the same pass."""
        task = self.submit()
        settlement = self.ended(self.claim_one(), AttemptOutcome.FAILED, 0.0, error=BOOM)
        exchange = self.exchange(settlement)
        assert list(exchange.recorded) == [True]
        assert [claim.attempt for claim in exchange.claims] == [2]
        assert self.stored(task).status is TaskStatus.RUNNING

    # Functions that are not there

    def decline(self, claim: Claim, *, after: timedelta = timedelta(hours=24)) -> bool:
        """Say that the worker of *claim* cannot find its function; returns whether the task failed for that."""
        return bool(self.engine.decline([(claim, NOT_THERE)], after))

    def test_a_task_whose_function_is_not_there_is_given_back_uncounted(self) -> None:
        """It is no attempt, and the task keeps its place in the line."""
        first, second = self.submit(), self.submit()
        assert not self.decline(self.claim()[0])
        found = self.stored(first)
        assert (found.status, found.attempts, found.failures) == (TaskStatus.PENDING, (), 0)
        assert [claim.id for claim in self.claim()] == [first.id]
        assert self.stored(second).status is TaskStatus.RUNNING

    def test_a_worker_leaves_the_tasks_of_some_functions_to_others(self) -> None:
        """In every queue; the others come as before, and nobody waits for those."""
        self.submit(function="shop:send", priority=TaskPriority.HIGH)
        self.submit(function="shop:send", queue="mail")
        unknown = frozenset({"shop:send"})
        assert not self.engine.has_work(None, set(), unknown)
        assert self.engine.has_work(None, set())
        mine = self.submit()
        request = ClaimRequest(owner=self.worker.id, free={PoolKind.THREAD: 8}, unknown=unknown)
        assert [claim.id for claim in self.engine.exchange([], request).claims] == [mine.id]
        assert self.engine.has_work(None, set(), unknown)
        assert len(self.claim()) == 2

    def test_a_task_fails_when_nobody_could_find_its_function_for_long(self) -> None:
        """With the error of the last worker; also when workers come and go meanwhile. Its retries do not matter."""
        task = self.submit(max_retries=3)
        for _ in range(24):
            assert not self.decline(self.claim_one())
            self.worker.close()
            self.worker = self.engine.register(slots=8)
            self.clock.advance(3600)
        assert self.decline(self.claim_one())
        found = self.stored(task)
        assert (found.status, [attempt.outcome for attempt in found.attempts]) == (
            TaskStatus.FAILED,
            [AttemptOutcome.FAILED],
        )
        assert found.error == NOT_THERE
        assert found.attempts[0].worker == self.worker.id

    def test_a_task_that_came_later_has_its_own_time(self) -> None:
        """It waits as long as the others did, although its function was not there before."""
        self.submit()
        self.decline(self.claim_one())
        self.clock.advance(timedelta(hours=24).total_seconds())
        self.submit()
        early, late = self.claim()
        assert [self.decline(claim) for claim in (early, late)] == [True, False]

    def test_a_function_that_was_not_there_long_ago_is_new(self) -> None:
        """What happened before it was found is forgotten."""
        task = self.submit()
        self.decline(self.claim_one())
        self.engine.set_paused("default", True)
        self.clock.advance(timedelta(hours=25).total_seconds())
        self.engine.set_paused("default", False)
        assert not self.decline(self.claim_one())
        assert self.stored(task).status is TaskStatus.PENDING

    def test_a_task_does_not_fail_while_another_worker_may_find_its_function(self) -> None:
        """Only workers that take the task count, and a worker that is there for a while makes the time start again."""
        elsewhere = self.engine.register(slots=1, queues=frozenset({"mail"}))
        other = self.engine.register(slots=1)
        self.clock.advance(60)
        self.submit()
        now = timedelta(0)
        assert not self.decline(self.claim_one(), after=now)
        self.clock.advance(3600)
        assert not self.decline(self.claim_one(), after=timedelta(minutes=30))
        other.close()
        assert not self.decline(self.claim_one(), after=timedelta(minutes=30))
        assert self.decline(self.claim_one(), after=now)
        elsewhere.close()

    def test_when_every_worker_has_said_that_it_cannot_find_it_the_task_fails(self) -> None:
        """Each for itself; one that finds it after all takes that back."""
        other = self.engine.register(slots=1)
        request = ClaimRequest(owner=other.id, free={PoolKind.THREAD: 1})
        now = timedelta(0)
        self.submit(function="shop:send")
        assert not self.decline(self.claim_one(), after=now)
        self.engine.found(self.worker.id, ["shop:send"])
        assert not self.decline(self.engine.exchange([], request).claims[0], after=now)
        assert self.decline(self.claim_one(), after=now)
        other.close()

    def test_a_declined_task_that_was_cancelled_ends_cancelled(self) -> None:
        """Whether its function is there does not matter any more."""
        task = self.submit()
        claim = self.claim_one()
        assert self.engine.cancel(task.id)
        assert not self.decline(claim)
        assert self.stored(task).status is TaskStatus.CANCELLED

    def test_a_lost_claim_that_is_declined_changes_nothing(self) -> None:
        """It is another worker's by now."""
        task = self.submit()
        lost = self.claim_one()
        self.engine.give_back([lost])
        claim = self.claim_one()
        assert not self.decline(lost, after=timedelta(0))
        assert self.complete(claim)
        assert self.stored(task).status is TaskStatus.COMPLETED

    def test_why_a_task_of_an_unknown_function_does_not_run(self) -> None:
        """Which workers could not find it and how, as long as they are there; first when no other one takes it."""
        task = self.submit(function="shop:send")
        at = self.clock.now()
        self.decline(self.claim_one())
        facts = {"function": "shop:send", "workers": [{"worker": self.worker.id, "error": str(NOT_THERE), "at": at}]}
        assert self.why(task) == {ReasonCode.UNKNOWN_FUNCTION: {**facts, "others": 0}}
        other = self.engine.register(slots=1)
        assert self.why(task) == {ReasonCode.NEXT: {}, ReasonCode.UNKNOWN_FUNCTION: {**facts, "others": 1}}
        other.close()
        self.engine.found(self.worker.id, ["shop:send"])
        assert self.why(task) == {ReasonCode.NEXT: {}}
        self.decline(self.claim_one())
        self.worker.close()
        assert self.why(task) == {ReasonCode.NO_WORKER: {}}

    # Failures of one cause

    def failed_of(self, error: TaskError, **changes: object) -> NewTask:
        """Submit a task that fails of *error* for good."""
        task = self.submit(max_retries=0, **changes)
        self.end(self.claim_one(), AttemptOutcome.FAILED, error=error)
        return task

    def test_errors_say_where_they_came_from(self) -> None:
        """The functions come back with the error."""
        task = self.failed_of(LOST)
        assert self.stored(task).error == LOST
        assert LOST.fingerprint == "KeyError@shop:find,shop:run"

    def test_failures_are_grouped_by_their_cause(self) -> None:
        """The largest group first, whatever the messages say; what did not fail is in none."""
        first_seen = self.clock.now()
        other = self.failed_of(BOOM)
        self.failed_of(LOST)
        self.clock.advance(60)
        newest = self.failed_of(replace(LOST, message="another one"), queue="mail")
        self.in_status(TaskStatus.COMPLETED)
        self.in_status(TaskStatus.PENDING)
        large, small = self.engine.failure_groups(TaskFilter())
        assert large == FailureGroup(
            fingerprint=LOST.fingerprint,
            type="KeyError",
            where=("shop:find", "shop:run"),
            count=2,
            first_seen=first_seen,
            last_seen=self.clock.now(),
            example=newest.id,
            message="another one",
        )
        assert (small.fingerprint, small.count, small.where, small.example) == ("ValueError", 1, (), other.id)
        assert [group.count for group in self.engine.failure_groups(TaskFilter(queue="mail"))] == [1]
        assert len(self.engine.failure_groups(TaskFilter(limit=1))) == 1

    def test_the_last_attempt_says_what_a_task_failed_of(self) -> None:
        """It is in one group, not in as many as it has attempts."""
        task = self.submit(max_retries=1)
        self.end(self.claim_one(), AttemptOutcome.FAILED, backoff_s=0.0, error=BOOM)
        self.end(self.claim_one(), AttemptOutcome.FAILED, error=LOST)
        (group,) = self.engine.failure_groups(TaskFilter())
        assert (group.fingerprint, group.example) == (LOST.fingerprint, task.id)

    def test_one_group_is_retried_at_once(self) -> None:
        """The others stay as they are."""
        tasks = [self.failed_of(LOST), self.failed_of(LOST)]
        other = self.failed_of(BOOM)
        cause = TaskFilter(fingerprint=LOST.fingerprint)
        assert self.engine.counts(cause)[TaskStatus.FAILED] == 2
        assert {found.id for found in self.engine.find(cause)} == {task.id for task in tasks}
        assert self.engine.retry_all(cause) == 2
        assert [self.stored(task).status for task in (*tasks, other)] == [
            TaskStatus.PENDING,
            TaskStatus.PENDING,
            TaskStatus.FAILED,
        ]

    # Fencing

    def test_settling_twice_records_once(self) -> None:
        """The first outcome stands."""
        task = self.submit()
        claim = self.claim_one()
        first = self.ended(claim, AttemptOutcome.COMPLETED, encoded_result=codec.encode_result(1))
        second = self.ended(claim, AttemptOutcome.FAILED, error=BOOM)
        assert list(self.engine.exchange([first, second], None).recorded) == [True, False]
        assert list(self.engine.exchange([second, first], None).recorded) == [False, False]
        assert self.stored(task).result == 1
        assert len(self.stored(task).attempts) == 1

    def offered_seats(self) -> list["FakeSeat"]:
        """Offer a free slot at every submit; returns the seats that were asked for."""
        seats: list[FakeSeat] = []

        def reserve(_queue: str, _pool: PoolKind) -> FakeSeat:
            seats.append(FakeSeat(self.worker.id))
            return seats[-1]

        self.engine.on_submit(reserve)
        return seats

    def test_a_free_slot_takes_a_task_in_the_commit_that_submits_it(self) -> None:
        """With all that a claim says; nobody else can claim it, and its end is recorded as usual."""
        seats = self.offered_seats()
        task = self.submit(priority=7, max_retries=2, timeout_s=1.5)
        ((claim,),) = [seat.taken for seat in seats]
        assert self.stored(task).status is TaskStatus.RUNNING
        assert self.claim() == []
        self.engine.give_back([claim])
        again = self.claim_one()
        assert again._replace(attempt=1, claimed_at=claim.claimed_at) == claim
        assert self.complete(again, "done")
        assert self.stored(task).result == "done"

    @pytest.mark.parametrize("before", ["paused", "as urgent", "due", "later"])
    def test_a_free_slot_takes_nothing_out_of_turn(self, before: str) -> None:
        """The task waits like any other, and the seat is free again."""
        match before:
            case "paused":
                self.engine.set_paused("default", True)
            case "as urgent":
                self.submit()
            case "due":
                self.submit(queue="other", run_at=self.clock.now() + timedelta(seconds=1))
                self.clock.advance(1.0)
        seats = self.offered_seats()
        task = self.submit(run_at=self.clock.now() + timedelta(hours=1) if before == "later" else None)
        assert self.stored(task).status is (TaskStatus.SCHEDULED if before == "later" else TaskStatus.PENDING)
        assert [(seat.taken, seat.is_left) for seat in seats] == ([] if before == "later" else [([], True)])

    def test_a_more_urgent_task_may_take_a_free_slot_before_others(self) -> None:
        """It would come first in any case."""
        self.submit(priority=TaskPriority.LOW)
        seats = self.offered_seats()
        task = self.submit(priority=TaskPriority.HIGH)
        assert [claim.id for seat in seats for claim in seat.taken] == [task.id]

    def test_an_announced_task_is_claimed_alone(self) -> None:
        """With all that a claim says, and when the next one is due: what else waits is announced too."""
        moment = self.clock.now() + timedelta(hours=1)
        waits, _ = self.submit(priority=TaskPriority.LOW), self.submit(run_at=moment)
        task = self.submit(priority=7, max_retries=2, timeout_s=1.5, stall_timeout_s=9.0, arguments=ODD)
        exchange = self.exchange(first=task)
        (claim,) = exchange.claims
        assert exchange.next_due == moment
        assert self.stored(task).status is TaskStatus.RUNNING
        assert [other.id for other in self.claim()] == [waits.id]
        self.engine.give_back([claim])
        again = self.claim_one()
        assert (again.attempt, again._replace(attempt=1)) == (2, claim)
        assert self.complete(again, "done")
        assert self.stored(task).result == "done"

    @pytest.mark.parametrize(
        "before",
        ["paused", "limited", "as urgent", "due", "another key", "its own key", "taken", "cancelled", "unknown"],
    )
    def test_an_announced_task_is_claimed_in_its_turn(self, before: str) -> None:
        """If anything should come first, or the task itself cannot run now, that is a claim like any other."""
        others: list[NewTask] = []
        has_turn = False
        match before:
            case "paused":
                self.engine.set_paused("default", True)
            case "limited":
                self.engine.limit_queue("default", QueueLimits(concurrency=1))
                self.submit()
                self.claim_one()
            case "as urgent":
                others = [self.submit()]
            case "due":
                others = [self.submit(queue="other", run_at=self.clock.now() + timedelta(seconds=1))]
                self.clock.advance(1.0)
            case "another key":
                others = [self.submit(limit_key="c-7")]
        task = self.submit(limit_key="c-8" if before == "its own key" else None)
        match before:
            case "its own key":
                has_turn = True
            case "taken":
                self.claim_one()
            case "cancelled":
                self.engine.cancel(task.id)
            case "unknown":
                others, task = [task], new_task()
        expected = [other.id for other in others] + [task.id] * has_turn
        assert [claim.id for claim in self.exchange(free=1, first=task).claims] == expected

    def test_what_ended_is_recorded_with_an_announced_task(self) -> None:
        """Both in one exchange."""
        ended = self.submit()
        claim = self.claim_one()
        task = self.submit()
        exchange = self.exchange(self.ended(claim, AttemptOutcome.COMPLETED), first=task)
        assert (list(exchange.recorded), [each.id for each in exchange.claims]) == ([True], [task.id])
        assert self.stored(ended).status is TaskStatus.COMPLETED

    def test_a_task_that_is_stored_already_is_not_taken_again(self) -> None:
        """Submitting the same id again changes nothing, with or without a free slot."""
        task = self.submit(run_at=self.clock.now() + timedelta(hours=1))
        seats = self.offered_seats()
        self.engine.submit([new_task(id=task.id)])
        assert self.stored(task).status is TaskStatus.SCHEDULED
        assert [(seat.taken, seat.is_left) for seat in seats] == [([], True)]

    def test_a_seat_that_was_given_up_gives_its_task_back(self) -> None:
        """The submitter was too slow: somebody else runs it."""
        seats = self.offered_seats()
        FakeSeat.is_given_up = True
        try:
            task = self.submit()
        finally:
            FakeSeat.is_given_up = False
        assert len(seats) == 1
        assert self.claim_one().id == task.id

    def test_what_an_attempt_used_and_wrote_stays_with_it(self) -> None:
        """Also with one that is tried again; a listing leaves the texts out."""
        task = self.submit()
        first = Traces(0.25, 1 << 30, "printed\n", None, "logged\n")
        self.end(self.claim_one(), AttemptOutcome.FAILED, backoff_s=0.0, traces=first)
        self.end(self.claim_one(), AttemptOutcome.COMPLETED, encoded_result=b"1", traces=Traces(cpu_s=0.0))
        assert [attempt.traces for attempt in self.stored(task).attempts] == [first, Traces(cpu_s=0.0)]
        (listed,) = self.engine.find(TaskFilter())
        assert listed.attempts[0].traces == Traces(0.25, 1 << 30)

    def test_what_a_lost_attempt_wrote_is_not_kept(self) -> None:
        """As little as its outcome."""
        task = self.submit()
        claim = self.claim_one()
        self.engine.give_back([claim])
        assert not self.end(claim, AttemptOutcome.FAILED, traces=Traces(stdout="nobody asked"))
        self.end(self.claim_one(), AttemptOutcome.COMPLETED, encoded_result=b"1")
        assert [attempt.traces for attempt in self.stored(task).attempts] == [Traces()]

    def test_the_stall_limit_comes_with_the_claim(self) -> None:
        """As it was submitted."""
        task = self.submit(stall_timeout_s=2.5)
        assert self.claim_one().stall_timeout_s == 2.5
        assert self.stored(task).stall_timeout_s == 2.5

    def test_claims_that_their_worker_does_not_know_are_recovered(self) -> None:
        """What it knows stays; what nobody would run is runnable again, and that is no attempt."""
        known, unknown = self.submit(), self.submit()
        claims = {claim.id: claim for claim in self.claim()}
        known_claim = claims[known.id]
        recovered = self.engine.recover(self.worker.id, {(known_claim.seq, known_claim.attempt)})
        assert [(rescue.id, rescue.attempt) for rescue in recovered] == [(unknown.id, claims[unknown.id].attempt)]
        assert self.stored(known).status is TaskStatus.RUNNING
        assert (self.stored(unknown).status, self.stored(unknown).attempts) == (TaskStatus.PENDING, ())
        assert list(self.engine.recover(self.worker.id, {(known_claim.seq, known_claim.attempt)})) == []

    @pytest.mark.parametrize("lost", ["owner", "attempt", "taken over"])
    def test_a_lost_attempt_changes_nothing(self, lost: str) -> None:
        """A worker that lost a task cannot settle it, give it back, or report its progress."""
        task = self.submit()
        claim = self.claim_one()
        match lost:
            case "owner":
                claim = claim._replace(owner="f" * 32)
            case "attempt":
                claim = claim._replace(attempt=claim.attempt + 1)
            case _:
                self.engine.give_back([claim])
                self.claim_one()
        before = self.stored(task)
        for outcome in AttemptOutcome:
            assert not self.end(claim, outcome)
        self.engine.give_back([claim])
        self.engine.record_progress([(claim, {"done": 1})])
        assert self.stored(task) == before

    def test_a_lost_attempt_among_others_leaves_them_alone(self) -> None:
        """Attempts that end together are recorded together; one that was lost is left out, and only that one."""
        tasks = [self.submit() for _ in range(3)]
        first, lost, last = self.claim()
        self.engine.give_back([lost])
        settlements = [
            self.ended(first, AttemptOutcome.COMPLETED, encoded_result=codec.encode_result("first")),
            self.ended(lost, AttemptOutcome.COMPLETED, encoded_result=codec.encode_result("lost")),
            self.ended(last, AttemptOutcome.FAILED, error=BOOM),
        ]
        assert list(self.engine.exchange(settlements, None).recorded) == [True, False, True]
        found = [self.stored(task) for task in tasks]
        assert [task.status for task in found] == [TaskStatus.COMPLETED, TaskStatus.PENDING, TaskStatus.RETRYING]
        assert [len(task.attempts) for task in found] == [1, 0, 1]
        assert found[0].result == "first"
        assert found[2].failures == 1

    def test_a_finished_task_cannot_be_settled_again(self) -> None:
        """Not even by its last worker, and not after an explicit retry."""
        task = self.submit()
        claim = self.claim_one()
        self.complete(claim, 1)
        assert not self.fail(claim)
        self.engine.retry(task.id)
        assert not self.fail(claim)
        assert self.stored(task).status is TaskStatus.PENDING

    # Cancelling and retrying by hand

    @pytest.mark.parametrize("status", [TaskStatus.PENDING, TaskStatus.SCHEDULED, TaskStatus.RETRYING])
    def test_a_waiting_task_is_cancelled_at_once(self, status: TaskStatus) -> None:
        """It never runs; asking again answers False, because it is finished."""
        task = self.in_status(status)
        assert self.engine.cancel(task.id)
        assert not self.engine.cancel(task.id)
        self.clock.advance(10_000)
        assert self.claim() == []
        found = self.stored(task)
        assert (found.status, found.cancel_requested) == (TaskStatus.CANCELLED, True)
        assert found.finished_at is not None

    @pytest.mark.parametrize("status", _FINISHED)
    def test_a_finished_task_cannot_be_cancelled(self, status: TaskStatus) -> None:
        """Its outcome stands."""
        task = self.in_status(status)
        before = self.stored(task)
        assert not self.engine.cancel(task.id)
        assert self.stored(task) == before

    def test_a_task_is_cancelled_unless_it_runs(self) -> None:
        """One that runs goes on, and nobody hears of the question."""
        running = self.submit()
        claim = self.claim_one()
        waiting = self.submit()
        assert not self.engine.cancel(running.id, unless_running=True)
        assert list(self.engine.cancel_requests(self.worker.id)) == []
        assert self.end(claim, AttemptOutcome.COMPLETED, encoded_result=codec.encode_result(1))
        assert self.stored(running).status is TaskStatus.COMPLETED
        assert self.engine.cancel(waiting.id, unless_running=True)
        assert self.stored(waiting).status is TaskStatus.CANCELLED

    @pytest.mark.parametrize("outcome", list(AttemptOutcome))
    def test_a_running_task_that_was_cancelled_ends_cancelled(self, outcome: AttemptOutcome) -> None:
        """Whatever the function did: True meant that it will not complete."""
        task = self.submit()
        claim = self.claim_one()
        assert self.engine.cancel(task.id)
        assert self.engine.cancel(task.id)
        assert self.stored(task).status is TaskStatus.RUNNING
        assert list(self.engine.cancel_requests(self.worker.id)) == [task.id]
        assert list(self.engine.cancel_requests("f" * 32)) == []
        assert self.end(claim, outcome, encoded_result=codec.encode_result(1) if outcome.value == "completed" else None)
        found = self.stored(task)
        assert (found.status, found.result) == (TaskStatus.CANCELLED, None)
        assert found.finished_at == self.clock.now()
        assert list(self.engine.cancel_requests(self.worker.id)) == []

    def test_a_cancelled_claim_that_is_given_back_ends_cancelled(self) -> None:
        """It does not go back into the line."""
        task = self.submit()
        claim = self.claim_one()
        self.engine.cancel(task.id)
        self.engine.give_back([claim])
        assert self.stored(task).status is TaskStatus.CANCELLED
        assert self.claim() == []

    @pytest.mark.parametrize("status", _FINISHED)
    def test_an_explicit_retry_starts_over(self, status: TaskStatus) -> None:
        """All retries are available again; the attempts so far stay."""
        task = self.in_status(status)
        earlier = self.stored(task).attempts
        assert self.engine.retry(task.id)
        assert not self.engine.retry(task.id)
        found = self.stored(task)
        assert (found.status, found.failures, found.cancel_requested) == (TaskStatus.PENDING, 0, False)
        assert (found.attempts, found.finished_at) == (earlier, None)
        for _ in range(task.spec.max_retries):
            self.fail(self.claim_one(), backoff_s=0.0)
        assert self.complete(self.claim_one(), "at last")
        assert self.stored(task).result == "at last"
        assert len(self.stored(task).attempts) == len(earlier) + 4

    @pytest.mark.parametrize(
        "status", [TaskStatus.PENDING, TaskStatus.SCHEDULED, TaskStatus.RETRYING, TaskStatus.RUNNING]
    )
    def test_an_unfinished_task_cannot_be_retried_by_hand(self, status: TaskStatus) -> None:
        """It has its turn coming."""
        task = self.in_status(status)
        before = self.stored(task)
        assert not self.engine.retry(task.id)
        assert self.stored(task) == before

    @pytest.mark.parametrize("target", list(TaskStatus))
    def test_the_store_refuses_an_illegal_change(self, target: TaskStatus) -> None:
        """A settlement to a status that a running task cannot take is refused whole."""
        task = self.submit()
        claim = self.claim_one()
        settlement = self.ended(claim, AttemptOutcome.FAILED, error=BOOM)._replace(status=target)
        if (TaskStatus.RUNNING, target) in TRANSITIONS:
            assert list(self.engine.exchange([settlement], None).recorded) == [True]
            assert self.stored(task).status is target
        else:
            with pytest.raises(Exception, match=r"illegal|constraint"):  # which error is the engine's own business
                self.engine.exchange([settlement], None)
            assert self.stored(task).status is TaskStatus.RUNNING
            assert self.stored(task).attempts == ()

    # Unique keys

    def submit_unique(
        self,
        key: str = "report",
        on_conflict: OnConflict = OnConflict.KEEP,
        period_s: float | None = None,
        **changes: object,
    ) -> tuple[NewTask, str]:
        """Submit one task with a unique key; return it, and the id that the submit led to."""
        task = new_task(unique=UniqueKey(key=key, period_s=period_s, on_conflict=on_conflict), **changes)
        (led_to,) = self.engine.submit([task])
        return task, led_to

    def test_a_submit_says_which_task_it_led_to(self) -> None:
        """To those that were submitted, in their order, when nothing stands in the way."""
        tasks = [new_task() for _ in range(3)]
        assert list(self.engine.submit(tasks)) == [task.id for task in tasks]
        assert list(self.engine.submit([tasks[0]])) == [tasks[0].id]

    @pytest.mark.parametrize("on_conflict", [OnConflict.KEEP, OnConflict.REPLACE])
    def test_two_submits_of_one_key_lead_to_one_task(self, on_conflict: OnConflict) -> None:
        """Whatever their queues; other keys, and tasks without one, are not concerned."""
        first, led_to = self.submit_unique()
        assert led_to == first.id
        second, led_to = self.submit_unique(on_conflict=on_conflict, queue="mail")
        assert (led_to, self.engine.get(second.id)) == (first.id, None)
        other, led_to = self.submit_unique("another")
        assert led_to == other.id
        self.submit()
        assert self.engine.counts()[TaskStatus.PENDING] == 3
        assert [self.stored(task).unique_key for task in (first, other)] == ["report", "another"]

    def test_a_conflict_can_be_an_error(self) -> None:
        """It names the key and the task that holds it, and nothing is stored."""
        first, _ = self.submit_unique()
        second = new_task(unique=UniqueKey(key="report", on_conflict=OnConflict.ERROR))
        with pytest.raises(UniqueConflict, match=f"'report' is held by task {first.id}") as refused:
            self.engine.submit([new_task(), second])
        assert (refused.value.key, refused.value.task_id) == ("report", first.id)
        assert self.engine.counts()[TaskStatus.PENDING] == 1
        self.complete(self.claim_one())
        assert list(self.engine.submit([second])) == [second.id]

    def test_a_key_is_free_when_its_task_has_finished(self) -> None:
        """Not while it is tried again, and not while it runs on after its cancellation."""
        first, _ = self.submit_unique()
        self.fail(self.claim_one())
        assert self.submit_unique()[1] == first.id
        self.clock.advance(60)
        claim = self.claim_one()
        self.engine.cancel(first.id)
        assert self.submit_unique()[1] == first.id
        self.end(claim, AttemptOutcome.CANCELLED)
        second, led_to = self.submit_unique()
        assert led_to == second.id
        self.engine.cancel(second.id)
        third, led_to = self.submit_unique()
        assert led_to == third.id

    def test_submitting_a_key_again_with_the_same_id_is_safe(self) -> None:
        """The task that is stored is the answer, finished or not, whoever holds the key by now."""
        for on_conflict in OnConflict:
            task, _ = self.submit_unique(on_conflict.value, on_conflict)
            before = self.stored(task)
            again = new_task(id=task.id, name="again", unique=task.spec.unique)
            assert list(self.engine.submit([again])) == [task.id]
            assert self.stored(task) == before
            self.complete(self.claim_one())
            self.submit_unique(on_conflict.value)
            assert list(self.engine.submit([again])) == [task.id]
            self.complete(self.claim_one())
        assert self.engine.counts()[TaskStatus.COMPLETED] == 2 * len(OnConflict)

    @pytest.mark.parametrize("status", [TaskStatus.PENDING, TaskStatus.SCHEDULED, TaskStatus.RETRYING])
    @pytest.mark.parametrize("delay_s", [None, 10, 3_600])
    def test_what_has_not_started_is_replaced(self, status: TaskStatus, delay_s: float | None) -> None:
        """By the new call with its options and its due time, with all retries; its id and its attempts stay."""
        run_at = self.clock.now() + timedelta(hours=1) if status is TaskStatus.SCHEDULED else None
        first, _ = self.submit_unique(run_at=run_at, tags=("old",), timeout_s=1.0)
        if status is TaskStatus.RETRYING:
            self.fail(self.claim_one())
        before = self.stored(first)
        assert before.status is status
        self.clock.advance(1)
        due_at = self.clock.now() + timedelta(seconds=delay_s or 0)
        second, led_to = self.submit_unique(
            on_conflict=OnConflict.REPLACE,
            name="mail",
            function="shop.mail:send",
            arguments=codec.encode_arguments(("new",), {}),
            queue="mail",
            pool=PoolKind.PROCESS,
            priority=TaskPriority.HIGH,
            run_at=None if delay_s is None else due_at,
            max_retries=7,
            stall_timeout_s=2.5,
            tags=("new",),
        )
        assert (led_to, self.engine.get(second.id)) == (first.id, None)
        assert self.stored(first) == replace(
            before,
            name="mail",
            function="shop.mail:send",
            encoded_arguments=second.arguments,
            queue="mail",
            pool=PoolKind.PROCESS,
            priority=TaskPriority.HIGH,
            status=TaskStatus.SCHEDULED if delay_s else TaskStatus.PENDING,
            due_at=due_at,
            max_retries=7,
            timeout_s=None,
            stall_timeout_s=2.5,
            tags=("new",),
            failures=0,
        )
        self.clock.advance(delay_s or 0)
        claim = self.claim(pool=PoolKind.PROCESS, queues={"mail"})[0]
        assert (claim.id, claim.arguments, claim.attempt) == (first.id, second.arguments, len(before.attempts) + 1)

    def test_what_runs_is_not_replaced(self) -> None:
        """It is kept as it is, with the claim that holds it."""
        first, _ = self.submit_unique()
        claim = self.claim_one()
        before = self.stored(first)
        assert self.submit_unique(on_conflict=OnConflict.REPLACE, name="new")[1] == first.id
        assert self.stored(first) == before
        assert self.complete(claim)

    @pytest.mark.parametrize("on_conflict", [OnConflict.KEEP, OnConflict.REPLACE])
    def test_a_task_is_as_durable_as_any_submit_of_its_key_asked_for(self, on_conflict: OnConflict) -> None:
        """Who asked for more is not let down by who came first, nor by who comes later."""
        self.submit_unique(durable=False)
        claim = self.claim_one()
        assert not claim.durable
        self.engine.give_back([claim])
        for durable in (True, False):
            self.submit_unique(on_conflict=on_conflict, durable=durable)
        assert self.claim_one().durable

    def test_a_key_can_be_held_for_a_period(self) -> None:
        """From the submit, also when the task has finished or is deleted; and to the end of the task in any case."""
        first, _ = self.submit_unique(period_s=60)
        self.clock.advance(59.999999)
        self.complete(self.claim_one())
        for on_conflict in (OnConflict.KEEP, OnConflict.REPLACE):
            assert self.submit_unique(on_conflict=on_conflict)[1] == first.id
        self.engine.delete(first.id)
        assert self.submit_unique(period_s=60)[1] == first.id
        with pytest.raises(UniqueConflict, match=first.id):
            self.submit_unique(on_conflict=OnConflict.ERROR)
        self.clock.advance(0.000001)
        second, led_to = self.submit_unique(period_s=60)
        assert led_to == second.id
        self.clock.advance(3_600)
        assert self.submit_unique()[1] == second.id
        self.complete(self.claim_one())
        third, led_to = self.submit_unique()
        assert led_to == third.id

    def test_a_replacing_submit_begins_the_period_anew(self) -> None:
        """When it asks for one; otherwise the first one stands."""
        first, _ = self.submit_unique(period_s=60)
        self.clock.advance(30)
        self.submit_unique(on_conflict=OnConflict.REPLACE, period_s=60)
        self.submit_unique(on_conflict=OnConflict.REPLACE)
        self.complete(self.claim_one())
        self.clock.advance(59)
        assert self.submit_unique()[1] == first.id
        self.clock.advance(1)
        assert self.submit_unique()[1] != first.id

    def test_expired_keys_are_pruned_and_no_others(self) -> None:
        """A key that is still held is held after it."""
        (_, early), (_, late) = self.submit_unique("early", period_s=10), self.submit_unique("late", period_s=60)
        for claim in self.claim():
            self.complete(claim)
        self.clock.advance(10)
        self.engine.prune({TaskStatus.COMPLETED: Limit(rows=0)})
        assert self.submit_unique("early")[1] != early
        assert self.submit_unique("late")[1] == late

    def test_a_retry_is_refused_while_another_task_has_the_key(self) -> None:
        """It names that task; when that has finished too, one of them may be retried."""
        first, _ = self.submit_unique()
        self.complete(self.claim_one())
        second, _ = self.submit_unique()
        with pytest.raises(UniqueConflict, match=f"'report' is held by task {second.id}"):
            self.engine.retry(first.id)
        assert not self.engine.retry(second.id)
        self.complete(self.claim_one())
        assert [self.stored(task).status for task in (first, second)] == [TaskStatus.COMPLETED] * 2
        assert self.engine.retry(first.id)
        with pytest.raises(UniqueConflict, match=first.id):
            self.engine.retry(second.id)
        assert self.submit_unique()[1] == first.id

    def test_a_retry_of_many_leaves_out_those_whose_key_is_taken(self) -> None:
        """Each is told, with the task in its way, which may be one that was retried just before."""
        tasks = []
        for _ in range(2):
            tasks.append(self.submit_unique()[0])
            self.engine.cancel(tasks[-1].id)
        other = self.in_status(TaskStatus.CANCELLED)
        told: list[tuple[str, str]] = []
        wanted = TaskFilter(statuses=frozenset({TaskStatus.CANCELLED}))
        count = self.engine.retry_all(wanted, refused=lambda task_id, why: told.append((task_id, why.task_id)))
        assert (count, told) == (2, [(tasks[1].id, tasks[0].id)])
        found = [self.stored(task).status for task in (*tasks, other)]
        assert found == [TaskStatus.PENDING, TaskStatus.CANCELLED, TaskStatus.PENDING]
        assert self.engine.retry_all(wanted) == 0

    def test_a_full_queue_refuses_no_submit_that_makes_no_task(self) -> None:
        """And every other."""
        first = new_task(unique=UniqueKey(key="report"))
        self.engine.submit([first], queue_size=1)
        for on_conflict in (OnConflict.KEEP, OnConflict.REPLACE):
            again = new_task(unique=UniqueKey(key="report", on_conflict=on_conflict))
            assert list(self.engine.submit([again], queue_size=1)) == [first.id]
        with pytest.raises(QueueFull, match="queue_size is 1"):
            self.engine.submit([new_task(unique=UniqueKey(key="another", period_s=60))], queue_size=1)
        assert self.engine.counts()[TaskStatus.PENDING] == 1
        another, led_to = self.submit_unique("another")
        assert led_to == another.id

    def test_tasks_with_and_without_keys_go_together(self) -> None:
        """One after another, all or none."""
        key = UniqueKey(key="report")
        tasks = [new_task(), new_task(unique=key), new_task(unique=key), new_task()]
        assert list(self.engine.submit(tasks)) == [tasks[n].id for n in (0, 1, 1, 3)]
        assert [claim.id for claim in self.claim()] == [tasks[n].id for n in (0, 1, 3)]

    def test_tasks_are_found_by_their_unique_key(self) -> None:
        """Finished ones too, newest first."""
        first, _ = self.submit_unique()
        self.complete(self.claim_one())
        second, _ = self.submit_unique()
        self.submit_unique("another")
        assert [task.id for task in self.engine.find(TaskFilter(unique_key="report"))] == [second.id, first.id]

    def test_a_worker_is_told_of_tasks_with_a_key(self) -> None:
        """Of new and replaced ones, not of those that a submit left as they are."""
        told: list[str] = []
        unlisten = self.engine.on_work(lambda: told.append("work"))
        self.submit_unique()
        assert len(told) == 1
        self.submit_unique()
        assert len(told) == 1
        self.submit_unique(on_conflict=OnConflict.REPLACE)
        assert len(told) == 2
        unlisten()

    # Counting and listing

    def test_counts_name_every_status(self) -> None:
        """Zeros included."""
        assert self.engine.counts() == dict.fromkeys(TaskStatus, 0)
        reached = [status for status in TaskStatus if status is not TaskStatus.WAITING]
        for status in reached:
            self.in_status(status)
        assert self.engine.counts() == {status: int(status in reached) for status in TaskStatus}

    def test_queues_are_listed_with_their_unfinished_tasks(self) -> None:
        """Every queue that ever held a task, by name."""
        self.in_status(TaskStatus.COMPLETED)
        self.submit(queue="b")
        self.submit(queue="b", run_at=self.clock.now() + timedelta(days=1))
        found = {queue.name: (dict(queue.counts), queue.paused_at) for queue in self.engine.queues()}
        assert found == {"b": ({TaskStatus.PENDING: 1, TaskStatus.SCHEDULED: 1}, None), "completed": ({}, None)}
        assert list(found) == ["b", "completed"]

    def test_find_lists_the_newest_first(self) -> None:
        """At most as many as asked for."""
        tasks = [self.submit() for _ in range(5)]
        assert [task.id for task in self.engine.find(TaskFilter())] == [task.id for task in reversed(tasks)]
        assert [task.id for task in self.engine.find(TaskFilter(limit=2))] == [tasks[4].id, tasks[3].id]

    def test_find_filters(self) -> None:
        """By status, name, queue and tag, also together."""
        done = self.in_status(TaskStatus.COMPLETED)
        mail = self.submit(name="send", queue="mail", tags=("vip", "it's"))
        other = self.submit(name="send", tags=("vip",))

        def found(**wanted: object) -> set[str]:
            return {task.id for task in self.engine.find(TaskFilter(**wanted))}  # type: ignore[arg-type]

        assert found(statuses=frozenset({TaskStatus.COMPLETED})) == {done.id}
        assert found(statuses=frozenset({TaskStatus.COMPLETED, TaskStatus.PENDING})) == {done.id, mail.id, other.id}
        assert found(name="send") == {mail.id, other.id}
        assert found(queue="mail") == {mail.id}
        assert found(tag="vip") == {mail.id, other.id}
        assert found(tag="it's") == {mail.id}
        assert found(name="send", queue="default", tag="vip") == {other.id}
        assert found(tag="vi") == set()
        assert found(name="' OR 1 = 1 --") == set()

    def test_a_step_is_stored_by_its_attempt_alone(self) -> None:
        """A worker that has lost the task changes nothing; a later attempt finds the step, and may do it again."""
        task = self.submit()
        claim = self.claim_one()
        assert self.engine.record_step(claim, "one", "a", b"[1,1]")
        self.fail(claim, backoff_s=0.0)
        assert not self.engine.record_step(claim, "two", "a", b"[1,2]")
        again = self.claim_one()
        assert [(step.name, step.attempt, step.result) for step in self.engine.steps(task.id)] == [("one", 1, 1)]
        assert self.engine.record_step(again, "one", "b", b"[1,3]")
        assert [(step.inputs, step.attempt, step.result) for step in self.engine.steps(task.id)] == [("b", 2, 3)]

    def test_steps_go_with_their_task(self) -> None:
        """And not before."""
        task = self.submit()
        claim = self.claim_one()
        self.engine.record_step(claim, "one", "a", b"[1,1]")
        self.complete(claim)
        assert len(self.engine.steps(task.id)) == 1
        self.engine.delete(task.id)
        assert self.engine.steps(task.id) == []

    def test_progress_is_shown_of_the_running_attempt_only(self) -> None:
        """The newest report; gone when the attempt has ended."""
        task = self.submit()
        claim = self.claim_one()
        assert self.stored(task).progress is None
        self.engine.record_progress([(claim, {"done": 1})])
        self.engine.record_progress([(claim, {"done": 2, "total": 4})])
        assert self.stored(task).progress == {"done": 2, "total": 4}
        self.fail(claim, backoff_s=0.0)
        assert self.stored(task).progress is None
        self.claim_one()
        assert self.stored(task).progress is None

    def test_only_finished_tasks_are_deleted(self) -> None:
        """Those that finished before the moment, with their attempts."""
        old = [self.in_status(status) for status in _FINISHED]
        self.clock.advance(10)
        moment = self.clock.now()
        kept = [self.in_status(status) for status in TaskStatus if status not in (TaskStatus.WAITING, *FINISHED)]
        recent = self.in_status(TaskStatus.COMPLETED)
        assert self.engine.delete_finished(before=moment) == 3
        assert [self.engine.get(task.id) for task in old] == [None, None, None]
        assert all(self.engine.get(task.id) for task in [*kept, recent])
        assert self.engine.delete_finished(before=moment) == 0

    def test_an_id_is_free_again_after_its_task_was_deleted(self) -> None:
        """The new task has nothing of the old one."""
        task = self.submit()
        claim = self.claim_one()
        self.complete(claim, "old")
        self.clock.advance(1)
        assert self.engine.delete_finished(before=self.clock.now()) == 1
        self.engine.submit([task])
        assert self.stored(task).attempts == ()
        assert not self.complete(claim, "old again")

    # Many at once

    def test_counts_of_what_a_filter_means(self) -> None:
        """By status, for every kind of filter; a list's limit does not matter."""
        self.in_status(TaskStatus.FAILED)
        self.in_status(TaskStatus.COMPLETED)
        self.clock.advance(60)
        moment = self.clock.now()
        for _ in range(3):
            self.submit(name="send", queue="mail", tags=("vip",))
        self.in_status(TaskStatus.COMPLETED)

        def counted(**wanted: object) -> dict[str, int]:
            counts = self.engine.counts(TaskFilter(limit=1, **wanted))  # type: ignore[arg-type]
            assert set(counts) == set(TaskStatus)
            return {status.value: count for status, count in counts.items() if count}

        assert counted() == {"failed": 1, "completed": 2, "pending": 3}
        assert counted(statuses=frozenset({TaskStatus.FAILED, TaskStatus.PENDING})) == {"failed": 1, "pending": 3}
        assert counted(name="send") == counted(queue="mail") == counted(tag="vip") == {"pending": 3}
        assert counted(submitted_before=moment) == {"failed": 1, "completed": 1}
        assert counted(finished_before=moment) == {"failed": 1, "completed": 1}
        assert counted(name="send", finished_before=moment) == {}

    def test_all_that_match_are_cancelled(self) -> None:
        """As one by one: what waits ends, what runs is asked to stop, what is finished stays as it is."""
        waiting = [self.in_status(status) for status in (TaskStatus.PENDING, TaskStatus.SCHEDULED, TaskStatus.RETRYING)]
        running = self.in_status(TaskStatus.RUNNING)
        finished = [self.in_status(status) for status in _FINISHED]
        before = [self.stored(task) for task in finished]
        assert self.engine.cancel_all(TaskFilter()) == 4
        assert {self.stored(task).status for task in waiting} == {TaskStatus.CANCELLED}
        assert self.stored(running).status is TaskStatus.RUNNING
        assert list(self.engine.cancel_requests(self.worker.id)) == [running.id]
        assert [self.stored(task) for task in finished] == before

    def test_all_that_match_are_retried(self) -> None:
        """Finished tasks start over; the others have their turn coming."""
        failed = [self.in_status(TaskStatus.FAILED) for _ in range(2)]
        others = [self.in_status(status) for status in TaskStatus if status not in _NEEDS_ANOTHER | {TaskStatus.FAILED}]
        before = [self.stored(task) for task in others]
        assert self.engine.retry_all(TaskFilter(statuses=frozenset({TaskStatus.FAILED}))) == 2
        assert [(self.stored(task).status, self.stored(task).failures) for task in failed] == [
            (TaskStatus.PENDING, 0)
        ] * 2
        assert [self.stored(task) for task in others] == before
        assert self.engine.retry_all(TaskFilter(statuses=frozenset({TaskStatus.PENDING}))) == 0

    def test_only_finished_tasks_are_deleted_with_all_that_match(self) -> None:
        """One by one too; they leave nothing behind."""
        tasks = {status: self.in_status(status) for status in TaskStatus if status not in _NEEDS_ANOTHER}
        unfinished = [task for status, task in tasks.items() if status not in FINISHED]
        assert not any(self.engine.delete(task.id) for task in unfinished)
        assert self.engine.delete(tasks[TaskStatus.FAILED].id)
        assert not self.engine.delete(tasks[TaskStatus.FAILED].id)
        assert not self.engine.delete("0" * 32)
        assert self.engine.delete_all(TaskFilter()) == 2
        assert {task.id for task in self.engine.find(TaskFilter())} == {task.id for task in unfinished}

    def test_a_change_of_many_leaves_out_what_does_not_match(self) -> None:
        """Neighbours of other names, queues, tags and ages stay as they are."""
        old = self.submit(name="send", queue="mail", tags=("vip",))
        self.clock.advance(60)
        moment = self.clock.now()
        others = [
            self.submit(name="send", queue="mail", tags=("vip",)),
            self.submit(name="other", queue="mail", tags=("vip",)),
            self.submit(name="send", tags=("vip",)),
            self.submit(name="send", queue="mail"),
        ]
        wanted = TaskFilter(name="send", queue="mail", tag="vip", submitted_before=moment)
        assert self.engine.cancel_all(wanted) == 1
        assert self.stored(old).status is TaskStatus.CANCELLED
        assert {self.stored(task).status for task in others} == {TaskStatus.PENDING}

    def test_a_change_of_very_many_says_how_far_it_is(self) -> None:
        """In batches; others are served in between, and what comes meanwhile is left alone."""
        self.engine.submit([new_task() for _ in range(1_200)])
        told: list[tuple[int, int]] = []
        late: list[NewTask] = []

        def report(done: int, total: int) -> None:
            told.append((done, total))
            late.append(self.submit())

        assert self.engine.cancel_all(TaskFilter(), report) == 1_200
        assert len(told) > 1
        assert told == sorted(told)
        assert (told[-1], {total for _, total in told}) == ((1_200, 1_200), {1_200})
        assert {self.stored(task).status for task in late} == {TaskStatus.PENDING}
        assert self.engine.delete_all(TaskFilter(), report) == 1_200

    # Pruning

    def test_finished_tasks_are_pruned_by_age(self) -> None:
        """Each status has an age of its own; what would go can be counted first."""
        old = [self.in_status(status) for status in _FINISHED]
        kept = [self.in_status(status) for status in TaskStatus if status not in _NEEDS_ANOTHER | FINISHED]
        self.clock.advance(10)
        now = self.clock.now()
        recent = self.in_status(TaskStatus.FAILED)
        limits = {
            TaskStatus.CANCELLED: Limit(before=now),
            TaskStatus.COMPLETED: Limit(before=now - timedelta(seconds=10)),  # exactly as old: it stays
            TaskStatus.FAILED: Limit(before=now),
        }
        counts = {TaskStatus.CANCELLED: 1, TaskStatus.COMPLETED: 0, TaskStatus.FAILED: 1}
        assert self.engine.prunable(limits) == counts
        assert all(self.engine.get(task.id) for task in old)
        assert self.engine.prune(limits) == counts
        assert [self.engine.get(task.id) is None for task in old] == [True, False, True]
        assert all(self.engine.get(task.id) for task in [*kept, recent])
        assert self.engine.prune(limits) == dict.fromkeys(counts, 0)

    def test_finished_tasks_are_pruned_by_number(self) -> None:
        """The newest stay, in the order in which they finished, also of those that finished at one moment."""
        tasks = [self.submit() for _ in range(6)]
        claims = self.claim()
        for claim in reversed(claims[3:]):
            self.complete(claim)
        self.clock.advance(1)
        for claim in claims[:3]:
            self.complete(claim)
        limits = {TaskStatus.COMPLETED: Limit(rows=4), TaskStatus.FAILED: Limit(rows=0)}
        assert self.engine.prunable(limits) == {TaskStatus.COMPLETED: 2, TaskStatus.FAILED: 0}
        assert self.engine.prune(limits) == {TaskStatus.COMPLETED: 2, TaskStatus.FAILED: 0}
        assert [self.engine.get(task.id) is None for task in tasks] == [False] * 3 + [True, True, False]

    def test_the_stricter_limit_counts(self) -> None:
        """Too old, or too many."""
        for _ in range(4):
            self.in_status(TaskStatus.COMPLETED)
            self.clock.advance(10)
        now = self.clock.now()
        old_and_many = {TaskStatus.COMPLETED: Limit(before=now - timedelta(seconds=35), rows=2)}
        assert self.engine.prune(old_and_many) == {TaskStatus.COMPLETED: 2}
        assert self.engine.prune({TaskStatus.COMPLETED: Limit()}) == {TaskStatus.COMPLETED: 0}
        assert self.engine.prune({TaskStatus.COMPLETED: Limit(before=now, rows=2)}) == {TaskStatus.COMPLETED: 2}

    def test_pruning_can_be_done_bit_by_bit(self) -> None:
        """At most so many at once, what finished first goes first."""
        tasks = [self.in_status(TaskStatus.CANCELLED) for _ in range(5)]
        everything = {TaskStatus.CANCELLED: Limit(rows=0)}
        assert self.engine.prune(everything, most=2) == {TaskStatus.CANCELLED: 2}
        assert [self.engine.get(task.id) is None for task in tasks] == [True, True, False, False, False]
        told: list[tuple[int, int]] = []
        pruned = self.engine.prune(everything, most=3, report=lambda *progress: told.append(progress))
        assert (pruned, told) == ({TaskStatus.CANCELLED: 3}, [(3, 3)])

    def test_free_space_is_given_back_and_nothing_else(self) -> None:
        """What is left reads as before."""
        self.engine.submit([new_task(arguments=codec.encode_arguments(("x" * 2_000,), {})) for _ in range(600)])
        kept = self.submit()
        before = self.stored(kept)
        self.engine.cancel_all(TaskFilter(submitted_before=self.clock.now() + timedelta(1)))
        self.engine.retry(kept.id)
        assert self.engine.delete_all(TaskFilter()) == 600
        told: list[tuple[int, int]] = []
        done = self.engine.vacuum(lambda *progress: told.append(progress))
        assert done.after_bytes < done.before_bytes
        assert told[-1][0] == told[-1][1]
        assert self.stored(kept).arguments == before.arguments
        assert self.engine.vacuum().before_bytes == done.after_bytes

    # Why

    def test_nothing_is_said_of_an_unknown_id(self) -> None:
        """There is nothing to explain."""
        assert list(self.engine.why("0" * 32)) == []

    @pytest.mark.parametrize("status", _FINISHED)
    def test_why_a_finished_task_does_not_run(self, status: TaskStatus) -> None:
        """How it ended, when, after how many attempts, and with what error."""
        task = self.in_status(status)
        facts = self.why(task)[ReasonCode.FINISHED]
        assert (facts["status"], facts["at"]) == (status.value, self.clock.now())
        assert facts["attempts"] == (0 if status is TaskStatus.CANCELLED else 1)
        assert facts["error"] == ("ValueError: boom" if status is TaskStatus.FAILED else None)

    def test_why_a_scheduled_task_does_not_run(self) -> None:
        """It is not due; once it is, the next pass of a worker takes it."""
        task = self.in_status(TaskStatus.SCHEDULED)
        assert self.why(task) == {ReasonCode.NOT_DUE: {"due_at": self.stored(task).due_at}}
        self.clock.advance(3_600)
        assert list(self.why(task)) == [ReasonCode.NEXT]

    def test_why_a_task_that_failed_does_not_run(self) -> None:
        """It is retried later; the last error, and how many retries it has used."""
        task = self.in_status(TaskStatus.RETRYING)
        due_at = self.clock.now() + timedelta(seconds=60)
        facts = {"due_at": due_at, "failures": 1, "max_retries": 3, "error": "ValueError: boom"}
        assert self.why(task) == {ReasonCode.RETRYING: facts}

    def test_why_a_task_of_a_paused_queue_does_not_run(self) -> None:
        """Since when, also for a task that is not due yet."""
        task = self.submit(queue="mail")
        later = self.submit(queue="mail", run_at=self.clock.now() + timedelta(hours=1))
        since = self.clock.now()
        self.engine.set_paused("mail", True)
        self.clock.advance(10)
        paused = {"queue": "mail", "since": since}
        assert self.why(task) == {ReasonCode.QUEUE_PAUSED: paused}
        assert list(self.why(later)) == [ReasonCode.NOT_DUE, ReasonCode.QUEUE_PAUSED]

    def test_why_a_task_without_a_worker_does_not_run(self) -> None:
        """Nobody is alive; nobody takes its queue; nobody has its pool. Who is gone does not count."""
        task = self.submit(queue="mail")
        self.worker.close()
        assert self.why(task) == {ReasonCode.NO_WORKER: {}}
        facts = {"queue": "mail", "workers": 1}
        for queues, excluded in ((frozenset({"other"}), frozenset[str]()), (None, frozenset({"mail"}))):
            other = self.engine.register(slots=1, queues=queues, excluded=excluded)
            assert self.why(task) == {ReasonCode.NO_WORKER_FOR_QUEUE: facts}
            other.close()
        other = self.engine.register(slots=1, queues=frozenset({"mail"}), pools={PoolKind.PROCESS: 1})
        assert self.why(task) == {ReasonCode.NO_WORKER_FOR_POOL: {**facts, "pool": "thread"}}
        other.close()

    def test_why_a_task_in_the_line_does_not_run(self) -> None:
        """All slots are busy, and how many tasks come before it; those of queues that nobody takes here do not."""
        self.worker.close()
        other = self.engine.register(slots=3, excluded=frozenset({"theirs"}), pools={PoolKind.THREAD: 2})
        for _ in range(2):
            self.submit()
        self.engine.exchange([], ClaimRequest(owner=other.id, free={PoolKind.THREAD: 2}))
        last = self.submit()
        self.submit(queue="mail", priority=TaskPriority.HIGH)
        self.submit(priority=TaskPriority.HIGH)
        self.submit(pool=PoolKind.PROCESS, priority=TaskPriority.HIGH)
        self.submit(queue="theirs", priority=TaskPriority.HIGH)
        self.submit(run_at=self.clock.now() - timedelta(seconds=1))
        self.submit()
        assert self.why(last) == {
            ReasonCode.SLOTS_BUSY: {"pool": "thread", "slots": 2},
            ReasonCode.TASKS_BEFORE: {"count": 3, "is_all": True},
        }
        other.close()

    def test_why_a_task_is_about_to_run(self) -> None:
        """Nothing holds it back."""
        assert self.engine.why(self.submit().id) == [Reason(code=ReasonCode.NEXT)]

    def test_why_a_running_task_has_not_ended(self) -> None:
        """Who runs it and since when; whether it should have stopped."""
        task = self.submit(timeout_s=5.0)
        since = self.clock.now()
        self.claim_one()
        self.clock.advance(5)
        running = {"worker": self.worker.id, "attempt": 1, "since": since}
        assert self.why(task) == {ReasonCode.RUNNING: running}
        self.clock.advance(1)
        self.engine.cancel(task.id)
        assert self.why(task) == {
            ReasonCode.RUNNING: running,
            ReasonCode.CANCEL_REQUESTED: {"since": self.clock.now()},
            ReasonCode.OVERRUN: {"timeout_s": 5.0, "since": since + timedelta(seconds=5), "pool": "thread"},
        }

    def test_why_the_task_of_a_dead_worker_does_not_run(self) -> None:
        """It waits for a live worker to take it over, and says so when there is none."""
        task = self.submit()
        self.worker.close()
        gone = self.engine.register(slots=1)
        self.engine.exchange([], ClaimRequest(owner=gone.id, free={PoolKind.THREAD: 1}))
        gone.close()
        assert list(self.why(task)) == [ReasonCode.RUNNING, ReasonCode.WORKER_DIED, ReasonCode.NO_WORKER]
        alive = self.engine.register(slots=1)
        assert list(self.why(task)) == [ReasonCode.RUNNING, ReasonCode.WORKER_DIED]
        alive.close()

    # Workers

    def test_workers_say_what_they_take(self) -> None:
        """Their queues, and the slots of each pool."""
        pools = {PoolKind.THREAD: 2, PoolKind.PROCESS: 1}
        queues = frozenset({"mail", "it's"})
        second = self.engine.register(slots=3, queues=queues, excluded=frozenset({"x"}), pools=pools)
        known = {worker.id: worker for worker in self.engine.workers()}
        first, found = known[self.worker.id], known[second.id]
        assert (first.queues, first.excluded, first.pools) == (None, frozenset(), {})
        assert (found.queues, found.excluded, found.pools) == (queues, frozenset({"x"}), pools)
        second.close()

    def test_workers_are_known_while_they_are_registered(self) -> None:
        """With their slots and how many are busy."""
        self.submit()
        self.claim_one()
        second = self.engine.register(slots=2)
        found = {worker.id: (worker.slots, worker.busy) for worker in self.engine.workers()}
        assert found == {self.worker.id: (8, 1), second.id: (2, 0)}
        second.close()
        assert [worker.id for worker in self.engine.workers()] == [self.worker.id]

    def test_spare_slots_are_for_the_worker_alone(self) -> None:
        """Others see its slots; an attempt may stand in any of both."""
        self.submit()
        second = self.engine.register(slots=1, spare_slots=2)
        (claim,) = self.engine.exchange([], ClaimRequest(owner=second.id, free={PoolKind.THREAD: 1})).claims
        second.enter_slot(2, claim)
        second.note_progress(2)
        second.leave_slot(2)
        assert {worker.id: worker.slots for worker in self.engine.workers()}[second.id] == 1
        second.close()

    def test_a_live_worker_is_never_robbed(self) -> None:
        """However long it takes, whatever the wall clock says; its outcome may be earlier than its claim."""
        task = self.submit()
        claim = self.claim_one()
        other = self.engine.register(slots=1)
        self.clock.advance(1_000_000)
        for step_s in (0, 1_000_000, -3_000_000):
            self.clock.step(step_s)
            assert not self.engine.rescue(other.id)
            assert not self.claim()
        assert self.complete(claim)
        assert self.stored(task).finished_at == self.clock.now() < claim.claimed_at
        other.close()

    def test_what_is_scheduled_follows_the_wall_clock(self) -> None:
        """Later when it is set back, at once when it is set forward or the machine was suspended beyond the moment."""
        task = self.submit(run_at=self.clock.now() + timedelta(hours=3))
        self.clock.step(-3_600)
        self.clock.advance(3 * 3_600)
        assert not self.claim()
        self.clock.step(3_600)
        assert self.claim_one().id == task.id

    def test_the_tasks_of_a_worker_that_is_gone_run_again(self) -> None:
        """The interruption is on record and uses up no retry; what the old worker says later changes nothing."""
        task = self.submit(max_retries=0)
        cancelled = self.submit()
        gone = self.engine.register(slots=1)
        request = ClaimRequest(owner=gone.id, free={PoolKind.THREAD: 2})
        lost, _ = self.engine.exchange([], request).claims
        self.engine.cancel(cancelled.id)
        gone.close()
        rescues = self.engine.rescue(self.worker.id)
        assert (rescues[0].id, rescues[0].owner, rescues[0].attempt) == (task.id, gone.id, 1)
        found = self.stored(task)
        assert (found.status, found.failures) == (TaskStatus.PENDING, 0)
        assert [(attempt.outcome, attempt.started_at) for attempt in found.attempts] == [
            (AttemptOutcome.INTERRUPTED, None)
        ]
        assert self.stored(cancelled).status is TaskStatus.CANCELLED
        assert not self.complete(lost, "too late")
        assert not self.engine.rescue(self.worker.id)
        assert self.complete(self.claim_one(), "again")
        assert self.stored(task).result == "again"

    # Being told

    def test_a_worker_is_told_of_work(self) -> None:
        """Of submits, retries, paused and resumed queues, requested cancellations and tasks that were given back."""
        told: list[str] = []
        unlisten = self.engine.on_work(lambda: told.append("work"))
        task = self.submit()
        claim = self.claim_one()
        self.engine.cancel(task.id)
        self.engine.give_back([claim])
        self.engine.retry(task.id)
        self.engine.set_paused("default", True)
        assert told == ["work"] * 5
        self.engine.set_paused("default", False)
        assert len(told) == 6
        unlisten()
        self.submit()
        assert len(told) == 6

    def test_who_waits_is_told_of_ends(self) -> None:
        """After they are stored."""
        seen: list[TaskStatus] = []
        task = self.submit()
        unlisten = self.engine.on_finished(lambda: seen.append(self.stored(task).status))
        self.complete(self.claim_one())
        cancelled = self.submit()
        self.engine.cancel(cancelled.id)
        assert seen == [TaskStatus.COMPLETED, TaskStatus.COMPLETED]
        unlisten()

    def test_who_waits_is_told_which_tasks_ended(self) -> None:
        """Where that is known; otherwise only that some did."""
        named: list[str] = []
        others: list[str] = []
        unlisten = self.engine.on_finished(lambda: others.append("some"), None, named.extend)
        first, second, third = (self.submit() for _ in range(3))
        claims = self.claim(2)
        self.engine.exchange([self.ended(claim, AttemptOutcome.COMPLETED) for claim in claims], None)
        assert named == [first.id, second.id]
        self.engine.cancel(third.id)
        assert (named[2:], others) == ([third.id], [])
        many = [self.submit() for _ in range(2)]
        self.engine.cancel_all(TaskFilter(statuses=frozenset({TaskStatus.PENDING})))
        assert others or set(named[3:]) == {task.id for task in many}
        before = (len(named), len(others))
        unlisten()
        self.submit()
        self.complete(self.claim_one())
        assert (len(named), len(others)) == before

    def test_who_waits_for_room_is_told_of_claims_and_cancellations(self) -> None:
        """They are what takes tasks out of the line; submits and ends are not."""
        told: list[str] = []
        unlisten = self.engine.on_room(lambda: told.append("room"))
        first, second = self.submit(), self.submit()
        assert told == []
        claim = self.claim(1)[0]
        assert len(told) == 1
        self.complete(claim)
        assert (len(told), claim.id) == (1, first.id)
        self.engine.cancel(second.id)
        assert len(told) == 2
        unlisten()
        self.submit()
        self.claim_one()
        assert len(told) == 2

    def test_the_statuses_of_many_are_one_look(self) -> None:
        """Unknown ids are left out."""
        pending, done = self.submit(), self.submit()
        self.engine.cancel(done.id)
        found = self.engine.statuses([pending.id, "0" * 32, done.id, 'it\'s "nothing"'])
        assert found == {pending.id: TaskStatus.PENDING, done.id: TaskStatus.CANCELLED}
        assert self.engine.statuses([]) == {}
        many = [new_task() for _ in range(1_500)]
        self.engine.submit(many)
        assert self.engine.statuses([task.id for task in many]) == {task.id: TaskStatus.PENDING for task in many}

    def test_moments_keep_their_microseconds(self) -> None:
        """No moment is rounded, near or far."""
        far = datetime.max.replace(tzinfo=self.clock.now().tzinfo)
        task = self.submit(run_at=far)
        assert self.stored(task).due_at == far
