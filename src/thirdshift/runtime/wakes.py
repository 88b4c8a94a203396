"""Notices that wake-ups are being lost: work that the safety interval found and that nobody had announced.

Every submit is announced after its commit, by a call in this process and by a datagram to the others. A worker that
looks by its timer alone, or because the log was written to, with free slots and nothing due, and yet finds a task that
nobody ever claimed, has not been told. It may still be told (the commit comes first), so the verdict is given some time
later. That is also how a foreign writer is noticed, somebody who writes tasks with plain ``sqlite3``.

It costs an idle worker nothing: the safety interval reads one row in any case, and where nobody writes the kernel says
nothing. ``PRAGMA data_version`` would be one more statement a second, and says no more: it changes with our own commits
too, so those would have to be told apart by this very rule.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from thirdshift.core.clock import Clock
from thirdshift.core.engine import ClaimRequest, Exchange
from thirdshift.core.task import Claim, PoolKind

GRACE_S = 0.5
"""How long an announcement may follow its commit: far longer than a busy machine keeps a thread waiting."""
_SAY_AGAIN_S = 60.0


class WakeWatch:
    """Counts lost wakes.

    :meth:`hear` is called from any thread, :meth:`found` and :meth:`passed` by the one that makes a pass, all else by
    the worker's own.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard = 0
        self._heard_before_pass = 0
        self._next_due: datetime | None = None
        self._dry: frozenset[PoolKind] = frozenset()
        self._suspicion: tuple[int, float] | None = None
        self._said_at: float | None = None
        self.lost = 0
        """How often work was found that nobody had announced."""

    def hear(self) -> None:
        """Take notice of an announcement."""
        self._heard += 1  # two threads may count as one: only whether it changed matters

    def is_unannounced(self) -> bool:
        """Return whether a pass that nobody asked for should find nothing new; begins that pass."""
        heard, self._heard_before_pass = self._heard_before_pass, self._heard
        is_due = self._next_due is not None and self._next_due <= self._clock.now()
        return heard == self._heard and not is_due

    def passed(self, request: ClaimRequest | None, exchange: Exchange) -> None:
        """Remember what a pass has left to find: what is due later, and what there was no room for."""
        self._next_due = exchange.next_due
        # what a limit has left is found when that allows it; with a first task, perhaps nothing else was looked for
        if request is None or exchange.is_limited or request.first is not None:
            self._dry = frozenset()
        elif not exchange.claims:
            self._dry = frozenset(request.free)
        else:
            taken = Counter(claim.pool for claim in exchange.claims)
            self._dry = frozenset(kind for kind, free in request.free.items() if taken[kind] < free)

    def found(self, claims: Sequence[Claim]) -> None:
        """Take what such a pass has found, before it is remembered itself.

        What there was no room for before was announced then, and what was claimed before comes back without a word.
        """
        if self._suspicion is None and any(claim.attempt == 1 and claim.pool in self._dry for claim in claims):
            self._suspicion = self._heard, self._clock.monotonic() + GRACE_S

    def judge(self) -> bool:
        """Return whether a wake-up has been lost since the last call."""
        if self._suspicion is None or self._clock.monotonic() < self._suspicion[1]:
            return False
        (heard, _), self._suspicion = self._suspicion, None
        if heard != self._heard:  # the announcement came after all
            return False
        self.lost += 1
        return True

    def must_say(self) -> bool:
        """Return whether it is time to say that wakes are lost: at once, then rarely."""
        now = self._clock.monotonic()
        if self._said_at is not None and now < self._said_at + _SAY_AGAIN_S:
            return False
        self._said_at = now
        return True
