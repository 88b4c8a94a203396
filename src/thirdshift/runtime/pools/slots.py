"""What all pools share: a number of slots, each with a thread that takes claims one by one and runs them.

How one attempt is run is the :class:`Runner`'s business: in the slot's own thread, or in a child process that the
slot's thread looks after.
"""

import heapq
import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from thirdshift.core.clock import Clock
from thirdshift.core.engine import Registration
from thirdshift.core.outcome import Report
from thirdshift.core.task import Claim, PoolKind
from thirdshift.runtime.attempt import Ending
from thirdshift.runtime.context import StopReason, TaskContext

_AHEAD_S = 0.02
_AHEAD_LIMIT = 256
GRACE_S = 2.0
"""How long an attempt that was told to end may clean up before it is killed."""

ReportEnd = Callable[[Report], None]
ReportProgress = Callable[[Claim, Mapping[str, Any]], None]


class Runner(Protocol):
    """Runs the attempts of one slot, one after another, on the slot's thread."""

    def run(self, claim: Claim, context: TaskContext) -> Ending:
        """Run one attempt to its end. Raises nothing."""

    def pass_on_stop(self, context: TaskContext) -> None:
        """``context.stop_reason`` was set; pass it on where the function runs. Called from another thread."""

    def end(self) -> bool:
        """Make the running attempt end (SIGTERM); False where that is impossible. Called from another thread."""

    def kill(self) -> None:
        """End the running attempt at once (SIGKILL). Called from another thread, only where :meth:`end` is True."""

    def close(self) -> None:
        """Release what the runner holds; the slot is idle."""


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
        self._is_closed = False
        self._mean_run_s: float | None = None

    @abstractmethod
    def make_runner(self, number: int, registration: Registration) -> Runner:
        """Return the runner of slot *number*."""

    def start(self, registration: Registration, report: ReportEnd, progress: ReportProgress) -> None:
        """Start the slots; *report* is called from their threads at the end of every attempt."""
        for number in range(self.slots):
            slot = Slot(self, self.make_runner(number, registration), report, progress)
            self._slots.append(slot)
            slot.thread = threading.Thread(target=slot.work, name=f"thirdshift-{self.kind.value}-{number}", daemon=True)
            slot.thread.start()

    def room(self) -> int:
        """Return how many more claims the pool takes: its free slots, and a little ahead when attempts are short."""
        with self._changed:
            ahead = 0
            if self._mean_run_s is not None:
                ahead = min(_AHEAD_LIMIT, int(self.slots * _AHEAD_S / max(self._mean_run_s, 1e-6)))
            busy = sum(slot.claim is not None for slot in self._slots)
            return max(0, self.slots + ahead - busy - len(self._backlog))

    def give(self, claims: Sequence[Claim]) -> None:
        """Queue *claims*; a higher priority overtakes what was given earlier and has not started."""
        with self._changed:
            for claim in claims:
                heapq.heappush(self._backlog, (-claim.priority, next(self._order), claim))
            self._changed.notify(len(claims))

    def take_back(self) -> list[Claim]:
        """Return the claims whose function was never called; they are no longer the pool's."""
        with self._changed:
            claims = [claim for _, _, claim in self._backlog]
            self._backlog.clear()
            return claims

    def busy(self) -> list[Claim]:
        """Return the attempts that run now."""
        with self._changed:
            return [slot.claim for slot in self._slots if slot.claim is not None]

    def ask_to_stop(self, reason: StopReason, *, task_id: str | None = None) -> None:
        """Set ``should_stop`` for one running attempt, or for all."""
        for slot in self._running(task_id):
            slot.ask_to_stop(reason)

    def end(self, reason: StopReason, *, task_id: str | None = None) -> None:
        """Ask to stop, then make it so: what can be ended is ended, and killed after the grace time."""
        for slot in self._running(task_id):
            slot.ask_to_stop(reason)
            if slot.kill_at is None and slot.runner.end():
                slot.kill_at = self._clock.monotonic() + GRACE_S

    def look(self) -> tuple[list[Claim], float | None]:
        """End what ran too long, kill what outlived its grace.

        Returns the attempts that have just overrun, and the seconds until the next look is due.
        """
        now = self._clock.monotonic()
        overrun: list[Claim] = []
        due: list[float] = []
        for slot in self._running(None):
            claim = slot.claim
            if claim is not None and slot.deadline is not None and slot.deadline <= now:
                slot.deadline = None
                overrun.append(claim)
                self.end(StopReason.TIMED_OUT, task_id=claim.id)
            if slot.kill_at is not None and slot.kill_at <= now:
                slot.kill_at = None
                slot.runner.kill()
            due += [moment for moment in (slot.deadline, slot.kill_at) if moment is not None]
        return overrun, min(due) - now if due else None

    def close(self) -> None:
        """Let idle slots end; a busy one ends after its attempt."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for the slots' threads; call :meth:`close` first."""
        for slot in self._slots:
            if slot.thread is not None:
                slot.thread.join()

    def take(self, slot: "Slot") -> Claim | None:
        """Give *slot* its next claim, waiting for one; ``None`` when the pool is closed. Called by the slot."""
        with self._changed:
            slot.claim = None
            while not self._backlog:
                if self._is_closed:
                    return None
                self._changed.wait()
            _, _, claim = heapq.heappop(self._backlog)
            slot.claim = claim
            slot.context = TaskContext(claim.id, claim.name, claim.attempt, partial(slot.progress, claim))
            slot.kill_at = None
            slot.deadline = None if claim.timeout_s is None else self._clock.monotonic() + claim.timeout_s
            return claim

    def measured(self, run_s: float) -> None:
        """Learn how long attempts take. Called by the slots."""
        with self._changed:
            mean = self._mean_run_s
            self._mean_run_s = run_s if mean is None else mean + 0.1 * (run_s - mean)

    def _running(self, task_id: str | None) -> list["Slot"]:
        with self._changed:
            return [
                slot for slot in self._slots if slot.claim is not None and (task_id is None or slot.claim.id == task_id)
            ]


class Slot:
    """One slot: its thread, its runner, and the attempt that it runs now."""

    def __init__(self, pool: SlotPool, runner: Runner, report: ReportEnd, progress: ReportProgress) -> None:
        self.runner = runner
        self.progress = progress
        self.claim: Claim | None = None
        self.context = TaskContext()
        self.deadline: float | None = None
        self.kill_at: float | None = None
        self.thread: threading.Thread | None = None
        self._pool = pool
        self._report = report

    def work(self) -> None:
        """Run claim after claim until the pool is closed."""
        while (claim := self._pool.take(self)) is not None:
            ending = self.runner.run(claim, self.context)
            self._pool.measured((ending.finished_at - ending.started_at).total_seconds())
            self._report(
                Report(
                    claim=claim,
                    outcome=ending.outcome,
                    started_at=ending.started_at,
                    finished_at=ending.finished_at,
                    encoded_result=ending.encoded_result,
                    error=ending.error,
                    after_s=ending.after_s,
                )
            )
        self.runner.close()

    def ask_to_stop(self, reason: StopReason) -> None:
        """Set ``should_stop`` for the running attempt; the first reason stays."""
        context = self.context
        if context.stop_reason is None:
            context.stop_reason = reason
            self.runner.pass_on_stop(context)
