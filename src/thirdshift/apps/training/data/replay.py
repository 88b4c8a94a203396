"""Rows of earlier files that are trained again with a new one, so that it does not make the model forget them.

How many, and which, follows from the new file and the sources alone. The plan holds their tokens and names the sources
by hash: what was replayed can be told, and a training that goes on needs the sources no more.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3

from thirdshift.apps.training.data.batches import Integers
from thirdshift.apps.training.data.row_files import digest_of, read_row_file
from thirdshift.apps.training.data.rows import Row
from thirdshift.storage.verified import hash_file


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplaySource:
    """An earlier file whose rows are replayed, and the hash of those that were kept of it."""

    file: str
    blake3: str


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptRows:
    """Where the rows of a source lie. The place is no part of the plan: the same rows elsewhere give the same plan."""

    source: ReplaySource
    path: Path

    def trouble(self) -> str:
        """Say what is wrong with the kept rows; empty when they are as they were written."""
        if not self.path.is_file():
            return f"{self.source.file}: the rows that were kept of it are missing"
        is_sound = hash_file(self.path) == self.source.blake3
        return "" if is_sound else f"{self.source.file}: the rows that were kept of it are not as they were written"


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """What a plan may replay, and the digests of rows that it must not, because they are asked."""

    kept: tuple[KeptRows, ...] = ()
    examined: frozenset[int] = frozenset()


def rows_to_replay(trained_rows: int, percent: float) -> int:
    """Return how many rows are replayed in each epoch beside *trained_rows* of the file: at least one, unless none."""
    return max(1, round(trained_rows * percent / 100)) if percent else 0


def chosen(kept: Sequence[KeptRows], count: int, data_hash: str) -> list[KeptRows]:
    """Return the sources that *count* rows are drawn from: all, or as many as there are rows, by hash."""
    return sorted(kept, key=lambda one: blake3(f"{data_hash} {one.source.blake3}".encode()).digest())[:count]


def drawn_rows(kept: KeptRows, count: int, data_hash: str, never: frozenset[int]) -> Iterator[Row]:
    """Yield at most *count* of the *kept* rows, none whose digest is in *never*.

    They lie there in the order of their hashes, so any stretch is a fair sample; another file begins at another place.
    """
    rows = [row for row in read_row_file(kept.path) if digest_of(row) not in never]
    if rows:
        digest = blake3(f"{data_hash} {kept.source.blake3} from".encode()).digest()
        first = int.from_bytes(digest[:8]) % len(rows)
        yield from (rows[(first + number) % len(rows)] for number in range(min(count, len(rows))))


def dealt(first_rows: Sequence[int], counts: Sequence[int], total: int) -> Integers:
    """Return *total* row numbers, dealt from the sources in turn; a source that has too few begins again.

    Source ``i`` has ``counts[i]`` rows from number ``first_rows[i]`` on.
    """
    turns = np.arange(total)
    source, place = turns % len(counts), turns // len(counts)
    numbers: Integers = np.asarray(first_rows)[source] + place % np.asarray(counts)[source]
    return numbers
