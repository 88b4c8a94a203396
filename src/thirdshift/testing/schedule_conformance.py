"""The suite for whoever stores schedules: what ``thirdshift.core.schedule_store`` promises, as tests.

Subclass :class:`ScheduleConformance`, as the suite of ``thirdshift.testing.conformance``.
"""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from thirdshift.core import codec
from thirdshift.core.engine import ClaimRequest
from thirdshift.core.outcome import Ending, settle
from thirdshift.core.schedule import MOST_QUEUED, FireKind, Schedule
from thirdshift.core.schedule_store import FROM_CODE, Fire, NewSchedule, ScheduleState
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import AttemptOutcome, BackgroundTask, Claim, PoolKind, TaskSpec
from thirdshift.testing.clock import START
from thirdshift.testing.engine_suite import EngineSuite

_DAY_S = 86_400.0


class ScheduleConformance(EngineSuite):
    """Subclass it and define :meth:`open_engine`."""

    # What the tests say

    def new(self, schedule: Schedule, name: str = "nightly", value: int = 1, **task: object) -> NewSchedule:
        """Return a schedule of the function ``echo``."""
        spec = TaskSpec(
            name="echo", function="thirdshift.testing.functions:echo", queue="default", pool=PoolKind.THREAD
        )
        arguments = codec.encode_arguments((value,), {})
        return NewSchedule(name=name, schedule=schedule, task=replace(spec, **task), arguments=arguments)  # type: ignore[arg-type]  # as new_task

    def put(self, name: str = "nightly", value: int = 1, **rule: object) -> ScheduleState:
        """Store a schedule with that rule."""
        return self.engine.schedules.put(self.new(Schedule(**rule), name, value))  # type: ignore[arg-type]

    def now_is(self, name: str = "nightly") -> ScheduleState:
        """Return the schedule as it stands."""
        found = self.engine.schedules.find(name)
        assert found is not None, "the schedule is stored"
        return found

    def tick(self, after_s: float = 0.0) -> list[BackgroundTask | None]:
        """Let time pass, look at the schedules once, and return the tasks of what fired; ``None`` for no task."""
        self.clock.advance(after_s)
        fires = self.engine.schedules.tick().fires
        return [None if fire.task is None else self.engine.get(fire.task) for fire in fires]

    def claim(self) -> list[Claim]:
        """Claim what is to claim."""
        request = ClaimRequest(owner=self.worker.id, free={PoolKind.THREAD: 8})
        return list(self.engine.exchange([], request).claims)

    def finish(self, *claims: Claim, outcome: AttemptOutcome = AttemptOutcome.COMPLETED) -> None:
        """Let their attempts end."""
        now = self.clock.now()
        self.engine.exchange([settle(claim, Ending(outcome, now, now), 60.0) for claim in claims], None)

    def run_all(self) -> int:
        """Run what is to run; returns how many tasks that were."""
        count = 0
        while claims := self.claim():
            count += len(claims)
            self.finish(*claims)
        return count

    # Firing

    def test_a_fire_time_makes_one_task(self) -> None:
        """When it has come, not before, and not again."""
        state = self.put(every=60)
        assert state.next_at == START + timedelta(seconds=60)
        assert self.tick(59.0) == []
        (task,) = self.tick(1.0)
        assert task is not None
        assert (task.name, task.arguments, task.status) == ("echo", ((1,), {}), TaskStatus.PENDING)
        assert self.tick() == []
        assert self.now_is().next_at == START + timedelta(seconds=120)
        (fire,) = self.engine.schedules.fires(state.id, 10)
        assert (fire.nominal, fire.kind, fire.task) == (START + timedelta(seconds=60), FireKind.DUE, task.id)

    @pytest.mark.parametrize("limit_key", [None, "one"])
    def test_a_task_carries_its_fire_time(self, limit_key: str | None) -> None:
        """To the microsecond, however late it is made, in every attempt, also when the schedule is gone."""
        self.clock.advance(0.123456)
        state = self.engine.schedules.put(self.new(Schedule(every=60), limit_key=limit_key))
        nominal = START + timedelta(seconds=60.123456)
        assert state.next_at == nominal
        (task,) = self.tick(90.0)
        assert task is not None
        assert (task.schedule, task.scheduled_for) == ("nightly", nominal)
        assert self.engine.schedules.delete(state.id)
        for _ in range(2):
            (claim,) = self.claim()
            assert (claim.schedule, claim.scheduled_for) == ("nightly", nominal)
            self.finish(claim)
            self.engine.retry(task.id)

    def test_who_looks_is_told_when_the_next_one_is_due(self) -> None:
        """So that it can sleep until then; nothing while there is no active schedule."""
        assert self.engine.schedules.tick().next_at is None
        self.put(every=60)
        self.put("later", every=90)
        assert self.engine.schedules.tick().next_at == START + timedelta(seconds=60)
        self.clock.advance(60)
        assert self.engine.schedules.tick().next_at == START + timedelta(seconds=90)

    def test_once_fires_once(self) -> None:
        """Then it is over, and stored again it stays so."""
        at = START + timedelta(hours=1)
        self.put(at=at)
        assert len(self.tick(3600.0)) == 1
        self.run_all()
        assert self.now_is().state == "over"
        self.put(at=at)
        assert self.tick(_DAY_S) == []

    def test_jitter_only_puts_the_task_off(self) -> None:
        """The fire time is the rule's."""
        state = self.put(every=3600, jitter=600)
        (task,) = self.tick(3600.0)
        assert task is not None
        delay_s = (task.due_at - START).total_seconds() - 3600
        assert 0 < delay_s < 600
        assert task.status is TaskStatus.SCHEDULED
        assert self.engine.schedules.fires(state.id, 1)[0].nominal == START + timedelta(hours=1)

    def test_a_look_wakes_nobody_when_nothing_changed(self) -> None:
        """Only changes do."""
        calls: list[None] = []
        end = self.engine.schedules.on_change(lambda: calls.append(None))
        self.put(every=60)
        assert len(calls) == 1
        self.put(every=60)
        assert len(calls) == 1
        self.engine.schedules.tick()
        assert len(calls) == 1
        end()

    # Missed ones

    @pytest.mark.parametrize(
        ("missed", "hours"), [("run_once", [5]), ("skip", []), ("all", [3, 4, 5])], ids=["run_once", "skip", "all"]
    )
    def test_fire_times_of_a_downtime(self, missed: str, hours: list[int]) -> None:
        """Down for five hours and a half; the policy decides which fire times make tasks."""
        state = self.put(cron="0 * * * *", missed=missed, max_missed=3, overlap="queue")
        self.clock.advance(5.5 * 3600)
        tick = self.engine.schedules.tick()
        assert tick.missed == ["nightly"]
        assert [fire.nominal.hour for fire in tick.fires] == hours
        assert self.run_all() == len(hours)
        assert self.now_is().next_at == START + timedelta(hours=6)
        assert len(self.engine.schedules.fires(state.id, 10)) == len(hours)

    def test_what_was_missed_is_made_up_for_one_after_another(self) -> None:
        """Also where an overlap would be skipped: these do not overlap, and are not skipped."""
        self.put(cron="0 * * * *", missed="all")
        assert len(self.tick(3.5 * 3600)) == 3
        for _ in range(3):
            (claim,) = self.claim()
            self.finish(claim)
        assert self.claim() == []

    # Overlap

    def test_skip_makes_no_task_while_one_is_unfinished(self) -> None:
        """Pending, running and waiting for its retry."""
        self.put(every=60)
        self.tick(60.0)
        assert self.tick(60.0) == [None]
        (claim,) = self.claim()
        assert self.tick(60.0) == [None]
        self.finish(claim, outcome=AttemptOutcome.FAILED)
        assert self.tick(59.0) == []
        assert self.tick(1.0) == [None]
        (again,) = self.claim()
        self.finish(again)
        (task,) = self.tick(60.0)
        assert task is not None

    def test_queue_waits_for_the_one_before(self) -> None:
        """However that ends, and for all of them when there are several."""
        self.put(every=60, overlap="queue")
        self.tick(60.0)
        (first,) = self.claim()
        (second,) = self.tick(60.0)
        (third,) = self.tick(60.0)
        assert second is not None
        assert third is not None
        assert second.status is third.status is TaskStatus.WAITING
        assert self.claim() == []
        assert self.engine.cancel(second.id)
        assert self.claim() == [], "the third one waits for the first one too"
        self.finish(first)
        (claim,) = self.claim()
        assert claim.id == third.id

    def test_a_task_that_hangs_piles_up_no_mountain(self) -> None:
        """At most two hundred tasks of a schedule are unfinished."""
        self.put(every=60, overlap="queue")
        made = [task for _ in range(MOST_QUEUED + 2) for task in self.tick(60.0)]
        assert made[-2:] == [None, None]
        assert None not in made[:-2]
        (claim,) = self.claim()
        self.finish(claim)
        assert self.tick(60.0) != [None]

    def test_cancel_previous_waits_for_its_end(self) -> None:
        """The running one is told to stop; nothing starts before it has stopped."""
        self.put(every=60, overlap="cancel_previous")
        self.tick(60.0)
        (first,) = self.claim()
        (second,) = self.tick(60.0)
        assert self.engine.cancel_requests(self.worker.id) == [first.id]
        assert self.claim() == []
        (third,) = self.tick(60.0)
        assert second is not None
        assert third is not None
        assert self.engine.status(second.id) is TaskStatus.CANCELLED
        self.finish(first, outcome=AttemptOutcome.CANCELLED)
        (claim,) = self.claim()
        assert claim.id == third.id

    def test_a_retry_waits_for_the_unfinished_one(self) -> None:
        """Somebody wants a failed run again while the next one is under way: two never run at once."""
        self.put(every=60)
        self.tick(60.0)
        (first,) = self.claim()
        self.finish(first)
        (second,) = self.tick(60.0)
        assert second is not None
        assert self.engine.retry(first.id)
        assert self.engine.status(first.id) is TaskStatus.WAITING
        (claim,) = self.claim()
        assert claim.id == second.id
        self.finish(claim)
        assert [again.id for again in self.claim()] == [first.id]

    def test_a_retry_is_not_waited_for_in_a_circle(self) -> None:
        """What waits for the task itself opens no way around it: all run, one after another."""
        self.put(every=60, overlap="queue")
        self.tick(60.0)
        (first,) = self.claim()
        self.tick(60.0)
        self.tick(60.0)
        self.finish(first)
        (second,) = self.claim()
        assert self.engine.retry(first.id)
        self.finish(second)
        assert self.engine.retry(second.id)
        for _ in range(3):
            (claim,) = self.claim()
            self.finish(claim)
        assert self.claim() == []

    # Clocks that are set

    def test_a_clock_that_is_set_back_fires_nothing_twice(self) -> None:
        """A day back: what has fired does not fire again, and goes on when that day is over."""
        self.put(cron="0 * * * *", overlap="queue")
        fired = {fire.nominal for _ in range(30) for fire in self._hour()}
        self.clock.step(-_DAY_S)
        for _ in range(24):
            assert self._hour() == []
        assert len(fired) == 30
        assert [fire.nominal for fire in self._hour()] == [START + timedelta(hours=31)]

    def _hour(self) -> list[Fire]:
        self.clock.advance(3600)
        fires = list(self.engine.schedules.tick().fires)
        self.run_all()
        return fires

    def test_a_clock_that_was_wrong_for_years_holds_nothing_up(self) -> None:
        """Set forward by seventy years, and right again: the next fire time is today's."""
        self.put(cron="0 * * * *", overlap="queue")
        self.put("often", every=1800, overlap="queue")
        self.clock.step(70 * 365 * _DAY_S)
        assert len(self.tick()) == 2
        self.run_all()
        self.clock.step(-70 * 365 * _DAY_S)
        assert self.tick() == []
        assert self.now_is().next_at == START + timedelta(hours=1)
        assert self.now_is("often").next_at == START + timedelta(minutes=30)
        assert len(self.tick(3600.0)) == 2

    # Managing

    def test_the_same_definition_again_changes_nothing(self) -> None:
        """An application says it at each start."""
        before = self.put(every=3600)
        self.clock.advance(1800)
        assert self.put(every=3600) == before

    def test_another_definition_takes_its_place(self) -> None:
        """Other arguments at the next fire time, another rule from now on."""
        before = self.put(every=3600)
        self.clock.advance(1800)
        after = self.put(every=3600, value=2)
        assert (after.id, after.next_at) == (before.id, before.next_at)
        (task,) = self.tick(1800.0)
        assert task is not None
        assert task.arguments == ((2,), {})
        changed = self.put(every=60, value=2)
        assert changed.next_at == self.clock.now() + timedelta(seconds=60)

    def test_a_paused_schedule_does_not_fire(self) -> None:
        """What was due meanwhile is not made up for; a new definition does not resume it."""
        state = self.put(cron="0 * * * *", missed="all")
        assert self.engine.schedules.set_paused(state.id, True)
        assert not self.engine.schedules.set_paused(state.id, True)
        self.put(cron="30 * * * *", missed="all")
        assert self.now_is().state == "paused"
        assert self.tick(_DAY_S) == []
        assert self.engine.schedules.set_paused(state.id, False)
        assert self.tick() == []
        assert self.now_is().next_at == START + timedelta(days=1, minutes=30)

    def test_an_ended_schedule_makes_no_more_tasks(self) -> None:
        """It can be looked at, and begins anew when it is stored again."""
        state = self.put(every=60)
        assert self.engine.schedules.end(state.id)
        assert not self.engine.schedules.end(state.id)
        assert self.tick(600.0) == []
        assert self.now_is().state == "ended"
        self.put(every=60)
        assert len(self.tick(60.0)) == 1

    def test_a_deleted_schedule_is_gone_and_its_tasks_go_on(self) -> None:
        """Nothing is left of its list of fires."""
        state = self.put(every=60)
        self.tick(60.0)
        assert self.engine.schedules.delete(state.id)
        assert not self.engine.schedules.delete(state.id)
        assert self.engine.schedules.find("nightly") is None
        assert self.engine.schedules.fires(state.id, 10) == []
        assert self.run_all() == 1

    def test_made_again_at_the_moment_it_fired_it_is_another_schedule(self) -> None:
        """Both make a task of their own for that moment."""
        old = self.put(at=START)
        (before,) = self.tick()
        self.engine.schedules.delete(old.id)
        new = self.put(at=START)
        (after,) = self.tick()
        assert new.id != old.id
        assert before is not None
        assert after is not None
        assert before.id != after.id

    def test_run_now_fires_beside_the_rule(self) -> None:
        """Also a paused one, twice in one moment, and by the rule for overlaps."""
        state = self.put(every=3600, overlap="queue")
        self.engine.schedules.set_paused(state.id, True)
        fires = [self.engine.schedules.run_now(state.id) for _ in range(2)]
        assert [fire is not None and fire.kind for fire in fires] == [FireKind.MANUAL] * 2
        assert self.run_all() == 2
        assert self.engine.schedules.run_now("f" * 32) is None

    def test_schedules_that_a_source_names_no_more_are_deleted(self) -> None:
        """Those of others stay."""
        self.put("call", every=60)
        schedules = self.engine.schedules
        for name in ("a", "b"):
            schedules.put(replace(self.new(Schedule(every=60), name), source=FROM_CODE))
        assert schedules.keep_only(FROM_CODE, ["b"]) == ["a"]
        assert [state.name for state in schedules.all()] == ["b", "call"]

    def test_schedules_outlive_the_engine(self, tmp_path: Path) -> None:
        """What was due meanwhile is found at the next look."""
        self.put(every=60)
        self.worker.close()
        self.engine.close()
        self.clock.advance(3600)
        self.engine = self.open_engine(tmp_path, self.clock)
        self.worker = self.engine.register(slots=8)
        assert len(self.tick()) == 1

    def test_old_fires_are_forgotten(self) -> None:
        """The newest hundred, and those of two days, stay."""
        state = self.put(cron="0 0 * * *", overlap="queue")
        for _ in range(150):
            self.tick(_DAY_S)
            self.run_all()
        assert len(self.engine.schedules.fires(state.id, 1000)) <= 102
