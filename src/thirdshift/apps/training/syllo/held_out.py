"""What is never trained, decided by a hash, so that no file has to be kept and no two machines can disagree.

Python's own ``hash`` differs from process to process; BLAKE2b does not.
"""

import functools
import itertools
from collections.abc import Collection, Sequence
from hashlib import blake2b

from thirdshift.apps.training.syllo.levels import LEVELS, find_level
from thirdshift.apps.training.syllo.lexicon import Entry, load_lexicon

_ONE_COMBINATION_IN = 10
_ONE_WORD_IN = 20


def is_held_out(words: Sequence[str], level: int) -> bool:
    """Say whether a puzzle of *level* that asks for *words*, in any order, is kept out of every training file.

    - Level 1: never. The demo tier has only 64 words and all of them are trained; the held-out set of level 1 is the
      same words with another shuffle of their syllables (:func:`syllable_orders`).
    - From level 2: one combination of words in ten. The level itself does not count, so what one level holds out no
      other level with the same number of words can teach.
    - From level 6 also every combination with a held-out word. These are one word in twenty, and only words that
      levels 1 to 5 cannot draw: a word that an easier level trains would be held out in name only.

    Raises :class:`thirdshift.apps.training.syllo.UnknownLevel`.
    """
    row = find_level(level)
    if row.words == 1:
        return False
    if row.held_out_words and not held_out_words().isdisjoint(words):
        return True
    return _stable_hash(words) % _ONE_COMBINATION_IN == 0


@functools.cache
def held_out_words() -> frozenset[str]:
    """Return the words that appear in held-out puzzles only."""
    always_trained = max(row.tier_entries or 0 for row in LEVELS if not row.held_out_words)
    candidates = load_lexicon()[always_trained:]
    return frozenset(entry.word for entry in candidates if _stable_hash([entry.word]) % _ONE_WORD_IN == 0)


def syllable_orders(entry: Entry, *, held_out: bool) -> list[tuple[str, ...]]:
    """Return the orders in which a one-word puzzle may show the syllables of *entry*.

    One order of each word is held out, all others are trained; a word with a single order is shown in it both times.
    """
    orders = sorted(set(itertools.permutations(entry.syllables)))
    reserved = orders[_stable_hash([entry.word]) % len(orders)]
    if held_out or len(orders) == 1:
        return [reserved]
    return [order for order in orders if order != reserved]


def _stable_hash(words: Collection[str]) -> int:
    return int.from_bytes(blake2b(" ".join(sorted(words)).encode("ascii"), digest_size=8).digest())
