"""One part of the daemon's pass. After an error it rests, longer each time, while the other parts go on."""

import logging
import time
from collections.abc import Callable

_LONGEST_PAUSE = 10
"""Times the first pause: pauses double up to this."""

_logger = logging.getLogger("thirdshift.training")


class Step:
    """Calls *work*, never raises, and stays quiet for *pause_s* (then 2, 4 … up to 10 times that) after an error.

    *failed* is told of each error and of the pause that follows. *clock* counts seconds and never steps.
    """

    def __init__(
        self,
        work: Callable[[], object],
        pause_s: float,
        failed: Callable[[Exception, float], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._pause_s = pause_s
        self._failed = failed
        self._clock = clock
        self._failures = 0
        self._rests_until = float("-inf")

    def __call__(self) -> None:
        """Do the work, unless it rests."""
        if self._clock() < self._rests_until:
            return
        try:
            self._work()
        except Exception as error:
            pause_s = self._pause_s * min(2**self._failures, _LONGEST_PAUSE)
            self._failures += 1
            self._rests_until = self._clock() + pause_s
            _logger.exception("training.step_failed")
            self._failed(error, pause_s)
        else:
            self._failures = 0
