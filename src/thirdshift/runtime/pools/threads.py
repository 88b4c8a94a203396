"""Threads of this process: the cheapest place for a task. A thread cannot be killed, only asked to stop."""

import time
from collections.abc import Callable

from thirdshift.core.clock import Clock
from thirdshift.core.engine import Registration
from thirdshift.core.outcome import Ending
from thirdshift.core.task import Claim, PoolKind, Traces
from thirdshift.runtime.attempt import run_attempt
from thirdshift.runtime.context import TaskContext, keep_records
from thirdshift.runtime.pools.slots import Runner, SlotPool


class ThreadPool(SlotPool):
    """Runs attempts in its slots' own threads."""

    def __init__(self, slots: int, clock: Clock) -> None:
        super().__init__(PoolKind.THREAD, slots, clock)

    def make_runner(self, number: int, registration: Registration) -> Runner:  # noqa: ARG002  # threads need no lock
        """Return a runner that calls the function where it stands."""
        return ThreadRunner(self._clock)


class ThreadRunner:
    """Calls functions on the thread that asks it to."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        keep_records()

    def run(self, claim: Claim, context: TaskContext, enter: Callable[[], None]) -> Ending:
        """Run one attempt to its end."""
        enter()
        before_s = time.thread_time()
        ending = run_attempt(claim.function, claim.arguments, context, self._clock)
        return ending._replace(traces=Traces(cpu_s=time.thread_time() - before_s, log=context.take_log()))

    def pass_on_stop(self, context: TaskContext) -> None:
        """The function reads the same context."""

    def end(self) -> bool:
        """Return False: a thread cannot be ended."""
        return False

    def kill(self) -> None:
        """Never called: a thread cannot be ended."""

    def close(self) -> None:
        """Nothing is held between attempts."""
