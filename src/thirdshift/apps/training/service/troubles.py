"""What went wrong in the daemon's own process: survived by the loop, told, and kept for the status."""

import time
import traceback
from collections.abc import Callable
from typing import Any

from thirdshift.apps.training.moments import iso
from thirdshift.apps.training.notices import Notify, Remarked
from thirdshift.apps.training.service.steps import Step


class Troubles:
    """Makes steps that survive errors, *pause_s* seconds of rest after the first, and remembers the newest error."""

    def __init__(self, pause_s: float, notify: Notify) -> None:
        self._pause_s = pause_s
        self._notify = notify
        self.last_error: dict[str, Any] | None = None
        """The newest error: what, when, and its traceback."""

    def step(self, work: Callable[[], object]) -> Step:
        """Return *work* as a part of the daemon's pass."""
        return Step(work, self._pause_s, self._survive)

    def remember(self, error: BaseException) -> None:
        """Keep *error* for the status."""
        text = "".join(traceback.format_exception(error))
        self.last_error = {"error": f"{type(error).__name__}: {error}", "when": iso(time.time()), "traceback": text}

    def remember_end(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Keep whatever ends the daemon; an ``__exit__`` that stops nothing."""
        if isinstance(error, Exception):
            self.remember(error)

    def _survive(self, error: Exception, pause_s: float) -> None:
        self.remember(error)
        self._notify(Remarked(f"error: {error}; trying again in {pause_s:g} s"))
