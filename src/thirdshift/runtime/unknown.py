"""Functions that a worker cannot find: left to others for a while, then tried again, because code gets installed."""

from collections.abc import Iterable

from thirdshift.core.clock import Clock

TRY_AGAIN_S = 300.0
"""How long a function that was not found is left alone."""


class UnknownFunctions:
    """What one worker cannot find. Its methods belong to who makes a pass; the attributes may be read by any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        self._tried: set[str] = set()
        self._met: set[str] = set()
        self.left_alone: frozenset[str] = frozenset()
        """Tasks of these are not claimed."""
        self.is_trying = False
        """Whether any is tried again, of which the store still says that it was not found."""

    @property
    def all(self) -> frozenset[str]:
        """Return those that are left alone, and those that are tried again and were not found so far."""
        return self.left_alone | self._tried

    def meet(self, function: str) -> bool:
        """Leave *function* alone from now on; returns whether it is met for the first time."""
        is_new = function not in self._met
        self._met.add(function)
        self._tried.discard(function)
        self._until[function] = self._clock.monotonic() + TRY_AGAIN_S
        self._changed()
        return is_new

    def try_again(self, functions: Iterable[str] | None = None) -> bool:
        """Try *functions* again, or those whose time has come; returns whether there are any."""
        now = self._clock.monotonic()
        due = {each for each, until in self._until.items() if until <= now} if functions is None else {*functions}
        for function in due:
            self._until.pop(function, None)
        self._tried |= due
        self._changed()
        return bool(due)

    def found(self, called: Iterable[str]) -> set[str]:
        """Return those of the functions that were *called* which had not been found before."""
        found = self._tried & {*called}
        self._tried -= found
        self._met -= found
        self._changed()
        return found

    def _changed(self) -> None:
        self.left_alone = frozenset(self._until)
        self.is_trying = bool(self._tried)
