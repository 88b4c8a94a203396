"""Waiting without polling: for a task to finish, and for room in a full queue.

One wait is an object that is asked step by step, so that a thread, which may block, and an event loop, which must not,
wait by the same rules. Who waits gives a function that wakes it; it is called from any thread and must be quick.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from thirdshift.core.engine import Engine
from thirdshift.core.errors import QueueFull, TaskNotFound, WaitTimeout
from thirdshift.core.task import BackgroundTask, NewTask, TaskId
from thirdshift.runtime.worker import SAFETY_INTERVAL_S

Wake = Callable[[], None]

_REST = 10
"""After a look at all tasks that are waited for, rest this many times as long as it took: many waits stay cheap."""
_LONGEST_SLEEP_S = 3600.0
"""Locks and event loops refuse to sleep for ever; a look now and then costs nothing."""
_FEW = 4
"""So many look for themselves when something finished elsewhere: that is sooner than one question about all of them."""


class Finishes:
    """Tells who waits that a task finished. One thread, while somebody waits, finds what no wake-up told.

    In this process the engine says which tasks finished, and exactly those who wait for them are woken. After a wake-up
    from another process one question to the store is about all that are waited for.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._mutex = threading.Lock()
        self._waits: dict[str, set[FinishWait]] = {}
        self._thread: threading.Thread | None = None
        self._unlisten: Wake
        self._is_asked = threading.Event()
        self._rests_until = 0.0

    def wait(self, task_id: str, timeout_s: float | None, wake: Wake) -> "FinishWait":
        """Return a new wait; it begins with its first look."""
        return FinishWait(self, self._engine, task_id, timeout_s, wake)

    def watch(self, wait: "FinishWait") -> None:
        """Wake *wait* once, when its task finished after this call."""
        with self._mutex:
            if not wait.is_over:
                self._waits.setdefault(wait.task_id, set()).add(wait)
                if self._thread is None:
                    self._start()

    def forget(self, wait: "FinishWait") -> None:
        """Wake *wait* no more."""
        with self._mutex:
            wait.is_over = True
            others = self._waits.get(wait.task_id, set())
            others.discard(wait)
            if not others:
                self._waits.pop(wait.task_id, None)

    def _start(self) -> None:
        self._unlisten = self._engine.on_finished(self._is_asked.set, self._look_if_rested, self._tell)
        thread = threading.Thread(target=self._run, name="thirdshift-waits", daemon=True)
        try:
            thread.start()
        except BaseException:
            self._unlisten()
            raise
        self._thread = thread

    def _run(self) -> None:
        while self._is_needed():
            if self._is_asked.wait(SAFETY_INTERVAL_S):
                time.sleep(max(0.0, self._rests_until - time.monotonic()))
                self._is_asked.clear()
            self._look()

    def _is_needed(self) -> bool:
        with self._mutex:
            if not self._waits:
                self._unlisten()
                self._thread = None
            return self._thread is not None

    def _look_if_rested(self) -> None:
        watched = self._watched()
        if len(watched) <= _FEW:
            self._tell(watched)
        elif time.monotonic() < self._rests_until:
            self._is_asked.set()
        else:
            self._look()

    def _look(self) -> None:
        """Ask the store about all tasks that are waited for, and wake whose task changes no more."""
        watched = self._watched()
        if not watched:
            return
        began = time.monotonic()
        try:
            found = self._engine.statuses(watched)
        except Exception:  # noqa: BLE001  # each finds the error by its own look, in its own thread
            over = watched
        else:
            over = [task_id for task_id in watched if task_id not in found or found[task_id].is_finished]
        now = time.monotonic()
        self._rests_until = now + min(SAFETY_INTERVAL_S, _REST * (now - began))
        self._tell(over)

    def _watched(self) -> list[str]:
        with self._mutex:
            return list(self._waits)

    def _tell(self, task_ids: Iterable[str]) -> None:
        with self._mutex:
            waits = [wait for task_id in task_ids for wait in self._waits.pop(task_id, ())]
        for wait in waits:
            wait.wake()


class FinishWait:
    """One wait for one task. ``look`` until it gives the task; in between sleep until woken, at most ``left_s``."""

    def __init__(self, finishes: Finishes, engine: Engine, task_id: str, timeout_s: float | None, wake: Wake) -> None:
        self.task_id: Final = task_id
        self.wake: Final = wake
        self.is_over = False
        self._is_new = True
        self._finishes = finishes
        self._engine = engine
        self._timeout_s = timeout_s
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s

    def look(self) -> BackgroundTask | None:
        """Return the task if it is finished. Raises :class:`WaitTimeout` and :class:`TaskNotFound`."""
        self._finishes.watch(self)  # before the look, so that nothing happens unseen in between
        if self._is_new and (status := self._engine.status(self.task_id)) is not None and not status.is_finished:
            self._is_new = False  # who looks again was woken: then one question for the whole task is less
        else:
            found = self._engine.get(self.task_id)
            if found is None:
                raise TaskNotFound(self.task_id)
            status = found.status
            if status.is_finished:
                return found
        if self.left_s() == 0:
            raise WaitTimeout(self.task_id, self._timeout_s or 0.0, status.value)
        return None

    def left_s(self) -> float | None:
        """Return how long to sleep at most, 0 when the wait is too long, ``None`` for no limit."""
        return None if self._deadline is None else min(max(0.0, self._deadline - time.monotonic()), _LONGEST_SLEEP_S)

    def leave(self) -> None:
        """End the wait; quick. Who waits calls it in any case."""
        self._finishes.forget(self)


class RoomLine:
    """The submits that wait for room in a full queue: first come, first served; only the first is woken and tries."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._mutex = threading.Lock()
        self._line: OrderedDict[WaitingSubmit, None] = OrderedDict()
        self._unlisten: Wake | None = None

    def submit(self, tasks: Sequence[NewTask], queue_size: int, wait_s: float, wake: Wake) -> "WaitingSubmit":
        """Return a submit of *tasks* that waits at most *wait_s* seconds, and take its place in the line."""
        submit = WaitingSubmit(self, self._engine, tasks, queue_size, wait_s, wake)
        with self._mutex:
            self._line[submit] = None
        return submit

    def is_first(self, submit: "WaitingSubmit") -> bool:
        """Return whether it is the turn of *submit*."""
        with self._mutex:
            return next(iter(self._line), None) is submit

    def listen(self) -> bool:
        """Wake the first from now on when there is room; returns whether that is new."""
        with self._mutex:
            if self._unlisten is not None or not self._line:
                return False
            self._unlisten = self._engine.on_room(self._wake_first)
            return True

    def leave(self, submit: "WaitingSubmit") -> None:
        """Take *submit* out of the line; the next one tries."""
        with self._mutex:
            self._line.pop(submit, None)
            if not self._line and self._unlisten is not None:
                self._unlisten()
                self._unlisten = None
        self._wake_first()

    def _wake_first(self) -> None:
        with self._mutex:
            first = next(iter(self._line), None)
        if first is not None:
            first.wake()


class WaitingSubmit:
    """One submit that waits for room. ``store`` until it is done; in between sleep until woken, at most ``left_s``."""

    def __init__(
        self, line: RoomLine, engine: Engine, tasks: Sequence[NewTask], queue_size: int, wait_s: float, wake: Wake
    ) -> None:
        self.wake: Final = wake
        self.ids: Sequence[TaskId] = ()
        """What the submit gave back, once it is done."""
        self._line = line
        self._engine = engine
        self._tasks = tasks
        self._queue_size = queue_size
        self._wait_s = wait_s if len(tasks) <= queue_size else 0.0  # what never fits need not wait
        self._deadline = time.monotonic() + self._wait_s

    def store(self) -> bool:
        """Store the tasks if it is their turn and there is room. Raises :class:`QueueFull` when that took too long."""
        is_listening = True
        while is_listening and self._line.is_first(self):
            try:
                self.ids = self._engine.submit(self._tasks, queue_size=self._queue_size)
            except QueueFull:
                is_listening = self._line.listen()  # if that is new, there may be room since the refusal
            else:
                return True
        if time.monotonic() >= self._deadline:
            raise QueueFull(self._queue_size, self._wait_s)
        return False

    def left_s(self) -> float:
        """Return how long to sleep at most: the first looks again at its safety interval."""
        left_s = max(0.0, self._deadline - time.monotonic())
        return min(left_s, SAFETY_INTERVAL_S) if self._line.is_first(self) else left_s

    def leave(self) -> None:
        """Leave the line; quick. Who waits calls it in any case."""
        self._line.leave(self)
