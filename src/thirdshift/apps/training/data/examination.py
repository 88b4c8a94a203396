"""Which rows of a file are kept for its examination: chosen while the file is read, in memory that has a limit."""

import heapq
from array import array
from dataclasses import dataclass, field

from thirdshift.apps.training.data.row_files import digest_of
from thirdshift.apps.training.data.rows import Row
from thirdshift.apps.training.settings import PlanSettings

ROWS_FOR_AN_EXAMINATION = 20  # from so many rows on at least one is held out, however small the percentage


@dataclass(kw_only=True, slots=True)
class _Candidate:
    row: Row
    numbers: "array[int]" = field(default_factory=lambda: array("q"))
    """Where the same question with the same answer stands in the file."""


class HoldOut:
    """Draws the rows with the smallest hashes, which no order and no form of the rows can change.

    A duplicate has the same hash, so it is held out with its twin. Plain text asks nothing and is always trained.
    """

    def __init__(self, settings: PlanSettings) -> None:
        self._percent = settings.held_out_percent
        self._limit = settings.held_out_limit if settings.held_out_percent else 0
        self._candidates: dict[int, _Candidate] = {}
        self._largest_first: list[int] = []
        self._different: set[int] = set()
        self._rows = 0
        self._has_text = False

    def see(self, row: Row) -> None:
        """Look at the next row of the file."""
        number, self._rows = self._rows, self._rows + 1
        if row.text:
            self._has_text = True
            return
        digest = digest_of(row)
        if not self._has_enough:
            self._different.add(digest)
        if digest not in self._candidates:
            self._candidates[digest] = _Candidate(row=row)
            heapq.heappush(self._largest_first, -digest)
        self._candidates[digest].numbers.append(number)
        if len(self._candidates) > self._limit + 1:  # one more: at least one different row stays to be trained
            del self._candidates[-heapq.heappop(self._largest_first)]

    def chosen(self) -> "tuple[list[Row], array[int]]":
        """Return the rows that are held out, in the order of the file, and the numbers of all their duplicates."""
        smallest = sorted(self._candidates)[: self._count()]
        kept = sorted((self._candidates[digest] for digest in smallest), key=lambda one: one.numbers[0])
        numbers = array("q", sorted(number for one in kept for number in one.numbers))
        return [one.row for one in kept], numbers

    @property
    def _has_enough(self) -> bool:
        """True when so many different rows were seen that only the limit counts."""
        return len(self._different) * self._percent >= 100 * (self._limit + 1)

    def _count(self) -> int:
        count = round(len(self._different) * self._percent / 100)
        if self._percent and self._rows >= ROWS_FOR_AN_EXAMINATION:
            count = max(count, 1)
        return min(count, self._limit, len(self._different) - (not self._has_text))
