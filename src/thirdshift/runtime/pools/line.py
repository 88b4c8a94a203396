"""The claims of a pool, from the moment they are given to it until the end of each is reported.

Nothing here takes a lock: each step is one operation on a list or a dict, which Python makes atomic. A lock that all
slots share would turn the end of every short task into a change of threads; with it four slots needed four times the
CPU of one (benchmarks/LOG.md, "Slots that share no lock").
"""

import heapq
import itertools
from collections.abc import Callable

from thirdshift.core.task import Claim

_Entry = tuple[int, int, Claim]
"""(priority turned round, order of arrival, claim): no two of them compare their claims."""


class Line:
    """Claims in the order in which they begin: the highest priority first, then the first that came.

    Any thread may call :meth:`next`, :meth:`put_back` and :meth:`end`; the others belong to who holds the pool's lock.
    """

    def __init__(self) -> None:
        self._waiting: list[_Entry] = []
        self._held: dict[tuple[str, int], _Entry] = {}
        self._order = itertools.count()

    def __len__(self) -> int:
        """How many claims there are, waiting or not."""
        return len(self._held)

    @property
    def waiting(self) -> int:
        """How many have not begun."""
        return len(self._waiting)

    def claims(self) -> list[Claim]:
        """Return all claims, waiting or not."""
        return [claim for _, _, claim in list(self._held.values())]

    def is_waiting(self, claim: Claim) -> bool:
        """Return whether *claim* is here and has not begun."""
        return any(held is claim for _, _, held in list(self._waiting))

    def add(self, claim: Claim) -> None:
        """Put *claim* where its priority wants it."""
        entry = -claim.priority, next(self._order), claim
        self._held[claim.id, claim.attempt] = entry
        heapq.heappush(self._waiting, entry)

    def next(self) -> Claim | None:
        """Return the claim that begins next; it waits no longer."""
        try:
            return heapq.heappop(self._waiting)[2]
        except IndexError:
            return None

    def put_back(self, claim: Claim) -> None:
        """Let *claim* wait again where it was."""
        heapq.heappush(self._waiting, self._held[claim.id, claim.attempt])

    def end(self, claim: Claim) -> None:
        """Forget *claim*, whose end is reported; nothing happens when it was before."""
        self._held.pop((claim.id, claim.attempt), None)

    def take(self, is_wanted: Callable[[Claim], bool]) -> list[Claim]:
        """Return the wanted ones of those that wait; they are no longer here. The others may begin afterwards."""
        taken: list[Claim] = []
        kept: list[Claim] = []
        while (claim := self.next()) is not None:
            (taken if is_wanted(claim) else kept).append(claim)
        for claim in kept:
            self.put_back(claim)
        for claim in taken:
            self.end(claim)
        return taken
