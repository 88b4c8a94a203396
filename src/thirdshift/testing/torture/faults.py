"""The faults that are planted in the engine to see that a harness finds them: only ever in a process of a harness."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from thirdshift.engines.sqlite import engine, queries
from thirdshift.engines.sqlite.liveness import DeadWorker
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.host.lock import FileLock

NO_FENCE = "has no fence"
"""Every write of an attempt names its task alone."""
ROBBERY = "robs the living"
"""A rescue takes the tasks of every other worker."""
NO_ORDER = "minds no priority"
COUNTS_ALL = "counts interruptions as failures"
DELETES_ALL = "deletes what is not finished"
NO_LIMIT = "minds no limit"
NO_KEY_LIMIT = "minds no limit key"
TOO_EARLY = "releases what waits for more"
FORGETS_CHILDREN = "leaves waiting what can never run"
NO_OVERLAP = "sees no unfinished task of a schedule"
LOSES_FIRES = "drops fire times"

_QUERIES: Mapping[str, Mapping[str, Callable[[str], str]]] = {
    NO_FENCE: {
        name: lambda query: re.sub(r"AND (?:\w+\.)?(?:attempt|owner) = (?::|e\.)\w+", "", query) for name in QUERY
    },
    NO_ORDER: {"runnable": lambda query: query.replace("ORDER BY priority DESC, due_at, seq", "ORDER BY seq DESC")},
    COUNTS_ALL: {
        "settle": lambda query: query.replace(
            "iif(cancel_requested_at IS NULL, e.failed, 0)", "(e.status <> 'completed')"
        )
    },
    DELETES_ALL: {
        "delete_finished": lambda query: query.replace("finished_at < :before", "submitted_at < :before").replace(
            "AND status IN ('completed', 'failed', 'cancelled')", "AND status <> 'running'"
        )
    },
    NO_KEY_LIMIT: {
        "runnable_keyed": lambda query: query.replace(", room))", ", 9))").replace("AND l.room > 0", ""),
    },
    TOO_EARLY: {
        "release_dependants": lambda query: query.replace("AND d.state IN ('open', 'failed')", "AND d.state = 'failed'")
    },
    FORGETS_CHILDREN: {
        "cancel_dependants": lambda query: query.replace("AND c.status = 'waiting'", "AND c.status = 'pending'")
    },
    NO_OVERLAP: {"unfinished_of_schedule": lambda query: query.replace("ORDER BY", "AND 0 ORDER BY")},
    LOSES_FIRES: {
        "fire_insert": lambda query: query.replace(
            "VALUES (:schedule, :nominal, :kind, :now)", "SELECT :schedule, :nominal, :kind, :now WHERE 0"
        )
    },
    NO_LIMIT: {"limits": lambda query: query.replace("SELECT concurrency,", "SELECT NULL,")},
}
ALL = (*_QUERIES, ROBBERY)


@contextmanager
def planted(fault: str | None) -> Iterator[None]:
    """Plant *fault* in the engines of this process while the block runs; ``None`` plants nothing."""
    if fault is None:
        yield
        return
    if fault == ROBBERY:
        with patch.object(engine, "dead_workers", _everybody):
            yield
        return
    kept = dict(QUERY)
    for name, change in _QUERIES[fault].items():
        QUERY[name] = change(QUERY[name])
    assert kept != QUERY, "a fault that changes nothing would prove nothing"
    queries.forget_built()
    try:
        yield
    finally:
        QUERY.update(kept)
        queries.forget_built()


def _everybody(folder: Path, workers: Sequence[str]) -> Iterator[DeadWorker]:
    for worker in workers:
        yield DeadWorker(folder, worker, FileLock(folder / "nobody.lock"))
