"""What an engine promises whose tasks can wait for others, in addition to ``thirdshift.testing.conformance``.

Subclass :class:`DependencyConformance` instead of ``EngineConformance``: it has the tests of both.
"""

from datetime import timedelta

import pytest

from thirdshift.core import codec
from thirdshift.core.dependency import Dependency, DependencyState, Need, ResultOf
from thirdshift.core.engine import TaskFilter
from thirdshift.core.errors import DependencyCycle, ParentNotFound, ParentsFailed, QueueFull, StillNeeded
from thirdshift.core.pruning import Limit
from thirdshift.core.reason import ReasonCode
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import AttemptOutcome, Claim, NewTask, OnConflict, UniqueKey
from thirdshift.testing.conformance import BOOM, EngineConformance
from thirdshift.testing.tasks import new_task

PENDING, SCHEDULED, WAITING = TaskStatus.PENDING, TaskStatus.SCHEDULED, TaskStatus.WAITING
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED


def on(*parents: NewTask, need: Need = Need.SUCCESS) -> tuple[Dependency, ...]:
    """Return the dependencies of a task that waits for *parents*."""
    return tuple(Dependency(parent.id, need) for parent in parents)


def after_any(*parents: NewTask) -> tuple[Dependency, ...]:
    """Return the dependencies of a task that waits for the end of *parents*, however it is."""
    return on(*parents, need=Need.ANY)


class DependencyConformance(EngineConformance):
    """Subclass it and define :meth:`open_engine`."""

    # What the tests say

    def status(self, task: NewTask) -> TaskStatus:
        """Return the status of *task*."""
        return self.stored(task).status

    def finish(self, task: NewTask, status: TaskStatus, value: object = None) -> None:
        """Bring *task*, which is the next to be claimed, to its end."""
        if status is CANCELLED:
            assert self.engine.cancel(task.id)
            return
        claim = self.claim_of(task)
        if status is COMPLETED:
            assert self.complete(claim, value)
        else:
            assert self.end(claim._replace(failures=claim.max_retries), AttemptOutcome.FAILED, error=BOOM)

    def claim_of(self, task: NewTask) -> Claim:
        """Claim *task*, which is the next."""
        (claim,) = self.claim(1)
        assert claim.id == task.id
        return claim

    # Waiting

    def test_a_task_runs_when_those_it_waits_for_have_completed(self) -> None:
        """Not before the last of them; then with the next claim."""
        first, second = self.submit(), self.submit()
        child = self.submit(after=on(first, second))
        assert self.status(child) is WAITING
        self.finish(first, COMPLETED)
        assert self.status(child) is WAITING
        claim = self.claim_of(second)
        assert self.claim() == []
        passed = self.exchange(self.ended(claim, AttemptOutcome.COMPLETED))
        assert [each.id for each in passed.claims] == [child.id], "it is claimed in the transaction that releases it"

    def test_a_released_task_is_due_from_then_on(self) -> None:
        """Its place in the line and the age of the queue count from its release."""
        parent = self.submit()
        child = self.submit(after=on(parent))
        claim = self.claim_of(parent)
        self.clock.advance(30)
        before = self.submit()
        self.clock.advance(30)
        self.complete(claim)
        assert self.stored(child).due_at == self.clock.now()
        assert [each.id for each in self.claim()] == [before.id, child.id]

    def test_a_later_moment_is_waited_for_too(self) -> None:
        """Both have to be there: the end of the parent, and the moment."""
        parent = self.submit()
        run_at = self.clock.now() + timedelta(hours=1)
        child = self.submit(after=on(parent), run_at=run_at)
        self.finish(parent, COMPLETED)
        assert (self.status(child), self.stored(child).due_at) == (SCHEDULED, run_at)
        self.clock.advance(3600)
        self.claim_of(child)

    def test_who_waits_for_any_end_runs_after_each(self) -> None:
        """Completed, failed or cancelled."""
        for status in (COMPLETED, FAILED, CANCELLED):
            parent = self.submit()
            child = self.submit(after=after_any(parent))
            self.finish(parent, status)
            self.finish(child, COMPLETED)

    def test_an_attempt_that_is_no_end_releases_nobody(self) -> None:
        """A failure with retries left, a snooze, an interruption."""
        parent = self.submit()
        child = self.submit(after=after_any(parent))
        for outcome in (AttemptOutcome.FAILED, AttemptOutcome.SNOOZED, AttemptOutcome.INTERRUPTED):
            self.end(self.claim_of(parent), outcome, backoff_s=0.0)
            assert self.status(child) is WAITING

    def test_parents_that_have_finished_already_are_not_waited_for(self) -> None:
        """A child of completed tasks is pending at once."""
        parent = self.submit()
        self.finish(parent, COMPLETED)
        assert self.status(self.submit(after=on(parent))) is PENDING
        assert self.status(self.submit(after=after_any(parent))) is PENDING

    def test_a_child_of_a_failed_task_is_cancelled_at_once(self) -> None:
        """It is stored, so that a retry of the parent opens it."""
        parent = self.submit()
        self.finish(parent, FAILED)
        child = self.submit(after=on(parent))
        found = self.stored(child)
        assert (found.status, found.cancelled_by) == (CANCELLED, parent.id)
        assert self.engine.retry(parent.id)
        assert self.status(child) is WAITING

    def test_one_submit_stores_whole_graphs(self) -> None:
        """In one commit: each may wait for those before it."""
        first = new_task()
        middle = [new_task(after=on(first)) for _ in range(3)]
        last = new_task(after=on(*middle))
        self.engine.submit([first, *middle, last])
        self.finish(first, COMPLETED)
        for each in middle:
            assert self.status(last) is WAITING
            self.finish(each, COMPLETED)
        self.finish(last, COMPLETED)

    def test_ten_thousand_wait_for_one_and_one_for_them(self) -> None:
        """Fan-out and fan-in: no number of relatives makes an end slow or loses one."""
        first = new_task()
        shared = new_task(after=on(first)).spec
        many = [new_task()._replace(spec=shared) for _ in range(10_000)]
        last = new_task(after=on(*many))
        self.engine.submit([first, *many, last])
        self.finish(first, COMPLETED)
        assert self.engine.counts()[PENDING] == 10_000
        claims = self.claim(10_000)
        for start in range(0, 10_000, 500):
            assert self.status(last) is WAITING
            batch = [self.ended(claim, AttemptOutcome.COMPLETED) for claim in claims[start : start + 500]]
            assert all(self.engine.exchange(batch, None).recorded)
        self.finish(last, COMPLETED)

    # Failing

    def test_the_end_of_a_parent_cancels_all_that_can_never_run(self) -> None:
        """However far down; who waits for any end runs instead."""
        for status in (FAILED, CANCELLED):
            parent = self.submit()
            child = self.submit(after=on(parent))
            grandchild = self.submit(after=on(child))
            tidy_up = self.submit(after=after_any(grandchild))
            self.finish(parent, status)
            assert [self.status(each) for each in (child, grandchild)] == [CANCELLED, CANCELLED]
            assert (self.stored(child).cancelled_by, self.stored(grandchild).cancelled_by) == (parent.id, child.id)
            self.finish(tidy_up, COMPLETED)

    def test_a_chain_of_thousands_is_cancelled_at_once(self) -> None:
        """And opened again by one retry."""
        chain = [new_task()]
        for _ in range(3_000):
            chain.append(new_task(after=on(chain[-1])))
        self.engine.submit(chain)
        self.finish(chain[0], FAILED)
        assert self.engine.counts()[CANCELLED] == 3_000
        assert self.engine.retry(chain[0].id)
        assert self.engine.counts()[WAITING] == 3_000
        assert self.engine.cancel(chain[0].id)
        assert self.engine.counts()[CANCELLED] == 3_001

    def test_a_worker_that_kills_its_task_for_good_cancels_who_needs_it(self) -> None:
        """Every way to an end counts: here a function that nobody can find."""
        parent = self.submit(function="gone:gone")
        child = self.submit(after=on(parent))
        claim = self.claim_of(parent)
        self.engine.decline([(claim, BOOM)], timedelta(0))
        assert (self.status(parent), self.status(child)) == (FAILED, CANCELLED)

    def test_a_cancelled_attempt_that_is_given_back_cancels_who_needs_it(self) -> None:
        """The worker stops before the function was called."""
        parent = self.submit()
        child = self.submit(after=on(parent))
        claim = self.claim_of(parent)
        assert self.engine.cancel(parent.id)
        self.engine.give_back([claim])
        assert (self.status(parent), self.status(child)) == (CANCELLED, CANCELLED)

    # Again

    def test_a_retry_opens_what_the_failing_had_cancelled(self) -> None:
        """All of it waits again, and runs when the parent has completed this time."""
        parent = self.submit()
        child = self.submit(after=on(parent))
        grandchild = self.submit(after=on(child))
        self.finish(parent, FAILED)
        assert self.engine.retry(parent.id)
        assert [self.status(each) for each in (parent, child, grandchild)] == [PENDING, WAITING, WAITING]
        assert self.stored(child).cancelled_by is None
        for each in (parent, child, grandchild):
            self.finish(each, COMPLETED)

    def test_a_retry_does_not_open_what_another_parent_keeps_closed(self) -> None:
        """It opens with the last of them."""
        one, other = self.submit(), self.submit()
        child = self.submit(after=on(one, other))
        self.finish(one, FAILED)
        self.finish(other, FAILED)
        assert self.engine.retry(one.id)
        assert self.status(child) is CANCELLED
        assert self.engine.retry(other.id)
        assert self.status(child) is WAITING
        self.finish(one, COMPLETED)
        self.finish(other, COMPLETED)
        self.finish(child, COMPLETED)

    def test_a_retry_leaves_alone_what_people_have_cancelled(self) -> None:
        """They meant it."""
        parent = self.submit()
        child = self.submit(after=on(parent))
        self.engine.cancel(child.id)
        self.finish(parent, FAILED)
        assert self.engine.retry(parent.id)
        assert self.status(child) is CANCELLED

    def test_a_retry_of_a_child_waits_for_parents_that_run_again(self) -> None:
        """A finished child, whatever it was."""
        parent = self.submit()
        child = self.submit(after=on(parent))
        self.finish(parent, COMPLETED)
        self.finish(child, FAILED)
        assert self.engine.retry(parent.id)
        assert self.engine.retry(child.id)
        assert self.status(child) is WAITING
        self.finish(parent, COMPLETED)
        self.finish(child, COMPLETED)

    def test_a_retry_of_a_child_whose_parent_has_failed_is_refused(self) -> None:
        """By name; among many it is left out and told."""
        parent = self.submit()
        child = self.submit(after=on(parent))
        self.finish(parent, FAILED)
        with pytest.raises(ParentsFailed, match=parent.id):
            self.engine.retry(child.id)
        told: list[str] = []
        wanted = TaskFilter(statuses=frozenset({CANCELLED}))
        assert self.engine.retry_all(wanted, refused=lambda task_id, _: told.append(task_id)) == 0
        assert (told, self.status(child)) == ([child.id], CANCELLED)

    def test_a_retry_does_not_open_a_task_whose_key_is_taken(self) -> None:
        """One unfinished task has a key, also now."""
        parent = self.submit()
        children = [self.submit(after=on(parent), unique=UniqueKey(key="a"))]
        self.finish(parent, FAILED)
        children.append(self.submit(after=on(parent), unique=UniqueKey(key="a")))
        assert [self.status(child) for child in children] == [CANCELLED, CANCELLED]
        assert self.engine.retry(parent.id)
        assert sorted(self.status(child).value for child in children) == ["cancelled", "waiting"]

    def test_parents_that_run_again_are_waited_for_by_those_that_still_wait(self) -> None:
        """What is released already stays so."""
        one, other = self.submit(), self.submit()
        waiting, released = self.submit(after=on(one, other)), self.submit(after=on(one))
        self.finish(one, COMPLETED)
        assert self.engine.retry(one.id)
        (claim,) = [claim for claim in self.claim(2) if claim.id == other.id]
        self.complete(claim)
        assert (self.status(waiting), self.status(released)) == (WAITING, PENDING)

    # Refusals

    def test_a_parent_has_to_be_there(self) -> None:
        """Nothing of the submit is stored."""
        missing = new_task()
        with pytest.raises(ParentNotFound, match=missing.id):
            self.engine.submit([new_task(), new_task(after=on(missing))])
        assert sum(self.engine.counts().values()) == 0

    def test_the_same_id_again_changes_no_dependency(self) -> None:
        """Submitting again after an unknown outcome is safe."""
        parent, other = self.submit(), self.submit()
        child = self.submit(after=on(parent))
        self.engine.submit([child])
        self.engine.submit([child._replace(spec=new_task(after=on(other)).spec)])
        assert [each.id for each in self.engine.relatives(child.id).parents] == [parent.id]

    def test_nobody_waits_for_itself(self) -> None:
        """A replacement could close a circle; it is refused, and nothing is changed."""
        key = UniqueKey(key="a", on_conflict=OnConflict.REPLACE)
        first = self.submit(unique=key)
        second = self.submit(after=on(first))
        third = self.submit(after=on(second))
        for parent in (first, second, third):
            with pytest.raises(DependencyCycle, match=first.id):
                self.submit(unique=key, after=on(parent))
        assert [self.status(each) for each in (first, second, third)] == [PENDING, WAITING, WAITING]

    def test_a_replacement_waits_for_what_it_says(self) -> None:
        """And for nothing that the call before it said."""
        key = UniqueKey(key="a", on_conflict=OnConflict.REPLACE)
        one, other = self.submit(queue="parents"), self.submit(queue="parents")
        task = self.submit(unique=key)
        assert self.engine.submit([new_task(unique=key, after=on(one))]) == [task.id]
        assert self.status(task) is WAITING
        assert self.engine.submit([new_task(unique=key, after=on(other))]) == [task.id]
        assert [each.id for each in self.engine.relatives(task.id).parents] == [other.id]
        assert self.engine.submit([new_task(unique=key)]) == [task.id]
        assert self.status(task) is PENDING

    def test_what_waits_counts_as_queued(self) -> None:
        """A full queue is full of it too."""
        parent = self.submit()
        self.submit(after=on(parent))
        with pytest.raises(QueueFull):
            self.engine.submit([new_task(after=on(parent))], queue_size=2)

    def test_what_waits_is_no_work_of_its_own(self) -> None:
        """Who empties a queue waits for its parents, and not for those of other queues."""
        parent = self.submit(queue="other")
        child = self.submit(after=on(parent))
        assert self.engine.has_work(None, set())
        assert not self.engine.has_work({"default"}, set())
        claim = self.claim_of(parent)
        self.complete(claim)
        assert self.engine.has_work({"default"}, set())
        self.finish(child, COMPLETED)

    # Staying

    def test_a_parent_stays_while_a_dependant_is_unfinished(self) -> None:
        """Whoever would delete it: it may hold the result that the dependant needs."""
        parent = self.submit()
        child = self.submit(after=on(parent))
        self.finish(parent, COMPLETED)
        self.clock.advance(60)
        with pytest.raises(StillNeeded, match=child.id):
            self.engine.delete(parent.id)
        told: list[str] = []
        assert self.engine.delete_all(TaskFilter(), refused=lambda task_id, _: told.append(task_id)) == 0
        limits = {COMPLETED: Limit(before=self.clock.now())}
        assert self.engine.delete_finished(before=self.clock.now()) == 0
        assert self.engine.prune(limits) == {COMPLETED: 0}
        assert (told, self.status(parent)) == ([parent.id], COMPLETED)
        self.finish(child, COMPLETED)
        self.clock.advance(1)
        assert self.engine.prune({COMPLETED: Limit(before=self.clock.now())}) == {COMPLETED: 2}

    def test_a_finished_child_may_go_before_its_parent_and_after_it(self) -> None:
        """Nothing is left of either."""
        for order in ((0, 1), (1, 0)):
            parent = self.submit()
            child = self.submit(after=on(parent))
            self.finish(parent, COMPLETED)
            self.finish(child, COMPLETED)
            assert all(self.engine.delete((parent, child)[index].id) for index in order)

    def test_a_child_whose_parents_are_gone_can_be_retried(self) -> None:
        """It waits for nobody any more."""
        parent = self.submit()
        child = self.submit(after=on(parent))
        self.finish(parent, FAILED)
        assert self.engine.delete(parent.id)
        assert self.engine.retry(child.id)
        self.finish(child, COMPLETED)

    # Results

    def test_the_result_of_a_parent_is_handed_on(self) -> None:
        """Wherever it stands in the arguments, as the parent returned it."""
        parent = self.submit()
        arguments = codec.encode_arguments((ResultOf(parent.id), [1, ResultOf(parent.id)]), {"x": ResultOf(parent.id)})
        child = self.submit(after=on(parent), arguments=arguments)
        self.finish(parent, COMPLETED, {"at": {"ä", "ö"}})
        value = {"at": {"ä", "ö"}}
        assert codec.decode_arguments(self.claim_of(child).arguments) == ((value, [1, value]), {"x": value})

    def test_no_result_is_handed_on_as_none(self) -> None:
        """Of one that did not complete, where any end is enough."""
        parent = self.submit()
        child = self.submit(after=after_any(parent), arguments=codec.encode_arguments((ResultOf(parent.id),), {}))
        self.finish(parent, FAILED)
        assert codec.decode_arguments(self.claim_of(child).arguments) == ((None,), {})

    def test_a_result_that_is_gone_is_an_error_and_not_a_value(self) -> None:
        """A child that is retried after its parent was deleted."""
        parent = self.submit()
        child = self.submit(after=on(parent), arguments=codec.encode_arguments((ResultOf(parent.id),), {}))
        self.finish(parent, COMPLETED, 1)
        self.finish(child, FAILED)
        assert self.engine.delete(parent.id)
        assert self.engine.retry(child.id)
        with pytest.raises(codec.DecodeError, match=f"the result of task {parent.id} is not there any more"):
            codec.decode_arguments(self.claim_of(child).arguments)

    def test_results_that_are_too_large_together_are_an_error(self) -> None:
        """Before they fill the memory of the worker."""
        many = [new_task() for _ in range(70)]
        last = new_task(after=on(*many), arguments=codec.encode_arguments(([ResultOf(each.id) for each in many],), {}))
        self.engine.submit([*many, last])
        for each in many:
            self.finish(each, COMPLETED, "x" * 950_000)
        with pytest.raises(codec.DecodeError, match=r"the results handed on take 66,.* bytes; the limit is 64,000,000"):
            codec.decode_arguments(self.claim_of(last).arguments)

    # Telling

    def test_relatives_are_told(self) -> None:
        """Both ways, with what is needed and how far it is."""
        one, other = self.submit(name="one"), self.submit(name="other")
        child = self.submit(name="child", after=on(one) + after_any(other))
        self.finish(one, COMPLETED)
        found = self.engine.relatives(child.id)
        assert [tuple(each) for each in found.parents] == [
            (one.id, "one", COMPLETED, Need.SUCCESS, DependencyState.MET),
            (other.id, "other", PENDING, Need.ANY, DependencyState.OPEN),
        ]
        assert [each.id for each in self.engine.relatives(other.id).dependants] == [child.id]
        assert self.engine.relatives("0" * 32) == ((), ())

    def test_why_names_what_is_waited_for(self) -> None:
        """The first of them, and how many there are."""
        parents = [new_task(name="part") for _ in range(12)]
        child = new_task(after=on(*parents))
        self.engine.submit([*parents, child])
        facts = self.why(child)[ReasonCode.WAITING]
        assert (facts["count"], len(facts["parents"])) == (12, 10)
        assert facts["parents"][0] == {"id": parents[0].id, "name": "part", "status": "pending"}

    def test_why_names_the_task_whose_end_it_was(self) -> None:
        """The first of those that were cancelled one for another."""
        parent = self.submit(name="first")
        child = self.submit(after=on(parent))
        grandchild = self.submit(after=on(child))
        self.finish(parent, FAILED)
        assert self.why(parent)[ReasonCode.FINISHED]["cause"] is None
        cause = self.why(grandchild)[ReasonCode.FINISHED]["cause"]
        assert cause == {"id": parent.id, "name": "first", "status": "failed"}

    def test_who_waits_for_a_cancelled_dependant_is_woken(self) -> None:
        """Not only who waits for the task that was cancelled."""
        named: list[str] = []
        others: list[str] = []
        work: list[str] = []
        ends = [
            self.engine.on_finished(lambda: others.append("some"), None, named.extend),
            self.engine.on_work(lambda: work.append("some")),
        ]
        parent = self.submit()
        self.submit(after=on(parent))
        self.submit(after=after_any(parent))
        work.clear()
        self.engine.cancel(parent.id)
        assert (named, others, work) == ([], ["some"], ["some"])
        for end in ends:
            end()

    def test_other_workers_are_woken_for_what_is_released(self) -> None:
        """The worker that ends a task may have no slot for those that waited."""
        parent = self.submit()
        self.submit(after=on(parent))
        claim = self.claim_of(parent)
        work: list[str] = []
        end = self.engine.on_work(lambda: work.append("some"))
        self.complete(claim)
        assert work == ["some"]
        end()
