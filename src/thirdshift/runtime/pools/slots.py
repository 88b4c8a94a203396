"""What all pools share: a number of slots, each with a thread that takes claims one by one and runs them.

How one attempt is run is the :class:`Runner`'s business: in the slot's own thread, or in a child process that the
slot's thread looks after.
"""

import heapq
import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from thirdshift.core.clock import Clock
from thirdshift.core.engine import Registration
from thirdshift.core.outcome import Ending
from thirdshift.core.task import AttemptOutcome, Claim, PoolKind
from thirdshift.runtime.attempt import error_of
from thirdshift.runtime.context import StopReason, TaskContext

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

    def took(self, claim: Claim) -> None:
        """Take notice of a claim that a submitter made for the worker."""


class Runner(Protocol):
    """Runs the attempts of one slot, one after another, on the slot's thread."""

    def run(self, claim: Claim, context: TaskContext) -> Ending:
        """Run one attempt to its end. Raises nothing."""

    def pass_on_stop(self, context: TaskContext) -> None:
        """``context.stop_reason`` was set; pass it on where the function runs. Called from another thread.

        The attempt may be over by then: that is harmless, the next one has another context.
        """

    def end(self) -> bool:
        """Make the running attempt end (SIGTERM); False where that is impossible. Called from another thread."""

    def kill(self) -> None:
        """End the running attempt at once (SIGKILL). Called from another thread, only where :meth:`end` is True."""

    def close(self) -> None:
        """Release what the runner holds; the slot is idle."""


@dataclass(slots=True)
class Running:
    """One attempt in a slot. What is asked of it can never reach the attempt that follows in that slot."""

    slot: "Slot"
    claim: Claim
    context: TaskContext
    deadline: float | None
    kill_at: float | None = None


class PoolSeat:
    """A free slot kept for a task that is being submitted; see :class:`thirdshift.core.engine.Seat`."""

    def __init__(self, pool: "SlotPool", owner: str, expires_at: float) -> None:
        self.owner = owner
        self.expires_at = expires_at
        self._pool = pool

    def take(self, claim: Claim) -> bool:
        """Start the attempt, which is committed; False when the seat was given up meanwhile."""
        return self._pool.free_seat(self, claim)

    def leave(self) -> None:
        """Free the slot again."""
        self._pool.free_seat(self, None)


class SlotPool(ABC):
    """Slots of one kind. ``start``, ``give``, ``take_back`` and ``look`` belong to the worker's thread."""

    def __init__(self, kind: PoolKind, slots: int, clock: Clock) -> None:
        self.kind = kind
        self.slots = slots
        self._clock = clock
        self._changed = threading.Condition()
        self._backlog: list[tuple[int, int, Claim]] = []
        self._order = itertools.count()
        self._slots: list[Slot] = []
        self._sink: AttemptSink
        self._seats: set[PoolSeat] = set()
        self._busy = 0
        self._is_held = False
        self._is_closed = False
        self._mean_run_s: float | None = None

    @abstractmethod
    def make_runner(self, number: int, registration: Registration) -> Runner:
        """Return the runner of slot *number*."""

    def start(self, registration: Registration, sink: AttemptSink, first_slot: int) -> None:
        """Start the slots, numbered from *first_slot* on among those of the worker; what they do goes to *sink*."""
        self._sink = sink
        for number in range(self.slots):
            runner = self.make_runner(number, registration)
            slot = Slot(self, first_slot + number, runner, registration, sink, self._clock)
            self._slots.append(slot)
            slot.thread = threading.Thread(target=slot.work, name=f"thirdshift-{self.kind.value}-{number}", daemon=True)
            slot.thread.start()

    def room(self) -> int:
        """Return how many more claims the pool takes: its free slots, and a little ahead when attempts are short."""
        with self._changed:
            ahead = 0
            if self._mean_run_s is not None:
                ahead = min(_AHEAD_LIMIT, int(self.slots * _AHEAD_S / max(self._mean_run_s, 1e-6)))
            return max(0, self.slots + ahead - self._taken())

    def reserve(self, owner: str) -> PoolSeat | None:
        """Keep a free slot for a task that is being submitted; ``None`` when there is none. Any thread may call it."""
        if self._busy >= self.slots:  # without the lock: the usual answer of a loaded pool costs nothing
            return None
        with self._changed:
            if self._is_held or self._is_closed or self._taken() >= self.slots:
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
                self._push(claim)
                self._changed.notify()
        if claim is not None:
            self._sink.took(claim)
        return True

    def has_seats(self) -> bool:
        """Return whether submitters keep slots; gives up those that were kept too long, whose submitter is no more."""
        with self._changed:
            now = self._clock.monotonic()
            self._seats = {seat for seat in self._seats if seat.expires_at > now}
            return bool(self._seats)

    def give(self, claims: Sequence[Claim]) -> None:
        """Queue *claims*; a higher priority overtakes what was given earlier and has not started."""
        with self._changed:
            for claim in claims:
                self._push(claim)
            self._changed.notify(len(claims))

    def hold(self) -> None:
        """Start nothing any more; what is queued waits for :meth:`take_back`."""
        with self._changed:
            self._is_held = True

    def take_back(self, is_wanted: Callable[[Claim], bool]) -> list[Claim]:
        """Return the wanted claims whose function was never called; they are no longer the pool's."""
        with self._changed:
            taken = [claim for _, _, claim in self._backlog if is_wanted(claim)]
            if taken:
                self._backlog = [entry for entry in self._backlog if not is_wanted(entry[2])]
                heapq.heapify(self._backlog)
            return taken

    def held(self) -> list[Claim]:
        """Return the claims that have not started and the attempts that run, each of them once or twice."""
        with self._changed:  # in this order, because a claim moves from the backlog into a slot
            waiting = [claim for _, _, claim in self._backlog]
        return waiting + self.busy()

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

    def look(self) -> tuple[list[Claim], float | None]:
        """End what ran too long, kill what outlived its grace.

        Returns the attempts that have just overrun, and the seconds until the next look is due.
        """
        now = self._clock.monotonic()
        overrun: list[Claim] = []
        with self._changed:  # what a slot is about to take may be due that soon
            due = [now + claim.timeout_s for _, _, claim in self._backlog if claim.timeout_s is not None]
        for running in self._running(None):
            if running.deadline is not None and running.deadline <= now:
                running.deadline = None
                overrun.append(running.claim)
                self._end(running, StopReason.TIMED_OUT)
            if running.kill_at is not None and running.kill_at <= now:
                self._kill(running)
            due += [moment for moment in (running.deadline, running.kill_at) if moment is not None]
        return overrun, min(due) - now if due else None

    def close(self) -> None:
        """Let idle slots end; a busy one ends after its attempt. What is still queued is not started."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for the slots' threads; call :meth:`close` first."""
        for slot in self._slots:
            if slot.thread is not None:
                slot.thread.join()

    def take(self, slot: "Slot") -> Running | None:
        """Give *slot* its next claim, waiting for one; ``None`` when the pool is closed. Called by the slot."""
        with self._changed:
            while not self._is_closed:
                running = self._next(slot)
                if running is not None:
                    return running
                self._changed.wait()
            return None

    def leave(self, slot: "Slot", claim: Claim, ending: Ending, run_s: float) -> Running | None:
        """Take the end of an attempt, and learn how long attempts take; returns the next one if one waits.

        At no moment is the slot idle without its report, or reported and not idle: a worker that is woken by the report
        finds the room that it leaves. Called by the slot.
        """
        with self._changed:
            slot.running = None
            self._busy -= 1
            self._sink.report(claim, ending)
            mean = self._mean_run_s
            self._mean_run_s = run_s if mean is None else mean + 0.1 * (run_s - mean)
            return self._next(slot)

    def _next(self, slot: "Slot") -> Running | None:
        """Put the first claim that waits into *slot*. ``_changed`` is held."""
        if not self._backlog or self._is_held or self._is_closed:
            return None
        _, _, claim = heapq.heappop(self._backlog)
        self._busy += 1
        slot.running = self._new_running(slot, claim)
        return slot.running

    def _taken(self) -> int:
        return self._busy + len(self._backlog) + len(self._seats)

    def _push(self, claim: Claim) -> None:
        heapq.heappush(self._backlog, (-claim.priority, next(self._order), claim))

    def _new_running(self, slot: "Slot", claim: Claim) -> Running:
        context = TaskContext(claim.id, claim.name, claim.attempt, partial(slot.progressed, claim))
        deadline = None if claim.timeout_s is None else self._clock.monotonic() + claim.timeout_s
        return Running(slot, claim, context, deadline)

    def _running(self, task_id: str | None) -> list[Running]:
        with self._changed:
            running = [slot.running for slot in self._slots if slot.running is not None]
        return [each for each in running if task_id is None or each.claim.id == task_id]

    def _ask(self, running: Running, reason: StopReason) -> None:
        if running.context.stop_reason is None:
            running.context.stop_reason = reason
            running.slot.runner.pass_on_stop(running.context)

    def _end(self, running: Running, reason: StopReason) -> bool:
        self._ask(running, reason)
        with self._changed:  # the slot cannot go on to its next claim meanwhile, which must not be hit
            if running.slot.running is running and running.kill_at is None and running.slot.runner.end():
                running.kill_at = self._clock.monotonic() + GRACE_S
        return running.kill_at is not None

    def _kill(self, running: Running) -> None:
        with self._changed:
            running.kill_at = None
            if running.slot.running is running:
                running.slot.runner.kill()


class Slot:
    """One slot: its thread, its runner, and the attempt that it runs now."""

    def __init__(
        self,
        pool: SlotPool,
        number: int,
        runner: Runner,
        registration: Registration,
        sink: AttemptSink,
        clock: Clock,
    ) -> None:
        self.runner = runner
        self.running: Running | None = None
        self.thread: threading.Thread | None = None
        self._pool = pool
        self._number = number
        self._registration = registration
        self._sink = sink
        self._clock = clock

    def work(self) -> None:
        """Run claim after claim until the pool is closed."""
        running = self._pool.take(self)
        while running is not None:
            claim = running.claim
            began = self._clock.monotonic()
            self._registration.enter_slot(self._number, claim)
            ending = self._run(running)
            self._registration.leave_slot(self._number)
            following = self._pool.leave(self, claim, ending, self._clock.monotonic() - began)
            self._sink.record(is_idle=following is None)
            running = following or self._pool.take(self)
        self.runner.close()

    def progressed(self, claim: Claim, facts: Mapping[str, Any]) -> None:
        """Pass on what the running attempt says. Called from any thread of the attempt."""
        running = self.running
        if running is not None and running.claim is claim:  # else it has ended: this slot may have gone on
            self._registration.note_progress(self._number)
        self._sink.progress(claim, facts)

    def _run(self, running: Running) -> Ending:
        started_at = self._clock.now()
        try:
            return self.runner.run(running.claim, running.context)
        except BaseException as error:  # noqa: BLE001  # a slot that dies would keep its task for ever
            return Ending(AttemptOutcome.FAILED, started_at, self._clock.now(), error=error_of(error))
