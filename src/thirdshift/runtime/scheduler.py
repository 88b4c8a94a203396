"""Makes the tasks of schedules beside a worker: sleeps to the next fire time, and looks.

Any number of processes may do so for one store; which of them makes a task does not matter. The safety interval bounds
every sleep, because the wall clock may be set meanwhile and a wake-up may be lost.
"""

from collections.abc import Callable

from thirdshift.core.clock import Clock
from thirdshift.core.events import FireTimesMissed, Observer, SchedulesFired, ScheduleUnusable
from thirdshift.core.schedule_store import ScheduleStore, Tick
from thirdshift.host.loop import Loop

SAFETY_INTERVAL_S = 1.0
_WITHOUT_SCHEDULES_S = 30.0
"""Nothing can become due then; only the wake-up of the first schedule can be lost."""
_AFTER_FAULT_S = 10.0
_SHORTEST_S = 0.001


class Scheduler:
    """Ticks in a thread of its own. Start it once, stop it once. *declare* is called before each look.

    *declare* stores schedules that were declared since, and returns quickly when there are none.
    """

    def __init__(
        self,
        store: ScheduleStore,
        *,
        clock: Clock,
        observe: Observer,
        check_interval_s: float = SAFETY_INTERVAL_S,
        declare: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._observe = observe
        self._check_interval_s = check_interval_s
        self._declare = declare
        self._unusable: dict[str, str] = {}
        self._loop = Loop("scheduler", self.tick, retry_s=check_interval_s, fault_s=_AFTER_FAULT_S)
        self._unlisten: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Look at once, and from now on."""
        self._unlisten = self._store.on_change(self.wake)
        self._loop.start()

    def stop(self) -> None:
        """Stop; waits for the look in hand."""
        self._loop.stop()
        self._unlisten()

    def wake(self) -> None:
        """Look at once; from any thread."""
        self._loop.wake()

    def tick(self) -> float:
        """Look once; returns the seconds until it should be done again."""
        tick = self.look()
        if tick.next_at is None:
            return self._check_interval_s if tick.failed else max(_WITHOUT_SCHEDULES_S, self._check_interval_s)
        left_s = (tick.next_at - self._clock.now()).total_seconds()
        return max(_SHORTEST_S, min(left_s, self._check_interval_s))

    def look(self) -> Tick:
        """Store what was declared, make the tasks of all fire times that have come, and say so."""
        self._declare()
        tick = self._store.tick()
        if tick.missed:
            self._observe(FireTimesMissed(tick.missed))
        if tick.fires:
            self._observe(SchedulesFired(tick.fires))
        for name, why in tick.failed.items():
            if self._unusable.get(name) != why:
                self._observe(ScheduleUnusable(name, why))
        self._unusable = dict(tick.failed)
        return tick
