"""How hard a puzzle is, as one table: more words, a larger list to know, and at the top syllables that mislead.

Difficulty is data and not code, so that a plan, a generator and a report all speak of the same ten levels.
"""

from dataclasses import dataclass

from thirdshift.core.errors import UsageError


class UnknownLevel(UsageError):
    """No level has this number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"SYLLO has no level {number}; choose among {LEVELS[0].number} to {LEVELS[-1].number}")
        self.number = number


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """One row of :data:`LEVELS`."""

    number: int
    """The name of the level, counted from 1."""
    words: int
    """Words to find, which is also the number of clues."""
    tier_entries: int | None
    """Entries of the lexicon, from its beginning, that words are drawn from; ``None`` is the whole lexicon."""
    held_out_words: bool = False
    """Some words are never trained at this level, see :func:`thirdshift.apps.training.syllo.is_held_out`."""
    decoys: int = 0
    """Syllables shown that belong to no answer."""


LEVELS = (
    Level(number=1, words=1, tier_entries=64),
    Level(number=2, words=2, tier_entries=64),
    Level(number=3, words=3, tier_entries=64),
    Level(number=4, words=2, tier_entries=256),
    Level(number=5, words=3, tier_entries=256),
    Level(number=6, words=3, tier_entries=512, held_out_words=True),
    Level(number=7, words=4, tier_entries=512, held_out_words=True),
    Level(number=8, words=4, tier_entries=None, held_out_words=True),
    Level(number=9, words=5, tier_entries=None, held_out_words=True),
    Level(number=10, words=5, tier_entries=None, held_out_words=True, decoys=2),
)
"""All levels in order; the first three share the demo tier, which a small model learns in under a minute."""


def find_level(number: int) -> Level:
    """Return the level called *number*; raises :class:`UnknownLevel` when there is none."""
    for level in LEVELS:
        if level.number == number:
            return level
    raise UnknownLevel(number)
