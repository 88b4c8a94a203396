"""Coroutines of this process: hundreds of attempts at once on one thread.

A coroutine is cancelled for real. One that swallows its cancellation is cancelled again and again until its grace is
over; then it is like a thread, which nobody can end. One that never yields holds up all others of its worker: the
worker says so, gives what has not begun to other workers, and asks the coroutine to stop. What blocks belongs in a
thread: a plain function, or ``asyncio.to_thread``.
"""

from typing import TYPE_CHECKING, Any

from thirdshift.core.clock import Clock
from thirdshift.core.engine import Registration
from thirdshift.core.events import LoopBlocked, LoopFreed
from thirdshift.core.task import PoolKind, Traces
from thirdshift.runtime.attempt import run_coroutine, stopped
from thirdshift.runtime.context import StopReason, TaskContext, keep_records
from thirdshift.runtime.pools.loop_thread import LoopThread
from thirdshift.runtime.pools.pool import GRACE_S, AttemptSink, Place, Pool, Running

if TYPE_CHECKING:
    import asyncio

DEFAULT_SLOTS = 100
"""How many coroutines run at once when nobody says how many."""

_CLEAN_UP_S = 1.0
"""How long a cancelled coroutine may clean up before it is cancelled again."""
_AGAIN_S = 0.1
_SILENT_S = 1.0
"""A loop that has not answered for so long is blocked."""
_SECOND_LOOK_S = 0.1
"""A process that was stopped or suspended finds its loop silent too, but not when it looks again."""
_PAUSE_S = 0.5
"""How long after a question to the loop the next one may follow."""


class EventLoopPool(Pool):
    """Runs attempts on one event loop, which starts with the first of them."""

    can_kill = False

    def __init__(self, slots: int, clock: Clock) -> None:
        super().__init__(PoolKind.ASYNC, slots, clock)
        self._loop = LoopThread("thirdshift-async", self._fail)
        self._free: list[_Berth] = []
        self._made: set[_Berth] = set()
        """Those whose coroutine is made and has not begun: it takes its claim when it does."""
        self._is_called = False
        self._fault: BaseException | None = None
        self._asked_at: float | None = None
        self._ask_due = 0.0
        self._doubted_at: float | None = None

    def start(self, registration: Registration, sink: AttemptSink, first_slot: int) -> None:
        """Set up the slots; no thread is needed before the first attempt."""
        keep_records()
        self._sink = sink
        numbers = range(first_slot, first_slot + self.slots)
        self._free = [_Berth(number, registration, sink, self) for number in reversed(numbers)]

    def look(self) -> float | None:
        """Do what every pool does, and see whether the loop still turns. Raises what the loop's thread died of."""
        if self._fault is not None:
            raise RuntimeError("the event loop of the worker failed") from self._fault
        waits = [wait_s for wait_s in (super().look(), self._look_at_loop()) if wait_s is not None]
        return min(waits, default=None)

    def close(self) -> None:
        """Let the loop end after its last attempt."""
        super().close()
        self._close_when_idle()

    def join(self) -> None:
        """Wait for the loop's thread; call :meth:`close` first."""
        self._loop.join()

    def cancel(self, berth: "_Berth") -> None:
        """Cancel the attempt in *berth*, and again until its grace is over. Called from another thread."""
        self._loop.call(self._cancel, berth, berth.running, _CLEAN_UP_S, self._clock.monotonic() + GRACE_S)

    def _let_begin(self, claims: int) -> None:  # noqa: ARG002  # it takes as many as there are
        if not self._is_called:
            self._loop.call(self._fill)
            self._is_called = True  # not before: a signal's exception in between would leave all to wait for nothing

    def _close_when_idle(self) -> None:
        with self._changed:
            is_idle = self._is_closed and not self._attempts
        if is_idle:
            self._loop.close()

    def _fail(self, error: BaseException) -> None:
        self._fault = self._fault or error
        self._sink.record(is_idle=False)  # wakes the worker's thread, which looks

    # On the loop

    def _fill(self) -> None:
        """Make coroutines for what waits, as many as there are slots."""
        with self._changed:
            self._is_called = False
            most = self._line.waiting - len(self._made) if self._may_begin() else 0
            berths = [self._free.pop() for _ in range(min(most, len(self._free)))]
            self._made.update(berths)
        for berth in berths:
            berth.task = self._loop.run(self._work(berth))
            berth.task.add_done_callback(berth.landed)

    async def _work(self, berth: "_Berth") -> None:
        """Run the attempt that is the most urgent now. What has not come so far can be taken back while this blocks."""
        with self._changed:
            self._made.discard(berth)
            berth.is_told_to_end = False
            running = self._begin_next(berth, berth)
        if running is None:
            return
        claim = running.claim
        began = self._clock.monotonic()
        berth.enter(claim)
        context = running.context
        ending = await run_coroutine(claim.function, claim.arguments, context, self._clock, context.begin)
        ending = ending._replace(traces=Traces(log=context.take_log()))
        berth.leave()
        with self._changed:
            if berth.is_told_to_end:
                ending = stopped(ending, context.stop_reason)
            self._end_in(berth, running, ending, self._clock.monotonic() - began)
        self._sink.record(is_idle=False)  # by the worker's thread: a commit here would hold up all other coroutines

    def land(self, berth: "_Berth", task: "asyncio.Task[None]") -> None:
        """Take *berth* back, whose coroutine is over, and use it again."""
        with self._changed:
            self._made.discard(berth)  # somebody may have cancelled it before it began
            self._free.append(berth)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)  # of ours: what the function raises is its attempt's end
        self._fill()
        self._close_when_idle()

    def _cancel(self, berth: "_Berth", running: Running, again_s: float, until: float) -> None:
        if berth.running is not running or self._clock.monotonic() >= until:
            return
        assert berth.task is not None, "it runs"
        berth.task.cancel()
        self._loop.call_later(again_s, self._cancel, berth, running, _AGAIN_S, until)

    def _answer(self) -> None:
        with self._changed:
            asked_at, self._asked_at = self._asked_at, None
            was_stuck, self.is_stuck = self.is_stuck, False
        if was_stuck and asked_at is not None:
            self._sink.announce(LoopFreed(self._clock.monotonic() - asked_at))
            self._sink.record(is_idle=False)  # wakes the worker's thread: there is room again

    # On the worker's thread

    def _look_at_loop(self) -> float | None:
        """Ask the loop whether it turns, now and then; returns the seconds until its answer is late."""
        now = self._clock.monotonic()
        if self._asked_at is None:
            return self._ask_loop(now) if self._attempts or self._made else None
        late_at = self._asked_at + _SILENT_S if self._doubted_at is None else self._doubted_at + _SECOND_LOOK_S
        if now < late_at:
            return late_at - now
        if self._doubted_at is None:
            self._doubted_at = now
            return _SECOND_LOOK_S
        if not self.is_stuck:
            self._say_that_it_is_blocked(now - self._asked_at)
        return None

    def _ask_loop(self, now: float) -> float | None:
        if now < self._ask_due:
            return None
        self._asked_at, self._doubted_at, self._ask_due = now, None, now + _PAUSE_S
        self._loop.call(self._answer)
        return _SILENT_S

    def _say_that_it_is_blocked(self, silent_s: float) -> None:
        context, where = self._loop.blocker()
        with self._changed:
            if self._asked_at is None:  # it has just answered
                return
            self.is_stuck = True
            found = [running for running in self._attempts if running.context is context]
        self._sink.announce(LoopBlocked(found[0].claim if found else None, where, silent_s))
        for running in found:
            self._ask(running, StopReason.BLOCKING)


class _Berth(Place):
    """One slot: its coroutine, and how the attempt in it is reached."""

    def __init__(self, number: int, registration: Registration, sink: AttemptSink, pool: EventLoopPool) -> None:
        super().__init__(number, registration, sink)
        self.task: asyncio.Task[None] | None = None
        self.is_told_to_end = False
        self._pool = pool

    def pass_on_stop(self, context: TaskContext) -> None:
        """The coroutine reads the same context."""

    def end(self) -> bool:
        """Have it cancelled."""
        self.is_told_to_end = True
        self._pool.cancel(self)
        return True

    def kill(self) -> None:
        """Never called: a coroutine cannot be killed."""

    def landed(self, task: "asyncio.Task[Any]") -> None:
        """Take notice that the coroutine is over."""
        self._pool.land(self, task)
