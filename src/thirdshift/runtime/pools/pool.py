"""What all pools share: the line of claims before the slots, seats for submitters, and what running attempts are asked.

How attempts begin is each kind's own business: :mod:`slots` gives every slot a thread, :mod:`event_loop` runs all of
them on one.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from thirdshift.core.clock import Clock
from thirdshift.core.engine import Registration
from thirdshift.core.errors import StepNotStored
from thirdshift.core.events import AttemptOverran, Event
from thirdshift.core.outcome import Ending
from thirdshift.core.task import Claim, Fence, PoolKind, Step
from thirdshift.runtime.context import StopReason, TaskContext
from thirdshift.runtime.pools.line import Line

_AHEAD_S = 0.02
_AHEAD_LIMIT = 512
_SEAT_LIMIT_S = 10.0
"""How long a submitter may keep a seat: twice as long as it waits for a locked store."""
GRACE_S = 2.0
"""How long an attempt that was told to end may clean up before it is killed."""


class AttemptSink(Protocol):
    """The worker as its slots see it. Any thread may call it."""

    def report(self, claim: Claim, ending: Ending) -> None:
        """Take the end of an attempt. Quick; :meth:`record` follows from the same thread."""

    def record(self, *, is_idle: bool) -> None:
        """Record what was reported, on this thread if its slot *is_idle*: nothing waits for that."""

    def progress(self, claim: Claim, facts: Mapping[str, Any]) -> None:
        """Keep what a running attempt says of its progress."""

    @property
    def clock(self) -> Clock:
        """Return what moments are read from."""

    def fence(self, claim: Claim) -> Fence:
        """Return what the attempt needs to record its own end. Raises ``NotSupported``."""

    def committed(self, claim: Claim) -> None:
        """Take notice that the attempt has recorded that it completed; its report is still to come."""

    def steps(self, claim: Claim) -> Sequence[Step]:
        """Return the steps that the attempt's task has done so far."""

    def keep_step(self, claim: Claim, name: str, inputs: str, encoded_result: bytes) -> None:
        """Store a step of a running attempt. Raises ``StepNotStored``."""

    def took(self, claim: Claim) -> None:
        """Take notice of a claim that a submitter made for the worker."""

    def announce(self, event: Event) -> None:
        """Tell who listens to the worker."""


class Control(Protocol):
    """How a running attempt is reached from other threads."""

    def pass_on_stop(self, context: TaskContext) -> None:
        """``context.stop_reason`` was set; pass it on where the function runs.

        The attempt may be over by then: that is harmless, the next one has another context.
        """

    def end(self) -> bool:
        """Make the running attempt end (SIGTERM, cancellation, an exception); False where that is impossible."""

    def kill(self) -> None:
        """End the running attempt at once (SIGKILL); called only where ``Pool.can_kill``."""


@dataclass(slots=True, eq=False)
class Running:
    """One attempt in a slot. What is asked of it can never reach the attempt that follows in that slot."""

    control: Control
    claim: Claim
    context: TaskContext
    deadline: float | None
    kill_at: float | None = None
    """When its grace is over."""
    is_ending: bool = False
    """Whether something was done to make it end."""
    stalls_at: float | None = None
    """When it has shown no sign of life for too long."""
    is_over: bool = False
    is_overrun: bool = False
    """Whether it went on beyond its grace, and cannot be killed."""
    mutex: threading.Lock = field(default_factory=threading.Lock)
    """Held while it is made to end: meanwhile its slot does not go on to the next claim, which must not be hit."""

    def limit_reached(self, now: float) -> StopReason | None:
        """Return which of its limits is over, once."""
        if self.deadline is not None and self.deadline <= now:
            self.deadline = self.stalls_at = None
            return StopReason.TIMED_OUT
        if self.stalls_at is not None and self.stalls_at <= now:
            self.stalls_at = None
            return StopReason.STALLED
        return None


class Place:
    """One numbered slot of a worker: its line in the slot file, and the attempt that runs in it now."""

    def __init__(self, number: int, registration: Registration, sink: AttemptSink) -> None:
        self.number = number
        self.running: Running | None = None
        self.sink = sink
        self._registration = registration

    def enter(self, claim: Claim) -> None:
        """Note that the function is about to be called."""
        self._registration.enter_slot(self.number, claim)

    def leave(self) -> None:
        """Note that the function has returned."""
        self._registration.leave_slot(self.number)

    # Called from any thread of the attempt; when it has ended, this slot may have gone on to the next

    @property
    def clock(self) -> Clock:
        """What moments are read from."""
        return self.sink.clock

    def progressed(self, context: TaskContext, facts: Mapping[str, Any]) -> None:
        """Pass on what the running attempt says."""
        claim = self._claim_of(context)
        if claim is not None:
            self._came_forward()
            self.sink.progress(claim, facts)

    def steps(self, context: TaskContext) -> Sequence[Step]:
        """Return the steps that the task has done so far."""
        claim = self._claim_of(context)
        return () if claim is None else self.sink.steps(claim)

    def keep_step(self, context: TaskContext, name: str, inputs: str, encoded_result: bytes) -> None:
        """Store a step. Raises ``StepNotStored``."""
        claim = self._claim_of(context)
        if claim is None:
            raise StepNotStored(name, "its attempt is over")
        self.sink.keep_step(claim, name, inputs, encoded_result)
        self._came_forward()

    def fence(self, context: TaskContext) -> Fence | None:
        """Return the attempt's fence; ``None`` when it is over."""
        claim = self._claim_of(context)
        return None if claim is None else self.sink.fence(claim)

    def committed(self, context: TaskContext) -> None:
        """Take notice that the attempt has recorded its own end."""
        claim = self._claim_of(context)
        if claim is not None:
            self.sink.committed(claim)

    def _came_forward(self) -> None:
        running = self.running
        if running is not None and not running.is_overrun:  # one that goes on for too long is not trusted any more
            self._registration.note_progress(self.number)

    def _claim_of(self, context: TaskContext) -> Claim | None:
        running = self.running
        return running.claim if running is not None and running.context is context else None


class PoolSeat:
    """A free slot kept for a task that is being submitted; see :class:`thirdshift.core.engine.Seat`."""

    def __init__(self, pool: "Pool", owner: str, expires_at: float) -> None:
        self.owner = owner
        self.expires_at = expires_at
        self._pool = pool

    def take(self, claim: Claim) -> bool:
        """Start the attempt, which is committed; False when the seat was given up meanwhile."""
        return self._pool.free_seat(self, claim)

    def leave(self) -> None:
        """Free the slot again."""
        self._pool.free_seat(self, None)


class Pool(ABC):
    """Slots of one kind. ``start``, ``give``, ``take_back`` and ``look`` belong to the worker's thread."""

    can_kill: ClassVar[bool] = True
    """Whether an attempt that was told to end, and has not after the grace time, can be killed."""
    limits_begin_with_slot: ClassVar[bool] = True
    """Whether the function is called as soon as it has a slot; otherwise its limits begin when the runner says so."""

    def __init__(self, kind: PoolKind, slots: int, clock: Clock) -> None:
        self.kind = kind
        self.slots = slots
        self.spare_slots = 0
        """How many attempts beyond its slots may stand in the slot file: they go on beside what took their place."""
        self.is_stuck = False
        """Nothing can begin now, so that what waits is better off elsewhere."""
        self._capacity = slots
        """How many claims it holds with all slots busy: more than slots when some have lost theirs and go on."""
        self._clock = clock
        self._changed = threading.Condition()
        """Held by who hands out claims and seats or takes them back, and by slots with nothing to do; never by a slot
        that goes on from one attempt to the next."""
        self._line = Line()
        self._sink: AttemptSink
        self._seats: set[PoolSeat] = set()
        self._attempts: set[Running] = set()
        self._is_held = False
        self._is_closed = False
        self._is_counting = False
        self._mean_run_s: float | None = None

    @abstractmethod
    def start(self, registration: Registration, sink: AttemptSink, first_slot: int) -> None:
        """Set up the slots, numbered from *first_slot* on among those of the worker; what they do goes to *sink*."""

    @abstractmethod
    def _let_begin(self, claims: int) -> None:
        """See that *claims* more attempts begin, if slots are free. ``_changed`` is held."""

    @abstractmethod
    def join(self) -> None:
        """Wait for the pool's threads; call :meth:`close` first."""

    def room(self) -> int:
        """Return how many more claims the pool takes: its free slots, and a little ahead when attempts are short."""
        with self._changed:
            if self.is_stuck:
                return 0
            return max(0, self._capacity + self._ahead() - self._taken())

    def reserve(self, owner: str) -> PoolSeat | None:
        """Keep a free slot for a task that is being submitted; ``None`` when there is none. Any thread may call it."""
        if len(self._attempts) >= self._capacity:  # without the lock: the usual answer of a loaded pool costs nothing
            return None
        with self._changed:
            if self._is_held or self._is_closed or self.is_stuck or self._is_counting:
                return None
            if self._taken() >= self._capacity:
                return None
            seat = PoolSeat(self, owner, self._clock.monotonic() + _SEAT_LIMIT_S)
            self._seats.add(seat)
            return seat

    def free_seat(self, seat: PoolSeat, claim: Claim | None) -> bool:
        """End *seat*, starting *claim* in its slot; False when the seat was given up meanwhile."""
        with self._changed:
            if seat not in self._seats:
                return False
            self._seats.discard(seat)
            if claim is not None:
                self._line.add(claim)
                self._let_begin(1)
        if claim is not None:
            self._sink.took(claim)
        return True

    def has_seats(self) -> bool:
        """Return whether submitters keep slots; gives up those that were kept too long, whose submitter is no more."""
        with self._changed:
            now = self._clock.monotonic()
            self._seats = {seat for seat in self._seats if seat.expires_at > now}
            return bool(self._seats)

    def begin_count(self) -> bool:
        """Give out no seats until :meth:`end_count`; False when one is out, so that nobody can say what is held."""
        with self._changed:
            self._is_counting = True
        return not self.has_seats()

    def end_count(self) -> None:
        """Give out seats again."""
        with self._changed:
            self._is_counting = False

    def give(self, claims: Sequence[Claim]) -> None:
        """Queue *claims*; a higher priority overtakes what was given earlier and has not started."""
        with self._changed:
            for claim in claims:
                self._line.add(claim)
            self._let_begin(len(claims))

    def hold(self) -> None:
        """Start nothing any more; what is queued waits for :meth:`take_back`."""
        with self._changed:
            self._is_held = True

    def take_back(self, is_wanted: Callable[[Claim], bool]) -> list[Claim]:
        """Return the wanted claims whose function was never called; they are no longer the pool's."""
        with self._changed:
            taken = self._line.take(is_wanted)
            if self._line.waiting:  # a slot may have looked while the line was empty
                self._let_begin(self._line.waiting)
            return taken

    @property
    def is_supplied(self) -> bool:
        """Whether enough waits to keep the slots busy for a good while."""
        return self._line.waiting > max(self.slots, self._ahead() // 2)

    @property
    def grace_s(self) -> float:
        """How long an attempt that was told to end may go on."""
        return GRACE_S

    @property
    def waits_in_vain(self) -> bool:
        """Whether it is stuck and holds nothing but attempts that overran: nobody knows whether they ever end."""
        return self.is_stuck and len(self._line) <= self._capacity - self.slots

    @property
    def has_claims(self) -> bool:
        """Whether it holds claims whose end is not reported. Any thread may ask."""
        return bool(self._line)

    def held(self) -> list[Claim]:
        """Return the claims that have not started and the attempts whose end is not reported."""
        return self._line.claims()

    def busy(self) -> list[Claim]:
        """Return the attempts that run now."""
        return [running.claim for running in self._running(None)]

    def ask_to_stop(self, reason: StopReason, *, task_id: str | None = None) -> None:
        """Set ``should_stop`` for one running attempt, or for all; the first reason stays."""
        for running in self._running(task_id):
            self._ask(running, reason)

    def end(self, reason: StopReason, *, task_id: str | None = None) -> bool:
        """Ask to stop, then make it so: what can be ended is ended, and killed after the grace time.

        Returns whether anything is on its way to its end.
        """
        is_ending = False
        for running in self._running(task_id):
            is_ending |= self._end(running, reason)
        return is_ending

    def look(self) -> float | None:
        """End what ran too long, kill what outlived its grace, and announce what can be made to do neither.

        Returns the seconds until the next look is due.
        """
        now = self._clock.monotonic()
        # what a slot is about to begin may be due that soon
        due = [now + limit_s for claim in self._line.claims() if (limit_s := claim.shortest_limit_s) is not None]
        for running in self._running(None):
            reason = running.limit_reached(now)
            if reason is not None:
                self._end(running, reason)
            if running.kill_at is not None and running.kill_at <= now:
                self._kill(running)
            moments = (running.deadline, running.stalls_at, running.kill_at)
            due += [moment for moment in moments if moment is not None]
        return min(due) - now if due else None

    def close(self) -> None:
        """Let idle slots end; a busy one ends after its attempt. What is still queued is not started."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _begin_next(self, place: Place, control: Control) -> Running | None:
        """Put the first claim that waits into *place*, if there is one."""
        if not self._may_begin() or (claim := self._line.next()) is None:
            return None
        context = TaskContext(
            claim.id,
            claim.name,
            claim.attempt,
            place,
            queue=claim.queue,
            worker=claim.owner,
            schedule=claim.schedule,
            scheduled_for=claim.scheduled_for,
        )
        running = Running(control, claim, context, None)
        if claim.shortest_limit_s is not None:
            self._keep_limits(running)
        place.running = running
        self._attempts.add(running)
        if not self._may_begin():  # any more; who said so may have missed this one
            self._attempts.discard(running)
            place.running = None
            self._line.put_back(claim)
            self._sink.record(is_idle=False)  # wakes the worker's thread, which takes it back
            return None
        return running

    def _may_begin(self) -> bool:
        return not (self._is_held or self._is_closed)

    def _keep_limits(self, running: Running) -> None:
        """Start the clocks of the attempt's limits: the stall limit's again at every sign of life."""
        claim, context = running.claim, running.context

        def begin() -> None:
            if claim.timeout_s is not None and context.stop_reason is None:
                running.deadline = self._clock.monotonic() + claim.timeout_s
            live()

        def live() -> None:
            if claim.stall_timeout_s is not None and context.stop_reason is None:
                running.stalls_at = self._clock.monotonic() + claim.stall_timeout_s

        context.begin, context.note_life = begin, live
        if self.limits_begin_with_slot:
            begin()

    def _end_in(self, place: Place, running: Running, ending: Ending, run_s: float) -> None:
        """Take the end of an attempt, and learn how long attempts take.

        At no moment is the slot free without its report. It may be reported and not free yet: the record that follows
        makes the worker look once more.
        """
        self._sink.report(running.claim, ending)
        with running.mutex:
            running.is_over = True
        place.running = None
        self._attempts.discard(running)
        self._line.end(running.claim)
        mean = self._mean_run_s
        self._mean_run_s = run_s if mean is None else mean + 0.02 * (run_s - mean)

    def _ahead(self) -> int:
        """Return how many claims beyond its slots the pool holds, for so much work as it does in a moment."""
        if self._mean_run_s is None:
            return 0
        return min(_AHEAD_LIMIT, int(self.slots * _AHEAD_S / max(self._mean_run_s, 1e-6)))

    def _taken(self) -> int:
        return len(self._line) + len(self._seats)

    def _running(self, task_id: str | None) -> list[Running]:
        return [each for each in list(self._attempts) if task_id is None or each.claim.id == task_id]

    def _ask(self, running: Running, reason: StopReason) -> None:
        if running.context.stop_reason in (None, StopReason.BLOCKING):
            running.context.stop_reason = reason
            running.control.pass_on_stop(running.context)

    def _end(self, running: Running, reason: StopReason) -> bool:
        self._ask(running, reason)
        with running.mutex:
            if not running.is_over and running.kill_at is None:
                running.is_ending = running.control.end()
                running.kill_at = self._clock.monotonic() + self.grace_s
        return running.is_ending

    def _kill(self, running: Running) -> None:
        with running.mutex:
            running.kill_at = None
            if self.can_kill and not running.is_over:
                running.control.kill()
        if not self.can_kill:
            self._overran(running)

    def _overran(self, running: Running) -> None:
        """Announce once that the attempt goes on, and nothing can be done about it, unless it has just ended."""
        if not (running.is_over or running.is_overrun):
            running.is_overrun = True
            self._sink.announce(AttemptOverran(running.claim))
