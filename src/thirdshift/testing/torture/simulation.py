"""Several processes with workers on one real file, in one thread, with a clock that is turned: a seed is a schedule.

A process is an engine of its own on the same file; its death gives its file locks back and leaves everything else as it
was, as the kernel does. Since every write is one transaction under the write lock, an order of transactions is all that
a schedule can be. Some calls look first and write later: whenever an engine asks what time it is, and nobody holds the
write lock, another process may go first. That is where the schedules are drawn from; nothing else is left to chance, so
a seed replays exactly.

After every event the history checker looks at the file (``checker.Watcher``). At the end everybody dies, and one new
worker must bring all that is left to its end.
"""

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from thirdshift.core.dependency import Dependency, Need
from thirdshift.core.engine import ClaimRequest, TaskFilter
from thirdshift.core.errors import ChangeRefused, DependencyCycle, ParentNotFound, ThirdshiftError, UniqueConflict
from thirdshift.core.limits import QueueLimits
from thirdshift.core.outcome import Ending, Settlement, settle
from thirdshift.core.pruning import Limit
from thirdshift.core.schedule import Missed, Overlap, Schedule
from thirdshift.core.schedule_store import NewSchedule
from thirdshift.core.status import FINISHED, TaskStatus
from thirdshift.core.task import (
    AttemptOutcome,
    Claim,
    NewTask,
    OnConflict,
    PoolKind,
    TaskError,
    TaskId,
    TaskSpec,
    UniqueKey,
)
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.engines.sqlite.checkpoint import Checkpointer
from thirdshift.engines.sqlite.liveness import SQLiteRegistration
from thirdshift.testing.clock import FakeClock
from thirdshift.testing.torture import faults
from thirdshift.testing.torture.checker import Event, Violation, Watcher
from thirdshift.testing.torture.harness import Verdict

_QUEUES = ("bulk", "mail", "web")
_POOLS = (PoolKind.THREAD, PoolKind.PROCESS)
_PRIORITIES = (0, 10, 10, 20)
_KEYS = ("one", "two", "three")
_LIMIT_KEYS = ("acme", "zeta")
_SCHEDULES = ("hourly", "often")
_SLOTS = 4
_MOST_TASKS = 60
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


class _Clock(FakeClock):
    """Lets somebody else go first, now and then, when it is asked for the time."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[], None] | None = None

    def now(self) -> datetime:
        if self.before is not None:
            self.before()
        return super().now()

    def peek(self) -> datetime:
        """Return the moment; nobody goes first."""
        return super().now()


@dataclass(slots=True)
class _Worker:
    name: str
    registration: SQLiteRegistration
    claims: dict[str, Claim] = field(default_factory=dict)
    slots: list[tuple[str, int, bool] | None] = field(default_factory=lambda: [None] * _SLOTS)
    """What stands in each slot: task, attempt, whether it has come forward."""


class _Process:
    """One process after another in the same place: it opens the file when it first needs it."""

    def __init__(self, path: Path, clock: FakeClock) -> None:
        self.workers: list[_Worker] = []
        self.opened: SQLiteEngine | None = None
        self._path = path
        self._clock = clock

    @property
    def engine(self) -> SQLiteEngine:
        """Return its engine."""
        if self.opened is None:
            self.opened = SQLiteEngine(self._path, self._clock)
        return self.opened

    @property
    def commits(self) -> int:
        """Return how many transactions it has committed since it opened the file."""
        return 0 if self.opened is None else self.opened._writer.commits  # noqa: SLF001

    @property
    def is_writing(self) -> bool:
        """Whether it holds the write lock."""
        return self.opened is not None and self.opened._writer.connection.in_transaction  # noqa: SLF001

    def end(self) -> None:
        """Close the file; the next one opens it again."""
        opened, self.opened = self.opened, None
        if opened is not None:
            opened.close()


class World:
    """One schedule, from its first event to its end."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self._rng = rng
        self._clock = _Clock()
        self._processes: list[_Process] = []
        self._names: dict[str, str] = {}
        """What the story calls each worker: their own ids are new at every run."""
        self._stood: dict[str, tuple[tuple[str, int, bool], ...]] = {}
        """What stood in the slots of workers that were killed and not rescued, by their id."""
        self._ghosts: list[tuple[str, Claim]] = []
        """What workers held that are dead: they may still try to write."""
        self._ids: list[str] = []
        self._held_keys: set[str] = set()
        self._depth = 0
        self._commits = 0
        self._busy: list[_Process] = []
        self.story: list[Event] = []
        self.violations: list[Violation] = []
        self._processes = [_Process(path, self._clock) for _ in range(rng.choice((2, 2, 3)))]
        self._watcher = Watcher(path)
        self._actions = self._draw_actions()
        self._turns = rng.choice((0.0, 0.0, 0.05, 0.3))
        """How often somebody else goes first."""
        self._ties = rng.choice((0.0, 0.1, 0.4, 0.8))
        """How often a new task waits for others."""

    def told(self) -> list[str]:
        """Return the story, one event a line, the same at every run."""
        lines = []
        for event in self.story:
            line = json.dumps(event, default=str)
            for worker, name in self._names.items():
                line = line.replace(worker, name)
            lines.append(line)
        return lines

    @property
    def checks(self) -> Mapping[str, int]:
        """How often each invariant was looked at."""
        return self._watcher.checks

    def run(self, steps: int) -> None:
        """Make that many steps, or fewer when something is found, and bring everything to its end."""
        for process in self._processes:
            self._register(process)
        self._clock.before = self._maybe_another
        for _ in range(steps):
            self._step(self._rng.choice(self._processes))
            if self.violations:
                return
        self._clock.before = None
        self._finish()

    def close(self) -> None:
        """Close all that is open."""
        self._clock.before = None
        self._watcher.close()
        for process in self._processes:
            for worker in process.workers:
                worker.registration._lock.release()  # noqa: SLF001  # as its death would
            process.end()

    # The schedule

    def _draw_actions(self) -> tuple[Sequence[Callable[[_Process], None]], Sequence[float]]:
        """Every seed leaves out some actions and likes others: rare states need one-sided schedules."""
        weights = {
            self._submit: 6.0,
            self._exchange: 10.0,
            self._enter: 3.0,
            self._give_back: 1.0,
            self._step_of_task: 2.0,
            self._settle_late: 3.0,
            self._cancel: 1.5,
            self._retry: 1.5,
            self._delete: 0.5,
            self._change_all: 0.5,
            self._prune: 0.5,
            self._pause: 0.7,
            self._limit: 0.7,
            self._limit_key: 0.7,
            self._schedule: 0.7,
            self._change_schedule: 0.7,
            self._tick: 3.0,
            self._kill: 1.0,
            self._close_worker: 0.5,
            self._register: 1.5,
            self._rescue: 2.0,
            self._recover: 0.5,
            self._pass_time: 2.0,
            self._step_clock: 0.5,
            self._reopen: 0.3,
        }
        always = (self._submit, self._exchange, self._register, self._rescue, self._settle_late)
        return tuple(weights), [
            weight * (1.0 if action in always else self._rng.choice((0.0, 0.5, 1.0, 1.0, 3.0, 10.0)))
            for action, weight in weights.items()
        ]

    def _step(self, process: _Process) -> None:
        actions, weights = self._actions
        (action,) = self._rng.choices(actions, weights)
        self._busy.append(process)
        self._commits = self._count_commits()
        try:
            action(process)
        except ThirdshiftError as error:
            self.violations.append(Violation("error", f"{action.__name__} raised {error!r}"))
        finally:
            self._busy.pop()

    def _maybe_another(self) -> None:
        if self._depth or not self._turns or self._rng.random() >= self._turns:
            return
        if self._commits != self._count_commits():
            return  # what it has told nobody yet would be taken for the work of the other one
        if any(process.is_writing for process in self._processes):
            return  # whoever writes goes on: the others would wait for him
        others = [process for process in self._processes if process not in self._busy]
        self._depth += 1
        try:
            self._step(self._rng.choice(others))
        finally:
            self._depth -= 1

    def _count_commits(self) -> int:
        return sum(process.commits for process in self._processes)

    def _tell(self, op: str, **facts: Any) -> None:
        event = {"op": op, "now_us": _us(self._clock.peek()), **facts}
        self.story.append(event)
        self.violations += self._watcher.after(event)

    # Who is there

    def _register(self, process: _Process) -> None:
        if len(process.workers) < 2:
            registration = process.engine.register(slots=_SLOTS)
            worker = _Worker(f"w{len(self._names) + 1}", registration)
            self._names[registration.id] = worker.name
            process.workers.append(worker)
            self._tell("register", worker=registration.id)

    def _kill(self, process: _Process) -> None:
        """The whole process dies, and another one takes its place later."""
        workers, process.workers = process.workers, []
        for worker in workers:
            self._stood[worker.registration.id] = tuple(slot for slot in worker.slots if slot is not None)
            self._ghosts += [(worker.registration.id, claim) for claim in worker.claims.values()]
            worker.registration._lock.release()  # noqa: SLF001  # as the kernel does
        process.end()
        self._tell("kill", workers=[worker.registration.id for worker in workers])

    def _close_worker(self, process: _Process) -> None:
        """It says that it goes, and leaves what it holds to others."""
        if process.workers:
            worker = process.workers.pop(self._rng.randrange(len(process.workers)))
            self._ghosts += [(worker.registration.id, claim) for claim in worker.claims.values()]
            worker.registration.close()
            self._tell("close", workers=[worker.registration.id])

    def _reopen(self, process: _Process) -> None:
        if not process.workers:
            process.end()
            self._tell("reopen")

    def _pass_time(self, _process: _Process) -> None:
        self._clock.advance(self._rng.choice((0.001, 1.0, 30.0, 3_600.0)))
        self._tell("time")

    def _step_clock(self, _process: _Process) -> None:
        """Somebody sets the wall clock."""
        self._clock.step(self._rng.choice((-86_400.0 * 365, -3_600.0, -1.0, 1.0, 3_600.0, 86_400.0 * 365)))
        self._tell("time")

    # Submitters and people

    def _submit(self, process: _Process) -> None:
        if len(self._watcher.tasks) >= _MOST_TASKS:
            return
        rng, now = self._rng, self._clock.peek()
        wait_s = rng.choice((None, None, None, 0.0, 5.0, 600.0))
        unique = None
        if rng.random() < 0.2:
            period_s = rng.choice((None, None, 60.0))
            unique = UniqueKey(key=rng.choice(_KEYS), period_s=period_s, on_conflict=rng.choice(list(OnConflict)))
            self._held_keys |= {unique.key} if period_s is not None else set()
        spec = TaskSpec(
            name="echo",
            function="thirdshift.testing.functions:echo",
            queue=rng.choice(_QUEUES),
            pool=rng.choice(_POOLS),
            priority=rng.choice(_PRIORITIES),
            run_at=None if wait_s is None else now + timedelta(seconds=wait_s),
            max_retries=rng.choice((0, 1, 3)),
            durable=rng.random() < 0.5,
            limit_key=rng.choice((None, None, *_LIMIT_KEYS)),
            unique=unique,
            after=self._some_parents(),
        )
        count = 1 if unique is not None else rng.choice((1, 1, 1, 2, 5))
        wanted = [TaskId(f"{rng.getrandbits(128):032x}") for _ in range(count)]
        if self._ids and rng.random() < 0.1:
            wanted[0] = TaskId(rng.choice(self._ids))  # again, as after an unknown outcome
            if wanted[0] not in self._watcher.tasks:
                return
        self._ids += [task for task in wanted if task not in self._ids]
        ids: Sequence[str] = ()
        error = None
        try:
            ids = process.engine.submit([NewTask(task, b"[1,[],{}]", spec) for task in wanted])
        except (UniqueConflict, ParentNotFound, DependencyCycle) as refusal:
            error = type(refusal).__name__
        key = None if unique is None else unique.key
        self._tell(
            "submit",
            wanted=wanted,
            ids=list(ids),
            error=error,
            held=[task for task in ids if task not in wanted],
            keys=[(key, wanted[0], ids[0])] if key is not None and ids else [],
            held_keys=sorted(self._held_keys),
        )

    def _some_parents(self) -> tuple[Dependency, ...]:
        """Return what a new task waits for: nothing most of the time, else some of the newest tasks."""
        newest = list(self._watcher.tasks)[-12:]
        if not newest or self._rng.random() >= self._ties:
            return ()
        parents = self._rng.sample(newest, min(len(newest), self._rng.choice((1, 1, 2, 3))))
        return tuple(Dependency(parent, self._rng.choice((Need.SUCCESS, Need.SUCCESS, Need.ANY))) for parent in parents)

    def _cancel(self, process: _Process) -> None:
        task = self._some_id()
        if task is not None:
            self._tell("cancel", task=task, told=process.engine.cancel(task))

    def _retry(self, process: _Process) -> None:
        task = self._some_id()
        if task is None:
            return
        try:
            told: bool | None = process.engine.retry(task)
        except ChangeRefused:
            told = None
        self._tell("retry", task=task, told=told)

    def _delete(self, process: _Process) -> None:
        task = self._some_id()
        if task is None:
            return
        try:
            told: bool | None = process.engine.delete(task)
        except ChangeRefused:
            told = None
        self._tell("delete", task=task, told=told)

    def _change_all(self, process: _Process) -> None:
        engine, queue = process.engine, self._rng.choice(_QUEUES)
        name = self._rng.choice(("cancel_all", "retry_all", "delete_all"))
        wanted = {TaskStatus(self._rng.choice([status.value for status in TaskStatus]))}
        changes = {"cancel_all": engine.cancel_all, "retry_all": engine.retry_all, "delete_all": engine.delete_all}
        told = changes[name](TaskFilter(queue=queue, statuses=frozenset(wanted)))
        self._tell(name, told=told)

    def _prune(self, process: _Process) -> None:
        if self._rng.random() < 0.5:
            before = self._clock.peek() - timedelta(seconds=self._rng.choice((0.0, 60.0, 7_200.0)))
            self._tell("delete_finished", told=process.engine.delete_finished(before=before))
        else:
            status = self._rng.choice(sorted(FINISHED, key=lambda status: status.value))
            told = process.engine.prune({status: Limit(rows=self._rng.randint(0, 4))})
            self._tell("prune", told=sum(told.values()))

    def _pause(self, process: _Process) -> None:
        queue, is_paused = self._rng.choice(_QUEUES), self._rng.random() < 0.5
        process.engine.set_paused(queue, is_paused)
        self._tell("pause", queue=queue, is_paused=is_paused)

    def _limit(self, process: _Process) -> None:
        queue, most = self._rng.choice(_QUEUES), self._rng.choice((None, 1, 2, 3))
        process.engine.limit_queue(queue, QueueLimits(concurrency=most))
        self._tell("limit", queue=queue, most=most)

    def _limit_key(self, process: _Process) -> None:
        key, most = self._rng.choice(_LIMIT_KEYS), self._rng.choice((1, 2, 3))
        process.engine.limit_key(key, most)
        self._tell("limit_key", key=key, most=most)

    # Schedules

    def _schedule(self, process: _Process) -> None:
        """Somebody makes a schedule, or gives one of that name another rule."""
        rng = self._rng
        when = {"every": rng.choice((5.0, 600.0, 3_600.0))} if rng.random() < 0.8 else {"at": self._clock.peek()}
        schedule = Schedule(
            **when, missed=rng.choice(list(Missed)), max_missed=rng.choice((1, 3)), overlap=rng.choice(list(Overlap))
        )
        spec = TaskSpec(
            name="echo",
            function="thirdshift.testing.functions:echo",
            queue=rng.choice(_QUEUES),
            pool=rng.choice(_POOLS),
            max_retries=rng.choice((0, 1)),
            durable=rng.random() < 0.5,
        )
        name = rng.choice(_SCHEDULES)
        schedule_id = f"{rng.getrandbits(128):032x}"
        process.engine.schedules.put(
            NewSchedule(name=name, schedule=schedule, task=spec, arguments=b"[1,[],{}]", id=schedule_id)
        )
        self._tell("schedule", name=name)

    def _change_schedule(self, process: _Process) -> None:
        """Somebody pauses one, lets it go on, ends it, or deletes it; or wants it to fire now."""
        store, rng = process.engine.schedules, self._rng
        known = store.all()
        if not known:
            return
        schedule = rng.choice(known).id
        change = rng.choice(("pause", "resume", "resume", "end", "delete", "run_now"))
        if change == "run_now":
            if len(self._watcher.tasks) < _MOST_TASKS:
                store.run_now(schedule)
                self._tell("run_now", schedule=schedule)
            return
        changes = {
            "pause": lambda: store.set_paused(schedule, True),
            "resume": lambda: store.set_paused(schedule, False),
            "end": lambda: store.end(schedule),
            "delete": lambda: store.delete(schedule),
        }
        self._tell(f"schedule_{change}", schedule=schedule, told=changes[change]())

    def _tick(self, process: _Process) -> None:
        """One look at all schedules; now and then another process goes between what it plans and what it writes."""
        if len(self._watcher.tasks) >= _MOST_TASKS:
            return
        told = len(self.story)
        fires = process.engine.schedules.tick().fires
        self._tell("tick", is_alone=told == len(self.story), tasks=[fire.task for fire in fires])

    def _some_id(self) -> str | None:
        """Mostly one that is there; now and then one that was deleted."""
        ids = self._ids if self._rng.random() < 0.1 else list(self._watcher.tasks)
        return self._rng.choice(ids) if ids else None

    # Workers

    def _some_worker(self, process: _Process) -> _Worker | None:
        return self._rng.choice(process.workers) if process.workers else None

    def _exchange(self, process: _Process) -> None:
        """One pass: record what has ended, claim what there is."""
        worker = self._some_worker(process)
        if worker is None:
            return
        ended = [claim for claim in worker.claims.values() if self._rng.random() < 0.4]
        room = _SLOTS - len(worker.claims) + len(ended)
        free = {pool: self._rng.randint(0, max(0, room)) for pool in _POOLS}
        has_room = min(free.values()) > 0
        first = self._some_id() if has_room and self._rng.random() < 0.3 else None
        request = None
        if self._rng.random() < 0.8:
            request = ClaimRequest(
                owner=worker.registration.id, free=free, first=None if first is None else TaskId(first)
            )
        self._exchange_as(process, worker, [self._ending(claim) for claim in ended], request)

    def _exchange_as(
        self, process: _Process, worker: _Worker, settlements: Sequence[Settlement], request: ClaimRequest | None
    ) -> bool:
        answer = process.engine.exchange(settlements, request)
        for settlement in settlements:
            self._leave(worker, settlement.claim)
        for claim in answer.claims:
            worker.claims[claim.id] = claim
        self._tell(
            "exchange",
            owner=worker.registration.id,
            settled=[
                (one.claim.id, one.claim.attempt, one.ending.outcome.value, _hex(one.ending.encoded_result), recorded)
                for one, recorded in zip(settlements, answer.recorded, strict=True)
            ],
            claims=[(claim.id, claim.attempt) for claim in answer.claims],
            free={} if request is None else {pool.value: count for pool, count in request.free.items()},
        )
        return bool(answer.claims)

    def _ending(self, claim: Claim) -> Settlement:
        now = self._clock.peek()
        outcome = self._rng.choice(
            (
                AttemptOutcome.COMPLETED,
                AttemptOutcome.COMPLETED,
                AttemptOutcome.FAILED,
                AttemptOutcome.TIMED_OUT,
                AttemptOutcome.SNOOZED,
                AttemptOutcome.INTERRUPTED,
                AttemptOutcome.CANCELLED,
            )
        )
        is_error = outcome in (AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT)
        ending = Ending(
            outcome,
            now,
            now,
            encoded_result=f"[{self._rng.randint(0, 99)}]".encode() if outcome is AttemptOutcome.COMPLETED else None,
            error=TaskError(type="ValueError", message="no", where=("m:f",)) if is_error else None,
            after_s=self._rng.choice((0.0, 10.0)) if outcome is AttemptOutcome.SNOOZED else None,
        )
        return settle(claim, ending, self._rng.choice((0.0, 3.0, 300.0)))

    def _enter(self, process: _Process) -> None:
        """A claimed task starts in a slot, or the one in it comes forward."""
        worker = self._some_worker(process)
        if worker is None:
            return
        slot = self._rng.randrange(_SLOTS)
        stands = worker.slots[slot]
        standing = {each[0] for each in worker.slots if each is not None}
        claims = [claim for claim in worker.claims.values() if claim.id not in standing]
        if stands is not None:
            worker.registration.note_progress(slot)
            worker.slots[slot] = (*stands[:2], True)
        elif claims:
            claim = self._rng.choice(claims)
            worker.registration.enter_slot(slot, claim)
            worker.slots[slot] = (claim.id, claim.attempt, False)

    def _leave(self, worker: _Worker, claim: Claim) -> None:
        worker.claims.pop(claim.id, None)
        for slot, stands in enumerate(worker.slots):
            if stands is not None and stands[:2] == (claim.id, claim.attempt):
                worker.registration.leave_slot(slot)
                worker.slots[slot] = None

    def _give_back(self, process: _Process) -> None:
        worker = self._some_worker(process)
        if worker is None or not worker.claims:
            return
        claim = self._rng.choice(list(worker.claims.values()))
        process.engine.give_back([claim])
        self._leave(worker, claim)
        self._tell("give_back", tasks=[(claim.id, claim.attempt)])

    def _step_of_task(self, process: _Process) -> None:
        worker = self._some_worker(process)
        if worker is None or not worker.claims:
            return
        claim = self._rng.choice(list(worker.claims.values()))
        name, result = self._rng.choice("ab"), f"{self._rng.randint(0, 9)}".encode()
        told = process.engine.record_step(claim, name, "inputs", result)
        process.engine.record_progress([(claim, {"step": name})])
        self._tell(
            "step",
            task=claim.id,
            attempt=claim.attempt,
            owner=claim.owner,
            step=(name, "inputs", _hex(result)),
            told=told,
        )

    def _settle_late(self, process: _Process) -> None:
        """An attempt that its worker has lost ends at last, or one end is told twice."""
        if not self._ghosts:
            return
        lost = [(owner, claim) for owner, claim in self._ghosts if self._is_elsewhere(owner, claim.id)]
        owner, claim = self._rng.choice(lost if lost and self._rng.random() < 0.7 else self._ghosts)
        settlement = self._ending(claim)
        answer = process.engine.exchange([settlement], None)
        facts = claim.id, claim.attempt, settlement.ending.outcome.value, _hex(settlement.ending.encoded_result)
        self._tell("exchange", owner=owner, settled=[(*facts, answer.recorded[0])], claims=[], free={})

    def _is_elsewhere(self, owner: str, task: str) -> bool:
        """Return whether somebody else than *owner* runs *task* now."""
        found = self._watcher.tasks.get(task)
        return found is not None and found.status == "running" and found.owner != owner

    def _rescue(self, process: _Process) -> None:
        worker = self._some_worker(process)
        if worker is not None:
            self._rescue_as(process, worker)

    def _rescue_as(self, process: _Process, worker: _Worker) -> None:
        alive = {each.registration.id for process in self._processes for each in process.workers}
        must_be_free = [] if self._depth else [owner for owner in self._names if owner not in alive]
        rescues = process.engine.rescue(worker.registration.id)
        self._tell(
            "rescue",
            tasks=sorted((rescue.id, rescue.attempt, rescue.owner, rescue.is_given_up) for rescue in rescues),
            stood=[slot for slots in self._stood.values() for slot in slots],
            must_be_free=must_be_free,
        )

    def _recover(self, process: _Process) -> None:
        """A worker asks what it holds, and knows it all, or has forgotten one."""
        worker = self._some_worker(process)
        if worker is None:
            return
        known = list(worker.claims.values())
        if known and self._rng.random() < 0.5:
            forgotten = known.pop(self._rng.randrange(len(known)))
            self._leave(worker, forgotten)
        found = process.engine.recover(worker.registration.id, {(claim.seq, claim.attempt) for claim in known})
        self._tell("recover", tasks=[(rescue.id, rescue.attempt) for rescue in found])

    def _finish(self) -> None:
        """Everybody dies; one new worker brings all that is left to its end."""
        for process in self._processes:
            self._kill(process)
        process = self._processes[0]
        for queue in _QUEUES:
            process.engine.set_paused(queue, False)
            process.engine.limit_queue(queue, QueueLimits())
            self._tell("limit", queue=queue, most=None)
        self._register(process)
        (worker,) = process.workers
        self._rescue_as(process, worker)
        request = ClaimRequest(owner=worker.registration.id, free=dict.fromkeys(_POOLS, 100))
        for _ in range(100):
            self._clock.advance(86_400.0 * 800)
            done = [self._completed(claim) for claim in worker.claims.values()]
            is_idle = not self._exchange_as(process, worker, done, request) and not done
            if is_idle and all(task.status != "scheduled" for task in self._watcher.tasks.values()):
                break  # until then the clock, which was set back by years, has not come to the last one's time
        self.violations += self._watcher.end()

    def _completed(self, claim: Claim) -> Settlement:
        now = self._clock.peek()
        return settle(claim, Ending(AttemptOutcome.COMPLETED, now, now, encoded_result=b"1"), 0.0)


class Simulation:
    """Schedules of several workers; one seed of the simulation is one case."""

    name = "simulation"
    what = "random schedules of several workers on one file with a virtual clock, judged after every event"
    controls: Mapping[str, int] = dict.fromkeys(faults.ALL, 300)

    def why_not(self) -> str | None:
        """Return nothing: it works everywhere."""
        return None

    @contextmanager
    def open(self, folder: Path, kept: Path, seed: int, fault: str | None = None) -> Iterator["Schedules"]:  # noqa: ARG002  # a seed is all there is to keep
        """Set it up; *fault* is planted in every engine. Nothing else is to write than what the schedules do."""
        with faults.planted(fault), patch.object(Checkpointer, "start", lambda _self: None):
            yield Schedules(folder, seed)


class Schedules:
    """All schedules of one seed."""

    cases: int | None = None

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self._empty = folder / "empty.db"
        """A file with the schema and nothing in it: making it would be half of the time that a schedule takes."""
        SQLiteEngine(self._empty, FakeClock()).close()

    def judge(self, number: int) -> Verdict:
        """Run schedule *number*."""
        rng = random.Random(f"{self._seed}/{number}")  # a schedule, not a secret
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self._folder)))
            shutil.copyfile(self._empty, folder / "tasks.db")
            world = World(folder / "tasks.db", rng)
            stack.callback(world.close)
            world.run(rng.randint(20, 120))
            figures = {"seeds": 1, "events": len(world.story), "checks": sum(world.checks.values())}
            return Verdict(figures=figures, violations=tuple(world.violations), story=world.told())


def _hex(data: bytes | None) -> str:
    return "" if data is None else data.hex().upper()
