"""Threads of this process: the cheapest place for a task. A thread cannot be killed, only asked to stop.

So an attempt that has to end and goes on loses its place to another thread, and ends when its function returns: until
then its task is nobody else's. There are as many such replacements as slots; when they are used up the pool is stuck.
"""

import contextlib
import time
from collections.abc import Callable

from thirdshift.core.clock import Clock
from thirdshift.core.declare import declaration_of
from thirdshift.core.engine import Registration
from thirdshift.core.events import PoolFreed, PoolStuck
from thirdshift.core.outcome import Ending
from thirdshift.core.reference import is_imported, resolve
from thirdshift.core.task import Claim, PoolKind, Traces
from thirdshift.runtime.attempt import detached, run_attempt
from thirdshift.runtime.context import StopReason, TaskContext, keep_records
from thirdshift.runtime.interrupt import Interrupt
from thirdshift.runtime.pools.pool import Running
from thirdshift.runtime.pools.slots import Runner, Slot, SlotPool

RETURN_S = 0.25
"""How long an attempt that was told to end may take to return before another thread takes its place."""


class ThreadPool(SlotPool):
    """Runs attempts in its slots' own threads, and in replacements for those that do not return."""

    can_kill = False

    def __init__(self, slots: int, clock: Clock) -> None:
        super().__init__(PoolKind.THREAD, slots, clock)
        self.spare_slots = slots
        self._spare = list(range(slots, 2 * slots))
        """The numbers that no slot has: so many more threads may be started."""
        self._overrun: set[Running] = set()
        """Attempts that overran and whose functions have not returned."""

    def make_runner(self, number: int, registration: Registration) -> Runner:  # noqa: ARG002  # threads need no lock
        """Return a runner that calls the function where it stands."""
        return ThreadRunner(self._clock)

    @property
    def grace_s(self) -> float:
        """How long an attempt that was told to end may go on before it loses its place."""
        return RETURN_S

    def leave(self, slot: Slot, running: Running, ending: Ending, run_s: float) -> Running | None:
        """Take the end of an attempt; returns the next one if one waits and the slot is still needed."""
        self._end_in(slot, running, ending, run_s)
        if running.is_overrun:
            self._come_back(slot, running)
            if slot.is_retired:
                return None
        return self._begin_next(slot, slot.runner)

    def join(self) -> None:
        """Wait for the slots' threads but those whose attempt was detached; call :meth:`close` first."""
        for slot in self._slots:
            if slot.thread is not None and slot.running not in self._overrun:
                slot.thread.join()

    def _kill(self, running: Running) -> None:
        """Give the attempt's place to another thread; later, where its function is declared so, let go of it."""
        with running.mutex:
            running.kill_at = None
        if running.context.stop_reason is StopReason.SHUTDOWN:
            return  # nothing begins any more, and that it was interrupted is not its fault
        if not running.is_overrun:
            self._overran(running)
        elif self._detach_after_s(running) is not None:
            self._detach(running)

    def _overran(self, running: Running) -> None:
        """Let another thread take the attempt's place, so that other tasks go on."""
        super()._overran(running)
        with self._changed:
            if running.is_over:
                return
            self._overrun.add(running)
            self._count_capacity()
            must_say = self._may_begin() and not self._replace() and not self.is_stuck
            self.is_stuck |= must_say
            claims = [each.claim for each in self._overrun]
            self._distrust(running)
        if must_say:
            self._sink.announce(PoolStuck(self.kind, claims))
        detach_after_s = self._detach_after_s(running)
        if detach_after_s is not None:
            running.kill_at = self._clock.monotonic() + max(0.0, detach_after_s - self.grace_s)
        self._sink.record(is_idle=False)  # wakes the worker's thread: there is room again, or what waits must go

    def _replace(self) -> bool:
        """Start one more thread; False when there are as many as may be, or the system has none."""
        self._slots = [slot for slot in self._slots if slot.thread is not None and slot.thread.is_alive()]
        if not self._spare:
            return False
        try:
            self._add_slot(self._spare[-1])
        except RuntimeError:
            return False
        self._spare.pop()
        return True

    def _distrust(self, running: Running) -> None:
        """Forget the attempt's progress in the slot file: if it takes the worker down, that must count."""
        for slot in self._slots:
            if slot.running is running:
                slot.enter(running.claim)

    def _come_back(self, slot: Slot, running: Running) -> None:
        """Retire *slot*, whose function has returned, unless it is needed in place of another."""
        with self._changed:
            self._overrun.discard(running)
            self._count_capacity()
            replacements = self.slots - len(self._spare)
            slot.is_retired = replacements > len(self._overrun)
            if slot.is_retired:
                self._spare.append(slot.number - self._first_slot)
            is_freed = self.is_stuck and len(self._overrun) <= self.slots
            self.is_stuck &= not is_freed
        if is_freed:
            self._sink.announce(PoolFreed(self.kind))

    def _detach_after_s(self, running: Running) -> float | None:
        """Return how long after its limit the attempt may be let go of; ``None``: never."""
        if is_imported(running.claim.function):
            with contextlib.suppress(Exception):  # a module's own __getattr__ may raise anything: then it says nothing
                return declaration_of(resolve(running.claim.function)).detach_after_s
        return None

    def _detach(self, running: Running) -> None:
        """Report that the attempt has ended, while its function still runs. What that reports later is dropped."""
        with self._changed:
            with running.mutex:
                if running.is_over:
                    return
                self._sink.report(running.claim, detached(running.context, self._clock.now()))
                self._attempts.discard(running)
                self._line.end(running.claim)
            self._count_capacity()
        self._sink.record(is_idle=False)

    def _count_capacity(self) -> None:
        """Let those that overran and are held hold up nobody. ``_changed`` is held."""
        self._capacity = self.slots + len(self._overrun & self._attempts)


class ThreadRunner:
    """Calls functions on the thread that asks it to."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._interrupt: Interrupt | None = None
        """Of the last function that may be interrupted, which need not be the one that runs."""
        keep_records()

    def run(self, claim: Claim, context: TaskContext, enter: Callable[[], None]) -> Ending:
        """Run one attempt to its end."""
        enter()
        before_s = time.thread_time()
        ending = run_attempt(claim.function, claim.arguments, context, self._clock, new_interrupt=self._new_interrupt)
        return ending._replace(traces=Traces(cpu_s=time.thread_time() - before_s, log=context.take_log()))

    def pass_on_stop(self, context: TaskContext) -> None:
        """The function reads the same context."""

    def end(self) -> bool:
        """Raise an exception in the function if it is declared so; else a thread cannot be ended."""
        return self._interrupt is not None and self._interrupt.throw()

    def kill(self) -> None:
        """Never called: a thread cannot be killed."""

    def close(self) -> None:
        """Nothing is held between attempts."""

    def _new_interrupt(self) -> Interrupt:
        self._interrupt = Interrupt()
        return self._interrupt
