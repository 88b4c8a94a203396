"""How the rows of a step lie in front of the model: packed end to end, in buckets of like length, or each alone.

The gradient is the same in all three, but for the last bits. So a layout is chosen once for a file, at its start, by
asking the model itself whether rows can see each other (:mod:`thirdshift.apps.training.plans.layout_check`).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

Line = list[int]
"""The rows of one line, in order."""

MicroBatch = list[Line]

LAYOUTS = ("packed", "buckets", "alone")
"""From the fastest to the one that every model understands."""


def micro_batches(
    rows: Sequence[int], length_of: Callable[[int], int], layout: str, micro_batch_size: int
) -> list[MicroBatch]:
    """Return the micro-batches of a step whose *rows* are sorted by length, the shortest first.

    No micro-batch has more than *micro_batch_size* lines, and no line is longer than the longest row, so the memory
    that one needs is at most that of so many rows, whatever the layout.
    """
    if layout == "alone":
        return [[[row]] for row in rows]
    lines = _packed(rows, length_of) if layout == "packed" else [[row] for row in rows]
    return _evenly(lines, micro_batch_size)


def _packed(rows: Sequence[int], length_of: Callable[[int], int]) -> list[Line]:
    """Fill lines of the longest row's length, longest row first, each into the line that it fills best.

    Best fit decreasing never needs more than 11/9 of the fewest lines possible, and one (Johnson, 1973).
    """
    room = {row: length_of(row) for row in rows}
    width = max(room.values())
    lines: list[Line] = []
    left: list[int] = []
    for row in reversed(rows):
        fitting = [(free, line) for line, free in enumerate(left) if free >= room[row]]
        if fitting:
            _, line = min(fitting)
        else:
            line = len(lines)
            lines.append([])
            left.append(width)
        lines[line].append(row)
        left[line] -= room[row]
    return lines


def _evenly(lines: Sequence[Line], most: int) -> list[MicroBatch]:
    """Cut *lines* into as few parts of at most *most* as possible, of almost the same size."""
    count = -(-len(lines) // most)
    bounds = [len(lines) * part // count for part in range(count + 1)]
    return [list(lines[start:end]) for start, end in pairwise(bounds)]
