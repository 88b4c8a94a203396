"""How long the rows of a file are, in tokens of the model: figures of any number of rows in bounded memory."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_EDGES = tuple(2**power for power in range(3, 32))
_DIGITS = 3
"""Lengths are told apart to so many digits, so that their number is bounded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Lengths of the ``rows`` that were measured, before any was cut; percentiles to three digits.

    ``histogram`` holds (up to so many tokens, rows). ``cut_rows`` are longer than ``context``: they lose the beginning
    of their question. ``trained_tokens`` are those the model learns to say.
    """

    rows: int
    context: int
    cut_rows: int
    tokens: int
    trained_tokens: int
    shortest: int
    median: int
    p95: int
    longest: int
    histogram: tuple[tuple[int, int], ...]


class LengthCounter:
    """Counts rows for a model that looks at *context* tokens."""

    def __init__(self, context: int) -> None:
        self._context = context
        self._lengths: Counter[int] = Counter()
        self._rows = self._cut_rows = self._tokens = self._trained_tokens = self._longest = 0
        self._shortest: int | None = None

    def add(self, length: int, trained: int) -> None:
        """Count a row of *length* tokens, *trained* of which the model learns to say."""
        self._rows += 1
        self._cut_rows += length > self._context
        self._tokens += length
        self._trained_tokens += trained
        self._longest = max(self._longest, length)
        self._shortest = length if self._shortest is None else min(self._shortest, length)
        self._lengths[_rounded(length)] += 1

    def result(self) -> Lengths:
        """Return the figures so far."""
        return Lengths(
            rows=self._rows,
            context=self._context,
            cut_rows=self._cut_rows,
            tokens=self._tokens,
            trained_tokens=self._trained_tokens,
            shortest=self._shortest or 0,
            median=self._percentile(0.5),
            p95=self._percentile(0.95),
            longest=self._longest,
            histogram=tuple(self._histogram()),
        )

    def _percentile(self, share: float) -> int:
        """Return the length that *share* of the rows do not exceed."""
        seen = 0
        for length, rows in sorted(self._lengths.items()):
            seen += rows
            if seen >= share * self._rows:
                return length
        return 0

    def _histogram(self) -> Iterator[tuple[int, int]]:
        bins: Counter[int] = Counter()
        for length, rows in self._lengths.items():
            bins[_EDGES[bisect_left(_EDGES, length)]] += rows
        return iter(sorted(bins.items()))


def _rounded(length: int) -> int:
    step = int(10 ** max(0, len(str(length)) - _DIGITS))
    return -(-length // step) * step
