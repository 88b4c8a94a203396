"""Which rows of a file are kept to be replayed with later ones: chosen while it is read, in memory that has a limit."""

import heapq

from blake3 import blake3

from thirdshift.apps.training.data.row_files import digest_of
from thirdshift.apps.training.data.rows import Row

RESERVOIR_BYTES = 16 * 1024 * 1024
"""Text that is kept of a file, at most."""

LARGEST_ROW_BYTES = RESERVOIR_BYTES // 16
"""A larger row is never replayed: a few of them would be the whole reservoir."""


class Reservoir:
    """Keeps the rows with the smallest hashes, each once, whatever their order: *limit* of them, and 16 MiB.

    Its hash is another than that of the examination, so the two choose independently.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[int, tuple[Row, int]] = {}
        self._largest_first: list[int] = []
        self._bytes = 0
        self._end = 1 << 256
        """The smallest hash that had no room: nothing above it is kept, or the order of the rows would count."""

    def see(self, row: Row) -> None:
        """Look at the next row of the file."""
        size_bytes = len(row.text) + sum(len(message.content) for message in row.messages)
        place = _place(row)
        if not self._limit or size_bytes > LARGEST_ROW_BYTES or place >= self._end or place in self._kept:
            return
        self._kept[place] = row, size_bytes
        self._bytes += size_bytes
        heapq.heappush(self._largest_first, -place)
        while len(self._kept) > self._limit or self._bytes > RESERVOIR_BYTES:
            self._end = -heapq.heappop(self._largest_first)
            self._bytes -= self._kept.pop(self._end)[1]

    def chosen(self, held_out: set[int]) -> list[Row]:
        """Return the rows in the order of their hashes, those without whose digest is in *held_out*."""
        rows = (self._kept[place][0] for place in sorted(self._kept))
        return [row for row in rows if digest_of(row) not in held_out]


def _place(row: Row) -> int:
    return int.from_bytes(blake3(f"replay {digest_of(row)}".encode()).digest())
