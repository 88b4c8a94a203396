"""Figures of ended attempts: a feed in the order of commits, folded into buckets of time (docs/adr/0014).

Who records ends writes one row of the feed in the same transaction. Anybody may fold: the reading is done beside the
work, the writing is one short transaction that does nothing when another has folded the same rows meanwhile. So each
end is counted once, whatever dies in between. What is not folded yet, a reader adds by itself.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

from thirdshift.core.figures import OTHERS, Bucket, Execution, Figures, Histogram, Span
from thirdshift.core.task import AttemptOutcome, TaskId
from thirdshift.engines.sqlite.links import Statements
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.engines.sqlite.rows import Row, from_us
from thirdshift.engines.sqlite.writer import Writer

ENDED = "ended"
COMMITTED = "committed"
AMENDED = "amended"

_NUMBERS = 2**26
"""Attempts of one task that can be told in the feed: two years of one a second. Later ones are not counted."""
_MOST_SERIES = 500
_MOST_EXECUTIONS = 50_000
_FOLD_ROWS = 100
"""Rows of the feed that are folded at once: at most some ten thousand ends."""
_FORGET_ROWS = 500
_OUTCOMES = tuple(AttemptOutcome)
_FROM_ALL_TIME = -1

OpenReader = Callable[[], AbstractContextManager[sqlite3.Connection]]


class _Key(NamedTuple):
    span: Span
    start_s: int
    name: str
    queue: str
    worker: str


class _Fold(NamedTuple):
    """What was read from the feed between two of its rows."""

    after: int
    up_to: int
    figures: Mapping[_Key, Figures]
    executions: Sequence[Row]


def feed(connection: Statements, kind: str, ended: Iterable[tuple[int, int, bool]]) -> None:
    """Note the (task, attempt, whether the task failed for good) of what was recorded in this transaction."""
    ends = [seq << 27 | number << 1 | is_given_up for seq, number, is_given_up in ended if number < _NUMBERS]
    if ends:
        connection.execute(QUERY["feed"], (kind, str(ends)))  # a list of numbers is written as in JSON


def fold_rest(connection: sqlite3.Connection) -> None:
    """Fold all that is left, in the open transaction; whoever deletes tasks does that first, so that they count."""
    fold = _read(connection, most_rows=-1)
    if fold is not None:
        _apply(connection, fold)


class FigureBook:
    """Folds, forgets and reads figures, for one engine. Any thread may call it."""

    def __init__(self, writer: Writer, open_reader: OpenReader, read: Callable[..., list[Any]]) -> None:
        self._writer = writer
        self._open_reader = open_reader
        self._query = read

    def fold(self) -> bool:
        """Fold a batch of the feed; returns whether there may be more."""
        ((folded, up_to),) = self._query(QUERY["feed_to_fold"], (1,))
        if folded == up_to:
            return False
        with self._open_reader() as reader:
            fold = _read(reader, most_rows=_FOLD_ROWS)
        if fold is not None:
            self._writer.run(partial(_apply, fold=fold), durable=False)
        return True

    def fold_all(self) -> None:
        """Fold everything that was recorded before this call."""
        ((_, newest),) = self._query(QUERY["feed_to_fold"], (-1,))
        while self._query(QUERY["feed_to_fold"], (1,))[0][0] < newest and self.fold():
            pass

    def forget(self, now_us: int) -> bool:
        """Delete a batch of the buckets that are kept no longer; returns whether there may be more."""
        deleted = 0
        for span in Span:
            row = span.value, now_us // 1_000_000 - (span.kept_s or 0), _FORGET_ROWS
            if span.kept_s is not None and self._query(QUERY["has_old_figures"], row[:2])[0][0]:
                deleted += self._write("forget_figures", row)
        return deleted >= _FORGET_ROWS

    def keep_executions(self, most: int) -> None:
        """Keep so many executions of each name from now on."""
        ((_, history),) = self._query(QUERY["executions_given"])
        if history != most:
            self._write("set_history", (most,))

    def buckets(self, span: Span, since_s: int | None, name: str | None) -> list[Bucket]:
        """Return the buckets that begin at *since_s* or later, also of what is not folded yet; the oldest first."""
        since = _FROM_ALL_TIME if since_s is None else since_s
        with self._open_reader() as reader:
            reader.execute("BEGIN")
            try:
                found = {
                    _Key(span, row[1], row[2], row[3], row[4]): figures_of_row(row[5:])
                    for row in reader.execute(QUERY["figures"], (span.value, since, name))
                }
                rest = _read(reader, most_rows=-1, with_executions=False)
            finally:
                reader.execute("COMMIT")
        for key, figures in (rest.figures if rest is not None else {}).items():
            if key.span is span and key.start_s >= since and name in (None, key.name):
                found[key] = found[key] + figures if key in found else figures
        return [_bucket(key, found[key]) for key in sorted(found, key=lambda key: key[1:])]

    def executions(self, name: str, most: int) -> list[Execution]:
        """Return the newest executions of *name*, the newest first."""
        return [execution_of_row(row) for row in self._query(QUERY["executions_of"], (name, most))]

    def executions_after(self, seq: int, most: int) -> list[tuple[int, Execution]]:
        """Return executions of all names in their order, with their numbers."""
        return [(row[0], execution_of_row(row)) for row in self._query(QUERY["executions"], (seq, most))]

    def forget_executions(self, up_to: int) -> None:
        """Delete the details up to that number."""
        self._write("forget_executions_up_to", (up_to,))

    def _write(self, query: str, row: Row) -> int:
        return self._writer.run(lambda connection: connection.execute(QUERY[query], row).rowcount, durable=False)


def _read(connection: sqlite3.Connection, *, most_rows: int, with_executions: bool = True) -> _Fold | None:
    """Read what the next rows of the feed say; ``None`` when there are none."""
    ((folded, up_to),) = connection.execute(QUERY["feed_to_fold"], (most_rows,)).fetchall()
    if folded == up_to:
        return None
    ((answer,),) = connection.execute(QUERY["fold"], (folded, up_to)).fetchall()
    executions: list[Row] = []
    if with_executions:
        ((_, history),) = connection.execute(QUERY["executions_given"]).fetchall()
        executions = connection.execute(QUERY["newest_executions"], (folded, up_to, history)).fetchall()
    return _Fold(folded, up_to, _figures_of(json.loads(answer)), executions)


def _figures_of(rows: Sequence[Row]) -> dict[_Key, Figures]:
    """Add the rows of the query ``fold`` up for every span that they belong to."""
    minutes: dict[_Key, Figures] = {}
    for (start_s, name, queue, worker), parts in _grouped(rows).items():
        minutes[_Key(Span.MINUTE, start_s, name, queue, worker)] = _sum(parts)
    found = dict(minutes)
    for key, figures in minutes.items():
        together = key._replace(worker="")
        hour_s = key.start_s // 3600 * 3600
        for wider in (together._replace(span=Span.HOUR, start_s=hour_s), together._replace(span=Span.EVER, start_s=0)):
            found[wider] = found[wider] + figures if wider in found else figures
    return found


def _grouped(rows: Sequence[Row]) -> dict[Row, list[Row]]:
    groups: dict[Row, list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[:4])].append(row[4:])
    return groups


def _sum(parts: Sequence[Row]) -> Figures:
    """Return the figures of one minute, series and worker: one object, however many parts there are."""
    outcomes: dict[AttemptOutcome, int] = defaultdict(int)
    run_times: dict[int, int] = defaultdict(int)
    queue_times: dict[int, int] = defaultdict(int)
    run_us = queue_us = longest_us = given_up = 0
    for outcome, count, dead, run_bucket, run, longest, queue_bucket, queue in parts:
        if count:
            outcomes[AttemptOutcome(outcome)] += count
        given_up += dead
        if run_bucket is not None:
            (runs, spent_us) = json.loads(run)
            run_times[run_bucket] += runs
            run_us += spent_us
            longest_us = max(longest_us, longest)
        if queue_bucket is not None:
            (waits, waited_us) = json.loads(queue)
            queue_times[queue_bucket] += waits
            queue_us += waited_us
    return Figures(
        outcomes=dict(outcomes),
        given_up=given_up,
        run_us=run_us,
        longest_us=longest_us,
        run_times=Histogram(dict(run_times)),
        queue_us=queue_us,
        queue_times=Histogram(dict(queue_times)),
    )


def _apply(connection: sqlite3.Connection, fold: _Fold) -> None:
    """Add what was read to the buckets, unless somebody else has done it meanwhile."""
    if connection.execute(QUERY["folded_up_to"], (fold.after, fold.up_to)).rowcount != 1:
        return
    connection.execute(QUERY["forget_feed"], (fold.up_to,))
    shared: dict[tuple[Any, ...], Figures] = {}
    for key, figures in fold.figures.items():
        place = key.span.value, key.start_s, _series(connection, key.name, key.queue), key.worker
        shared[place] = shared[place] + figures if place in shared else figures
    for place, figures in shared.items():
        before = connection.execute(QUERY["figure"], place).fetchone()
        whole = figures if before is None else figures_of_row(before) + figures
        connection.execute(QUERY["write_figure"], (*place, *_row_of_figures(whole)))
    _write_executions(connection, fold.executions)


def _series(connection: sqlite3.Connection, name: str, queue: str) -> int:
    """Return what the figures of that name and queue are kept under; what is one too many has no series of its own."""
    found = connection.execute(QUERY["series"], (name, queue)).fetchone()
    if found is not None:
        return int(found[0])
    ((known,),) = connection.execute(QUERY["count_series"]).fetchall()
    if known >= _MOST_SERIES and name != OTHERS:
        return _series(connection, OTHERS, OTHERS)
    return int(connection.execute(QUERY["new_series"], (name, queue)).lastrowid or 0)


def _write_executions(connection: sqlite3.Connection, executions: Sequence[Row]) -> None:
    if not executions:
        return
    ((given, history),) = connection.execute(QUERY["executions_given"]).fetchall()
    numbered = [(given + number, *row) for number, row in enumerate(executions, 1)]
    connection.executemany(QUERY["write_execution"], numbered)
    connection.execute(QUERY["give_executions"], (given + len(executions),))
    for name in {row[1] for row in executions}:
        connection.execute(QUERY["forget_executions_of"], (name, history))
    connection.execute(QUERY["forget_executions_up_to"], (given + len(executions) - _MOST_EXECUTIONS,))


def _row_of_figures(figures: Figures) -> Row:
    return (
        *(figures.outcomes.get(outcome, 0) for outcome in _OUTCOMES),
        figures.given_up,
        figures.run_us,
        figures.longest_us,
        json.dumps(figures.run_times.counts, separators=(",", ":")),
        figures.queue_us,
        json.dumps(figures.queue_times.counts, separators=(",", ":")),
    )


def figures_of_row(row: Row) -> Figures:
    """Return a row of the query ``figure``."""
    given_up, run_us, longest_us, run_times, queue_us, queue_times = row[6:]
    return Figures(
        outcomes={outcome: count for outcome, count in zip(_OUTCOMES, row, strict=False) if count},
        given_up=given_up,
        run_us=run_us,
        longest_us=longest_us,
        run_times=_histogram(run_times),
        queue_us=queue_us,
        queue_times=_histogram(queue_times),
    )


def _histogram(text: str) -> Histogram:
    return Histogram({int(bucket): count for bucket, count in json.loads(text).items()})


def _bucket(key: _Key, figures: Figures) -> Bucket:
    return Bucket(
        span=key.span,
        started_at=None if key.span is Span.EVER else from_us(key.start_s * 1_000_000),
        name=key.name,
        queue=key.queue,
        worker=key.worker or None,
        figures=figures,
    )


def execution_of_row(row: Row) -> Execution:
    """Return a row of the queries ``executions`` and ``executions_of``."""
    _, task, name, queue, worker, number, outcome, finished_us, run_us, queue_us = row
    return Execution(
        task_id=TaskId(task),
        name=name,
        queue=queue,
        worker=worker,
        attempt=number,
        outcome=AttemptOutcome(outcome),
        finished_at=from_us(finished_us),
        run_s=None if run_us is None else run_us / 1e6,
        queue_s=None if queue_us is None else queue_us / 1e6,
    )
