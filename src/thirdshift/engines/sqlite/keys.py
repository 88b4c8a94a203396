"""What the limits of keys leave to a claim. See docs/adr/0016.

How many tasks of a key run is counted from the rows of running tasks, in the transaction that claims: so no limit is
exceeded, and whatever ends an attempt, a crash too, makes room.
"""

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from heapq import heappop, heappush, merge

from thirdshift.engines.sqlite.queries import QUERY, leaving_out
from thirdshift.engines.sqlite.rows import Row, runnable_rows

_KEY = 18
"""Where the rows of the queries ``runnable_keyed`` and ``runnable_of_key`` have it; others are shorter."""

Urgency = tuple[int, int, int]


def urgency(row: Row) -> Urgency:
    """Sort rows of the query ``runnable`` as the index does: priority, due time, order of submission."""
    priority, due_us, seq = row[:3]
    return -priority, due_us, seq


class KeyedTasks:
    """The runnable tasks with a limit key that one claim meets. *unknown*: functions that are left to others."""

    def __init__(self, connection: sqlite3.Connection, unknown: Collection[str]) -> None:
        self._connection = connection
        self._unknown = unknown
        self._lines: list[Iterator[Row]] = []
        self._rooms: dict[str, int] = {}
        """Of each key that was met: how many more may be claimed."""

    def add_line(self, queue: str, pool: str, most: int, is_open: Callable[[], bool]) -> None:
        """Take in the tasks of one line, while it *is_open*; *most* are wanted."""
        self._lines.append(self._line(queue, pool, most, is_open))

    def among(self, others: Iterable[Row]) -> Iterator[Row]:
        """Yield them and *others*, tasks without a key, most urgent first.

        After the first task of a key come those behind it, as long as the key has room: who takes a row says so before
        the next is asked for.
        """
        return merge(others, *self._lines, key=urgency)

    def has_room(self, row: Row) -> bool:
        """Return whether the limit of its key, if it has one, lets this task run."""
        return len(row) <= _KEY or self._rooms[row[_KEY]] > 0

    def take(self, row: Row) -> None:
        """Count it as running."""
        if len(row) > _KEY:
            self._rooms[row[_KEY]] -= 1

    def _line(self, queue: str, pool: str, most: int, is_open: Callable[[], bool]) -> Iterator[Row]:
        first = self._first_of_each(queue, pool, most)
        ahead: list[tuple[Urgency, Row, Iterator[Row]]] = []
        _push(ahead, first)
        while ahead and is_open():
            _, row, source = heappop(ahead)
            if row[6] not in self._unknown:
                yield row
            _push(ahead, source)
            if source is first and self.has_room(row):
                _push(ahead, self._after(row, most))

    def _first_of_each(self, queue: str, pool: str, most: int) -> Iterator[Row]:
        """Yield the first task of each key that may run more."""
        offset = 0
        while True:
            ((answer,),) = self._connection.execute(QUERY["runnable_keyed"], (queue, pool, most, offset)).fetchall()
            rows = runnable_rows(answer)
            for *row, room in rows:
                self._rooms.setdefault(row[_KEY], room)
                yield tuple(row)
            if len(rows) < most:
                return
            offset += most

    def _after(self, first: Row, most: int) -> Iterator[Row]:
        """Yield the tasks of one key and line after the *first*, while the key has room."""
        key = first[_KEY]
        query, left_out = leaving_out("runnable_of_key", self._unknown)
        limit = 1 + min(most, self._rooms[key])
        ((answer,),) = self._connection.execute(query, (first[8], first[9], limit, key, *left_out)).fetchall()
        for row in runnable_rows(answer):
            if row[2] != first[2] and self._rooms[key] > 0:
                yield row


def _push(ahead: list[tuple[Urgency, Row, Iterator[Row]]], source: Iterator[Row]) -> None:
    row = next(source, None)
    if row is not None:
        heappush(ahead, (urgency(row), row, source))


def have_room(connection: sqlite3.Connection, keys: Collection[str]) -> bool:
    """Return whether tasks of these limit keys wait that may run now."""
    ((has_room,),) = connection.execute(QUERY["has_room_in_key"], (json.dumps(list(keys)),)).fetchall()
    return bool(has_room)
