"""Tasks that run in the calling thread, so that a test knows when they are over; on the real store, by the real worker.

Inside :func:`inline` a submit runs its function at once, with its retries, on a store of its own that is thrown away.
:func:`get_task_manager` and :func:`submit_background_task` use it too, so code that submits can be tested as it is::

    def test_signing_up_sends_a_mail():
        with inline() as manager:
            sign_up("a@example.org")                       # submits send_mail
            (task,) = manager.find_tasks()
            assert (task.name, task.result) == ("send_mail", "sent")

:func:`run_until_idle` runs what is due of a manager that only submits, one attempt after another in the order in which
a worker would start them, and returns what ran. A clock that is turned by hand makes time pass::

    def test_a_reminder_comes_after_a_day(tmp_path):
        clock = FakeClock()
        with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False, clock=clock) as manager:
            manager.options(run_at=clock.now() + timedelta(days=1)).submit(remind, "a@example.org")
            assert run_until_idle(manager) == []
            assert [task.name for task in run_until_idle(manager, advance=clock)] == ["remind"]

Schedules never end, so no time passes for their sake there: they fire when their moment has come, as at a worker. With
:func:`run_for` time passes, and everything happens moment by moment::

    def test_the_report_is_made_every_night(tmp_path):
        with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False, clock=FakeClock()) as manager:
            manager.schedule_task_cron(report, "0 3 * * *", name="nightly")
            assert [task.scheduled_for.hour for task in run_for(manager, timedelta(days=2))] == [3, 3]

Functions of every pool run here, so a process pool kills nothing and no time limit is kept. A retry waits its longest
backoff; ``Retry(after=…)`` and ``Snooze`` as long as they say.
"""

import contextvars
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from thirdshift.core.clock import Clock
from thirdshift.core.engine import Registration, TaskFilter
from thirdshift.core.errors import UsageError
from thirdshift.core.events import AttemptsClaimed, AttemptsSettled, Event
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import BackgroundTask, Claim, NewTask, PoolKind
from thirdshift.manager import BackgroundTaskManager, stand_in
from thirdshift.monitor.logs import log_event
from thirdshift.runtime.pools.pool import AttemptSink, Running
from thirdshift.runtime.pools.slots import Runner, Slot, SlotPool
from thirdshift.runtime.pools.threads import ThreadRunner
from thirdshift.runtime.scheduler import Scheduler
from thirdshift.runtime.worker import Worker
from thirdshift.testing.clock import FakeClock

R = TypeVar("R")

_MOST = 1_000
_DEEPEST = 10
_LATER = frozenset({TaskStatus.SCHEDULED, TaskStatus.RETRYING})
_ALL = 2**31


@contextmanager
def inline(**options: Any) -> Iterator[BackgroundTaskManager]:
    """Give a manager whose submits run at once; inside the block it is the application's shared one too.

    *options* are those of :class:`BackgroundTaskManager`. A task that is due later, or whose queue is paused, stays as
    it is; :func:`run_until_idle` runs it. Waiting for what has not run raises ``WaitTimeout`` at once.
    """
    with tempfile.TemporaryDirectory(prefix="thirdshift-inline-") as folder:
        clock = options.pop("clock", None) or FakeClock()
        with _InlineManager(Path(folder), clock, options) as manager, stand_in(manager):
            yield manager


def run_until_idle(
    manager: BackgroundTaskManager, *, advance: FakeClock | None = None, most: int = _MOST
) -> list[BackgroundTask]:
    """Run what is due in the calling thread until nothing is; return each attempt's task as it stood right after it.

    *manager* was made with ``start=False``. With *advance*, the manager's clock, time jumps to the next due moment
    whenever nothing is left to run, until no task is due later either. A schedule whose fire time has passed by then
    fires as its rule for missed ones says. Raises ``RuntimeError`` when *most* attempts have run and there is still
    work.
    """

    def next_task() -> list[BackgroundTask]:
        return list(manager.find_tasks(TaskFilter(statuses=_LATER, limit=_ALL)))

    return _run(manager, lambda: advance is not None and _jump(advance, next_task()), _Limit(most), has_schedules=True)


def run_for(manager: BackgroundTaskManager, span: timedelta | float, *, most: int = _MOST) -> list[BackgroundTask]:
    """Let *span* (seconds or a ``timedelta``) pass, and run in the calling thread all that becomes due meanwhile.

    *manager* was made with ``start=False`` and a :class:`FakeClock`, which goes from one moment to the next: retries,
    tasks for later, and every fire time of every schedule. Returns and raises what :func:`run_until_idle` does.
    """
    clock = manager.clock
    if not isinstance(clock, FakeClock):
        raise UsageError(f"nobody can turn the clock of {manager!r}; make the manager of a test with clock=FakeClock()")
    length = span if isinstance(span, timedelta) else timedelta(seconds=span)
    if length < timedelta(0):
        raise UsageError(f"{length.total_seconds():g} seconds cannot pass; clock.step() sets a wall clock back")
    end = clock.now() + length

    def step() -> bool:
        now = clock.now()
        if now >= end:
            return False
        tasks = manager.find_tasks(TaskFilter(statuses=_LATER, limit=_ALL))
        fires = [state.next_at for state in manager.schedules.all() if state.next_at is not None]
        moments = [moment for moment in (*fires, *(task.due_at for task in tasks)) if now < moment < end]
        clock.advance((min(moments, default=end) - now).total_seconds())
        return True

    return _run(manager, step, _Limit(most), has_schedules=True)


def _jump(clock: FakeClock, tasks: Sequence[BackgroundTask]) -> bool:
    """Turn *clock* to the moment when the first of *tasks* is due; False when none is due later."""
    wait_s = min(((task.due_at - clock.now()).total_seconds() for task in tasks), default=0.0)
    if wait_s > 0:
        clock.advance(wait_s)
    return wait_s > 0


def _run(
    manager: BackgroundTaskManager, jump: Callable[[], bool], limit: "_Limit", *, has_schedules: bool
) -> list[BackgroundTask]:
    """Run what is due, again after each *jump* in time. The caller's own task, if it is one, stays the current one."""
    if manager.is_working:
        raise UsageError(f"{manager!r} has a worker of its own; make the manager of a test with start=False")
    stage = _Stage(manager, limit)
    scheduler = manager.new_scheduler(stage.observe) if has_schedules else None
    with _enlisted(manager, stage) as (worker, pools):
        contextvars.copy_context().run(_run_due, stage, worker, pools, scheduler)
        while jump():
            contextvars.copy_context().run(_run_due, stage, worker, pools, scheduler)
    return stage.ran


@contextmanager
def _enlisted(manager: BackgroundTaskManager, stage: "_Stage") -> Iterator[tuple[Worker, list["_StagePool"]]]:
    pools = [_StagePool(kind, stage, manager.clock) for kind in PoolKind]
    worker = manager.new_worker(pools, random=lambda: 1.0, observe=stage.observe)
    worker.enlist()
    try:
        yield worker, pools
    finally:
        worker.leave()


def _run_due(stage: "_Stage", worker: Worker, pools: Sequence["_StagePool"], scheduler: Scheduler | None) -> None:
    while True:
        if scheduler is not None:
            scheduler.look()
        worker.tick()
        if not stage.line:
            return
        stage.limit.demand()
        for pool in pools:
            pool.run()


class _Limit:
    """How long a run may go on, with all those that its tasks begin."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._attempts = 0
        self.is_interrupted = False

    def count(self) -> bool:
        """Count one more attempt, if it may run."""
        if self.is_interrupted or self._attempts >= self._most:
            return False
        self._attempts += 1
        return True

    def demand(self) -> None:
        """Raise when nothing more may run."""
        if self.is_interrupted:  # Ctrl-C at a test must end the test, and not only the attempt
            raise KeyboardInterrupt
        if self._attempts >= self._most:
            raise RuntimeError(
                f"{self._most} attempts have run and there is still work: does a task submit itself or snooze for "
                "ever? Where so many are meant, say so by most=…"
            )


class _Stage:
    """What the pools of one run share: the claims in the order of their urgency, and what ran."""

    def __init__(self, manager: BackgroundTaskManager, limit: _Limit) -> None:
        self._manager = manager
        self.limit = limit
        self.line: deque[Claim] = deque()
        self.ran: list[BackgroundTask] = []

    def observe(self, event: Event) -> None:
        """Follow what the worker says."""
        match event:
            case AttemptsClaimed(claims):
                self.line.extend(claims)
            case AttemptsSettled(settlements):
                for settlement in settlements:
                    error = settlement.ending.error
                    self.limit.is_interrupted |= error is not None and error.type == KeyboardInterrupt.__name__
                    found = self._manager.get_task(settlement.claim.id)
                    self.ran += [] if found is None else [found]
        log_event(event)

    def take_next(self, is_held: Callable[[Claim], bool]) -> bool:
        """Take the next claim if it is held by the pool that asks, and anything may run at all."""
        if not self.line or not is_held(self.line[0]) or not self.limit.count():
            return False
        self.line.popleft()
        return True


class _StagePool(SlotPool):
    """One slot without a thread, which takes one claim at a time and runs it when it is next on the stage."""

    def __init__(self, kind: PoolKind, stage: _Stage, clock: Clock) -> None:
        super().__init__(kind, 1, clock)
        self._stage = stage

    def make_runner(self, number: int, registration: Registration) -> Runner:  # noqa: ARG002  # no lock is needed
        """Return a runner that calls the function where it stands."""
        return ThreadRunner(self._clock)

    def start(self, registration: Registration, sink: AttemptSink, first_slot: int) -> None:
        """Set up the slot."""
        self._sink = sink
        runner = self.make_runner(first_slot, registration)
        self._slots.append(Slot(self, first_slot, runner, registration, sink, self._clock))

    def room(self) -> int:
        """Return 1 when nothing is claimed that has not run."""
        return 0 if self._stage.line or self._taken() else 1

    def take(self, slot: Slot) -> Running | None:
        """Give the next claim if it is this pool's; never wait for one."""
        return super().take(slot) if self._stage.take_next(self._line.is_waiting) else None

    def run(self) -> None:
        """Run attempts as long as this pool's turn lasts."""
        for slot in self._slots:
            slot.work()


class _InlineManager(BackgroundTaskManager):
    """Runs what it stores before a submit returns; one submit after another."""

    def __init__(self, folder: Path, clock: FakeClock, options: dict[str, Any]) -> None:
        settings = {"database": folder / "tasks.db", "durability": "relaxed", **options, "start": False}
        super().__init__(clock=clock, **settings)
        self._turn = threading.RLock()
        self._hands = clock
        self._depth = 0
        self._limit = _Limit(_MOST)

    def store(self, tasks: Sequence[NewTask], wait: float | None) -> list[str]:
        """Store *tasks* and run them, with their retries, at whatever moments those are due."""
        with self._turn:
            ids = super().store(tasks, wait)
            if self._depth < _DEEPEST:  # what is submitted deeper is run by the tasks above it
                self._run(ids)
        return ids

    def announce_submits(self, task_ids: Sequence[str]) -> None:
        """Run what a transaction has stored."""
        with self._turn:
            super().announce_submits(task_ids)
            if self._depth < _DEEPEST:
                self._run(task_ids)

    def _run(self, ids: Sequence[str]) -> None:
        if not self._depth:
            self._limit = _Limit(_MOST)
        self._depth += 1
        try:
            _run(self, lambda: _jump(self._hands, self._begun(ids)), self._limit, has_schedules=False)
        finally:
            self._depth -= 1

    def wait_for(self, task_id: str, timeout_s: float | None) -> BackgroundTask:  # noqa: ARG002  # there is no waiting
        """Return the task if it is finished: nobody runs it while its test waits."""
        return super().wait_for(task_id, 0.0)

    async def await_for(self, task_id: str, timeout_s: float | None, read: Callable[[BackgroundTask], R]) -> R:  # noqa: ARG002
        """Do what :meth:`wait_for` does, for coroutines."""
        return await super().await_for(task_id, 0.0, read)

    def _begun(self, ids: Sequence[str]) -> list[BackgroundTask]:
        """Return those of *ids* that have been tried and are to be tried again."""
        found = [task for task in map(self.get_task, ids) if task is not None]
        return [task for task in found if task.status in _LATER and task.attempts]
