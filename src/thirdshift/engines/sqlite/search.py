"""The search index: words of tasks in a file of its own, derived beside the work and rebuilt whenever it is lost.

It never takes the write lock of the tasks but to note how far it is. What a crash, a damaged index or a lost file
leaves out is indexed again: the index says itself up to where it has read (docs/adr/0015).
"""

import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from thirdshift.core.errors import NotSupported
from thirdshift.core.search import Match, SearchState, terms
from thirdshift.core.task import TaskId
from thirdshift.engines.sqlite.connection import errors_of, primary_code
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.engines.sqlite.writer import Writer

_BATCH = 500
"""Tasks that are indexed in one transaction: some ten milliseconds on a thread that nobody waits for."""
_BUSY_S = 5.0
_LOST = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

R = TypeVar("R")
Read = Callable[..., list[Any]]


class SearchIndex:
    """The index of one store. Any thread may call it; calls wait for each other."""

    def __init__(self, tasks: Path, folder: Path, writer: Writer, read: Read) -> None:
        self._tasks = tasks
        self._path = folder / "search.db"
        self._writer = writer
        self._read = read
        self._mutex = threading.Lock()
        self._nothing_since: tuple[Any, Any] | None = None
        """The newest task and end, and the index, when nothing was missing: an idle worker opens no index."""

    def pause(self, timeout_s: float) -> bool:
        """Let nobody open it, for a fork; False when somebody works with it for so long."""
        return self._mutex.acquire(timeout=timeout_s)

    def go_on(self) -> None:
        """End the pause."""
        self._mutex.release()

    def begin_anew(self) -> None:
        """Be free, in a forked child."""
        self._mutex = threading.Lock()

    def switch(self, is_on: bool) -> None:
        """Have the feed kept for the index, or no longer; what ended meanwhile is read from the tasks."""
        ((was_on, _),) = self._read(QUERY["search_state"])
        if bool(was_on) is not is_on:
            self.forget()
            self._writer.run(lambda connection: connection.execute(QUERY["switch_search"], (is_on,)), durable=False)

    def forget(self) -> None:
        """Delete the index; it is built anew by :meth:`catch_up`."""
        with self._mutex:
            self._delete()

    def catch_up(self) -> bool:
        """Index a batch of what is missing; returns whether there may be more. One process at a time."""
        (news,) = self._read(QUERY["search_news"])
        if self._nothing_since == (news, self._version()):
            return False
        more, fed = self._use(self._index)
        self._nothing_since = None if more else (news, self._version())
        ((is_on, indexed),) = self._read(QUERY["search_state"])
        if is_on and fed > indexed:
            self._writer.run(lambda connection: connection.execute(QUERY["indexed_up_to"], (fed,)), durable=False)
        return more

    def state(self) -> SearchState:
        """Return how far it is behind."""
        ((seen, fed, _),) = self._use(lambda index: index.execute(QUERY["search_position"]).fetchall())
        ((is_on, _),) = self._read(QUERY["search_state"])
        ((tasks, ends),) = self._read(QUERY["search_lag"], (seen, fed))
        return SearchState(is_on=bool(is_on), tasks=tasks, ends=ends)

    def find(self, text: str, limit: int) -> list[Match]:
        """Return the newest tasks that have the words, as the index knows them. Raises ``UsageError``."""
        query = terms(text)
        rows = self._use(lambda index: index.execute(QUERY["search"], (query, limit)).fetchall())
        return [Match(id=TaskId(task_id), excerpt=excerpt) for task_id, excerpt in rows]

    # Inside

    def _index(self, index: sqlite3.Connection) -> tuple[bool, int]:
        """Index a batch, in one transaction; returns whether there may be more, and up to where the feed is read."""
        index.execute("BEGIN IMMEDIATE")
        try:
            ((seen, fed, swept),) = index.execute(QUERY["search_position"]).fetchall()
            ((newest,),) = index.execute(QUERY["newest_task"]).fetchall()
            seen = min(seen, newest)  # the newest were deleted, and their numbers are given again
            new = [seq for (seq,) in index.execute(QUERY["new_tasks"], (seen, _BATCH))]
            ((fed_to,),) = index.execute(QUERY["next_ends"], (fed, _BATCH)).fetchall()
            ended = [] if fed_to is None else [seq for (seq,) in index.execute(QUERY["ended_tasks"], (fed, fed_to))]
            stale: list[int] = []
            sweep_to = None
            if not new and not ended:  # in quiet times: what is gone
                ((sweep_to,),) = index.execute(QUERY["next_sweep"], (swept, _BATCH)).fetchall()
                stale = [seq for (seq,) in index.execute(QUERY["stale_docs"], (swept, sweep_to or 0))]
                index.execute(QUERY["forget_docs"], (json.dumps(stale),))
            known = [seq for seq in ended if seq <= seen]  # else it comes with its turn among the new ones
            index.execute(QUERY["index_tasks"], (json.dumps(sorted({*new, *known, *stale})),))
            moved = new[-1] if new else seen, fed if fed_to is None else fed_to, sweep_to or 0
            if moved != (seen, fed, swept):
                index.execute(QUERY["search_moved"], moved)
            index.execute("COMMIT")
        except BaseException:
            if index.in_transaction:
                index.execute("ROLLBACK")
            raise
        return bool(new) or fed_to is not None or sweep_to is not None, moved[1]

    def _use(self, work: Callable[[sqlite3.Connection], R]) -> R:
        """Do *work* with the index; a damaged one is begun anew."""
        with self._mutex, errors_of(self._path):
            try:
                with closing(self._open()) as index:
                    return work(index)
            except sqlite3.DatabaseError as error:
                if primary_code(error) not in _LOST:
                    raise
            self._delete()
            with closing(self._open()) as index:
                return work(index)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode=rwc", uri=True, isolation_level=None, check_same_thread=False, timeout=_BUSY_S
        )
        try:
            self._path.chmod(0o600)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("ATTACH ? AS tasks", (f"{self._tasks.as_uri()}?mode=ro",))
            connection.execute("PRAGMA tasks.wal_autocheckpoint = 0")
            if not connection.execute("SELECT 1 FROM main.sqlite_schema WHERE name = 'position'").fetchall():
                self._make(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _make(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not connection.execute("SELECT 1 FROM main.sqlite_schema WHERE name = 'position'").fetchall():
                ((_, indexed),) = connection.execute("SELECT is_on, indexed FROM tasks.search_state").fetchall()
                connection.execute(QUERY["search_schema"])
                connection.execute(QUERY["search_position_schema"])
                connection.execute(QUERY["search_begin"], (indexed,))
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            connection.execute("ROLLBACK")
            if "fts5" in str(error):
                raise NotSupported(
                    "searching", "This SQLite was built without FTS5; install one that has it."
                ) from error
            raise

    def _version(self) -> tuple[int, int] | None:
        """Return what changes when anybody writes to the index, or deletes it."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _delete(self) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                self._path.with_name(self._path.name + suffix).unlink()
