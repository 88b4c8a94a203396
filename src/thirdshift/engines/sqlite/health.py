"""How a file and its workers are, seen from outside. Who is alive is asked of the kernel, as always."""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from thirdshift.core.engine import WorkerState
from thirdshift.core.health import Finding, HealthCode, HealthLimits
from thirdshift.core.schedule import is_late
from thirdshift.engines.sqlite.connection import primary_code
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.engines.sqlite.rows import from_us, to_us
from thirdshift.host.disk import DiskGuard

_STEPS = 10_000
"""SQLite's steps between two looks at the time: well under a millisecond."""
_AGAIN_S = 0.05
_PROBLEMS = 5


class Examination:
    """One look at the file *path*. *reader* is a connection for this alone, *workers* reads who is registered."""

    def __init__(
        self,
        path: Path,
        reader: sqlite3.Connection,
        workers: Callable[[], Sequence[WorkerState]],
        limits: HealthLimits,
        now: datetime,
    ) -> None:
        self._path = path
        self._reader = reader
        self._workers = workers
        self._limits = limits
        self._now = now

    def minimal(self) -> list[Finding]:
        """Return whether the store answers, and whether anybody works."""
        return [_finding(HealthCode.STORE, True, database=str(self._path)), self._any_worker()]

    def complete(
        self, write: Callable[[], object], reach: Callable[[float], set[int]], *, is_thorough: bool
    ) -> list[Finding]:
        """Return all that can be found: *write* waits for the write lock, *reach* says which processes answer.

        *is_thorough*: the check of the file also compares the indexes with their tables. A page that was exchanged for
        another one of an index shows in nothing else.
        """
        return [
            *self.minimal(),
            self._writing(write),
            self._integrity("integrity_check" if is_thorough else "quick_check"),
            self._log(),
            self._left_behind(),
            self._oldest_task(),
            self._disk(),
            self._wake_ups(reach),
            self._unknown_functions(),
            self._lost_wakes(),
            self._schedules(),
        ]

    def _any_worker(self) -> Finding:
        states = [worker.is_alive for worker in self._workers()]
        alive = sum(states)
        return _finding(HealthCode.WORKERS, alive > 0, alive=alive, dead=len(states) - alive)

    def _writing(self, write: Callable[[], object]) -> Finding:
        begun = time.monotonic()
        write()
        return _finding(HealthCode.WRITING, True, wait_s=time.monotonic() - begun)

    def _integrity(self, check: str) -> Finding:
        problems: list[str] = []
        is_whole = True
        with self._in_time():
            try:
                rows = self._reader.execute(f"PRAGMA {check}({_PROBLEMS})").fetchall()
                problems = [text for (text,) in rows if text != "ok"]
            except sqlite3.DatabaseError as error:
                is_whole = primary_code(error) != sqlite3.SQLITE_INTERRUPT
                problems = [str(error)] if is_whole else []
        limit_s = self._limits.check_s
        return _finding(HealthCode.INTEGRITY, not problems, problems=problems, is_whole=is_whole, limit_s=limit_s)

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """Interrupt the reader when the time for the check is up."""
        deadline = time.monotonic() + self._limits.check_s
        self._reader.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        try:
            yield
        finally:
            self._reader.set_progress_handler(None, 0)

    def _log(self) -> Finding:
        log = self._path.with_name(self._path.name + "-wal")
        size_bytes = log.stat().st_size if log.exists() else 0
        limit_bytes = self._limits.log_bytes
        return _finding(HealthCode.LOG, size_bytes <= limit_bytes, size_bytes=size_bytes, limit_bytes=limit_bytes)

    def _left_behind(self) -> Finding:
        """A live worker takes over within a second what a dead one held: what is left after that is left behind."""
        deadline = time.monotonic() + self._limits.answer_s
        while (dead := self._held_by_dead()) and time.monotonic() < deadline:
            time.sleep(_AGAIN_S)
        return _finding(HealthCode.LEFT_BEHIND, not dead, tasks=sum(dead.values()), workers=len(dead))

    def _held_by_dead(self) -> dict[str, int]:
        holders = dict(self._reader.execute(QUERY["holders"]).fetchall())
        alive = {worker.id for worker in self._workers() if worker.is_alive}
        return {owner: count for owner, count in holders.items() if owner not in alive}

    def _oldest_task(self) -> Finding:
        since_us, queue = self._reader.execute(QUERY["oldest_runnable"], (to_us(self._now),)).fetchone()
        age_s = None if since_us is None else (self._now - from_us(since_us)).total_seconds()
        limit_s = self._limits.oldest_task_s
        is_healthy = age_s is None or age_s <= limit_s
        return _finding(HealthCode.OLDEST_TASK, is_healthy, age_s=age_s, queue=queue, limit_s=limit_s)

    def _disk(self) -> Finding:
        limit_bytes = self._limits.free_bytes
        free_bytes = int(DiskGuard(0, 0).check(self._path.parent).free_gb * 1e9)
        folder = str(self._path.parent)
        is_healthy = free_bytes >= limit_bytes
        return _finding(HealthCode.DISK, is_healthy, free_bytes=free_bytes, limit_bytes=limit_bytes, folder=folder)

    def _wake_ups(self, reach: Callable[[float], set[int]]) -> Finding:
        answered = reach(self._limits.answer_s)
        alive = {worker.pid for worker in self._workers() if worker.is_alive}  # who has stopped by now need not answer
        silent = sorted(alive - answered)
        return _finding(HealthCode.WAKE_UPS, not silent, silent=silent, answered=len(alive & answered))

    def _unknown_functions(self) -> Finding:
        """Some workers may leave a function to others; it is in order as long as there are such."""
        alive = sum(worker.is_alive for worker in self._workers())
        before = to_us(self._now - timedelta(seconds=self._limits.recent_s))
        rows = self._reader.execute(QUERY["unknown_functions"], (before,)).fetchall()
        functions = [
            {"function": name, "workers": workers, "waits_s": (self._now - from_us(since)).total_seconds()}
            for name, since, workers in rows
        ]
        is_healthy = all(workers < alive for _, _, workers in rows)
        return _finding(HealthCode.UNKNOWN_FUNCTIONS, is_healthy, functions=functions, alive=alive)

    def _lost_wakes(self) -> Finding:
        alive = [worker for worker in self._workers() if worker.is_alive]
        moments = [worker.lost_wake_at for worker in alive if worker.lost_wake_at is not None]
        seconds_ago = (self._now - max(moments)).total_seconds() if moments else None
        return _finding(
            HealthCode.LOST_WAKES,
            seconds_ago is None or seconds_ago > self._limits.recent_s,
            count=sum(worker.lost_wakes for worker in alive),
            seconds_ago=seconds_ago,
            recent_s=self._limits.recent_s,
        )

    def _schedules(self) -> Finding:
        rows = self._reader.execute(QUERY["schedules_active"]).fetchall()
        late = [
            {"name": name, "late_s": (self._now - from_us(next_us)).total_seconds()}
            for name, next_us in rows
            if is_late(from_us(next_us), self._now)
        ]
        return _finding(HealthCode.SCHEDULES, not late, active=len(rows), late=late)


def _finding(code: HealthCode, is_healthy: bool, **facts: object) -> Finding:
    return Finding(code=code, is_healthy=is_healthy, facts=facts)
