"""One process of ``test_crowd``: a submitter or a worker, from the first line on standard input until the second.

Ends with one JSON line of figures. What it raises ends it, for the test to see.
"""

import functools
import json
import logging
import os
import random
import select
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

from crowd_tasks import note_run

from thirdshift import BackgroundTaskManager, TaskPriority
from thirdshift.core.status import TaskStatus

MOST_WAITING = 3_000
"""Submitters pause while more tasks than that wait to run."""
MANY = 40
LOOK_EVERY = 16
PAUSE_S = 0.02
RESULT_S = 60.0


class Submitter:
    """Submits single tasks and many at once, full and relaxed, of every priority; waits for some of the results."""

    def __init__(self, manager: BackgroundTaskManager, log: str, seed: int) -> None:
        self._manager = manager
        self._log = log
        self._rng = random.Random(seed)
        self.ids: list[str] = []
        self.calls = 0
        self.results = 0
        self.slowest_s = 0.0

    def run(self) -> None:
        while not _is_told(0.0):
            if self.calls % LOOK_EVERY == 0:
                self._wait_for_room()
            self._submit()

    def _submit(self) -> None:
        self.calls += 1
        durability = self._rng.choice(("full", "relaxed"))
        priority = self._rng.choice((TaskPriority.LOW, TaskPriority.NORMAL, TaskPriority.HIGH))
        kind = self._rng.random()
        if kind < 0.01:
            submitter = self._manager.options(durability=durability, priority=TaskPriority.CRITICAL)
            handle = submitter.submit(note_run, self._log)
            self.ids.append(handle.id)
            assert handle.result(timeout=RESULT_S) != os.getpid()
            self.results += 1
            return
        submitter = self._manager.options(durability=durability, priority=priority)
        started = time.monotonic()
        if kind < 0.05:
            self.ids += submitter.submit_many(note_run, [(self._log,)] * MANY)
        else:
            self.ids.append(submitter.submit(note_run, self._log).id)
        self.slowest_s = max(self.slowest_s, time.monotonic() - started)

    def _wait_for_room(self) -> None:
        while self._waiting() > MOST_WAITING and not _is_told(PAUSE_S):
            pass

    def _waiting(self) -> int:
        return sum(queue.counts.get(TaskStatus.PENDING, 0) for queue in self._manager.queues())


class BeginLate(sqlite3.Connection):
    """The planted fault: a transaction takes the write lock only when it writes, after it has read."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return super().execute("BEGIN" if sql == "BEGIN IMMEDIATE" else sql, *parameters)


_told: list[bytes] = []


def _is_told(wait_s: float) -> bool:
    """Return whether the next line has come; waits for it that long."""
    if not _told and select.select([0], [], [], wait_s)[0]:
        _told.append(os.read(0, 1))
    return bool(_told)


def _say(**figures: object) -> None:
    sys.stdout.write(f"{json.dumps(figures)}\n")
    sys.stdout.flush()


def main() -> None:
    """Arguments: role, number, database, log, and whether the fault is planted."""
    role, number, database, log, is_broken = sys.argv[1:]
    if is_broken == "True":
        sqlite3.connect = functools.partial(sqlite3.connect, factory=BeginLate)  # type: ignore[assignment]
    logging.basicConfig(level=logging.WARNING)
    is_worker = role == "worker"
    with BackgroundTaskManager(max_workers=2, database=database, start=is_worker) as manager:
        _say(pid=os.getpid())
        while not _is_told(RESULT_S):
            pass
        _told.clear()
        if is_worker:
            while not _is_told(RESULT_S):
                pass
            _say(is_over=manager.shutdown(drain=True))
        else:
            submitter = Submitter(manager, log, int(number))
            submitter.run()
            Path(f"{log}.{number}").write_text("\n".join(submitter.ids))
            _say(calls=submitter.calls, results=submitter.results, slowest_s=submitter.slowest_s)


if __name__ == "__main__":
    main()
