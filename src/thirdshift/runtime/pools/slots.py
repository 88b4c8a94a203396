"""Pools in which each slot has a thread, which takes claims one by one and runs them.

How one attempt is run is the :class:`Runner`'s business: in the slot's own thread, or in a child process that the
slot's thread looks after.
"""

import threading
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Protocol

from thirdshift.core.clock import Clock
from thirdshift.core.engine import Registration
from thirdshift.core.outcome import Ending
from thirdshift.core.task import AttemptOutcome, Claim, PoolKind
from thirdshift.runtime.attempt import error_of
from thirdshift.runtime.context import TaskContext
from thirdshift.runtime.pools.pool import AttemptSink, Control, Place, Pool, Running


class Runner(Control, Protocol):
    """Runs the attempts of one slot, one after another, on the slot's thread."""

    def run(self, claim: Claim, context: TaskContext, enter: Callable[[], None]) -> Ending:
        """Run one attempt to its end. Raises nothing.

        Calls *enter* at the last moment before the function may be called: what dies earlier is not the function's
        doing.
        """

    def close(self) -> None:
        """Release what the runner holds; the slot is idle."""


class SlotPool(Pool):
    """A pool with a thread for each slot."""

    def __init__(self, kind: PoolKind, slots: int, clock: Clock) -> None:
        super().__init__(kind, slots, clock)
        self._slots: list[Slot] = []
        self._registration: Registration
        self._first_slot: int

    @abstractmethod
    def make_runner(self, number: int, registration: Registration) -> Runner:
        """Return the runner of slot *number*."""

    def start(self, registration: Registration, sink: AttemptSink, first_slot: int) -> None:
        """Start the slots."""
        self._sink = sink
        self._registration = registration
        self._first_slot = first_slot
        for number in range(self.slots):
            self._add_slot(number)

    def join(self) -> None:
        """Wait for the slots' threads; call :meth:`close` first."""
        for slot in self._slots:
            if slot.thread is not None:
                slot.thread.join()

    def take(self, slot: "Slot") -> Running | None:
        """Give *slot* its next claim, waiting for one; ``None`` when the pool is closed. Called by the slot."""
        with self._changed:
            while not (self._is_closed or slot.is_retired):
                running = self._begin_next(slot, slot.runner)
                if running is not None:
                    return running
                self._changed.wait()
            return None

    def leave(self, slot: "Slot", running: Running, ending: Ending, run_s: float) -> Running | None:
        """Take the end of an attempt; returns the next one if one waits. Called by the slot."""
        self._end_in(slot, running, ending, run_s)
        return self._begin_next(slot, slot.runner)

    def _let_begin(self, claims: int) -> None:
        self._changed.notify(claims)

    def _add_slot(self, number: int) -> None:
        """Start the slot *number* of this pool. Raises ``RuntimeError`` when the system has no thread left."""
        runner = self.make_runner(number, self._registration)
        slot = Slot(self, self._first_slot + number, runner, self._registration, self._sink, self._clock)
        slot.thread = threading.Thread(target=slot.work, name=f"thirdshift-{self.kind.value}-{number}", daemon=True)
        slot.thread.start()
        self._slots.append(slot)


class Slot(Place):
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
        super().__init__(number, registration, sink)
        self.runner = runner
        self.is_retired = False
        """Whether another one has taken its place, so that its thread ends."""
        self.thread: threading.Thread | None = None
        self._pool = pool
        self._clock = clock

    def work(self) -> None:
        """Run claim after claim until the pool is closed."""
        running = self._pool.take(self)
        while running is not None:
            began = self._clock.monotonic()
            ending = self._run(running)
            self.leave()
            following = self._pool.leave(self, running, ending, self._clock.monotonic() - began)
            self.sink.record(is_idle=following is None)
            running = following or self._pool.take(self)
        self.runner.close()

    def _run(self, running: Running) -> Ending:
        started_at = self._clock.now()
        try:
            return self.runner.run(running.claim, running.context, partial(self.enter, running.claim))
        except BaseException as error:  # noqa: BLE001  # a slot that dies would keep its task for ever
            return Ending(AttemptOutcome.FAILED, started_at, self._clock.now(), error=error_of(error))
