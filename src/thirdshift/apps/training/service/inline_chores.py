"""Chores in line with the daemon's loop, which waits for each: the last resort where none may run beside a training."""

from collections.abc import Callable

from thirdshift import BackgroundTaskManager
from thirdshift.apps.training.service.chores import Chores


class InlineChores:
    """Has a worker, made by *make_worker*, for as long as there is a chore to do, or until *must_stop*."""

    def __init__(
        self, chores: Chores, make_worker: Callable[[], BackgroundTaskManager], must_stop: Callable[[], bool]
    ) -> None:
        self._chores = chores
        self._make_worker = make_worker
        self._must_stop = must_stop

    def tick(self) -> None:
        """Do all chores that wait; raises the error of a worker that gave up."""
        if self._chores.is_idle or self._must_stop():
            return
        with self._make_worker() as worker:
            while not (self._must_stop() or worker.wait_until_drained(timeout=0.2)):
                if worker.failure is not None:
                    raise worker.failure
