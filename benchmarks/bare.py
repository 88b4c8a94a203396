"""The bare loops: the same rows and indexes by plain ``sqlite3``, the limit that an engine can come close to."""

import itertools
import sqlite3
import time
from pathlib import Path

from bench import BARE
from functions import noop

from thirdshift import BackgroundTaskManager
from thirdshift.engines.sqlite.connection import open_writer

_AT_ONCE = 100
_CLAIM = """
UPDATE task SET status = 'running', attempt = attempt + 1, owner = 'bare', claimed_at = ?
WHERE seq IN (SELECT seq FROM task
              WHERE status = 'pending' AND limit_key IS NULL AND queue = 'default' AND pool = 'thread'
              ORDER BY priority DESC, due_at, seq LIMIT ?)
RETURNING seq, attempt, arguments
"""
_RECORD = """
INSERT INTO attempt (task, number, outcome, worker, claimed_at, started_at, finished_at, result)
VALUES (?, ?, 'completed', 'bare', ?, ?, ?, ?)
"""
_SETTLE = "UPDATE task SET status = 'completed', owner = NULL, claimed_at = NULL, finished_at = ? WHERE seq = ?"


class BareLoop:
    """One connection with the engine's own schema and pragmas, and nothing else."""

    who = BARE

    def __init__(self, folder: Path, durability: str) -> None:
        path = (folder / f"bare-{durability}.db").absolute()
        with BackgroundTaskManager(database=path, durability=durability, start=False) as manager:
            manager.submit(noop, 1)
        self.connection = open_writer(path)
        self.connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        self._statement, self._row = _insert_like_the_first(self.connection)
        self._ids = (f"{number:032x}" for number in itertools.count())

    def submit(self, _number: int) -> None:
        """Insert one task in a commit of its own."""
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        execute(self._statement, (next(self._ids), *self._row))
        execute("COMMIT")

    def submit_many(self, count: int) -> None:
        """Insert *count* tasks in one commit."""
        self.connection.execute("BEGIN IMMEDIATE")
        rows = ((next(self._ids), *self._row) for _ in range(count))
        self.connection.executemany(self._statement, rows)
        self.connection.execute("COMMIT")

    def drain(self) -> None:
        """Claim a hundred, run them, and record them in the commit that claims the next hundred."""
        execute = self.connection.execute
        claims: list[tuple[int, int, bytes]] = []
        while True:
            now = time.time_ns() // 1000
            execute("BEGIN IMMEDIATE")
            self.connection.executemany(
                _RECORD, [(seq, number, now, now, now, noop(arguments)) for seq, number, arguments in claims]
            )
            self.connection.executemany(_SETTLE, [(now, seq) for seq, _, _ in claims])
            claims = execute(_CLAIM, (now, _AT_ONCE)).fetchall()
            execute("COMMIT")
            if not claims:
                return

    def checkpoint(self) -> None:
        """Move the log into the file, between measurements, so that both sides start from the same state."""
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self.connection.close()


def _insert_like_the_first(connection: sqlite3.Connection) -> tuple[str, tuple[object, ...]]:
    """Return the statement, and its parameters after the id, that write the row which a submit of ours wrote."""
    first = connection.execute("SELECT * FROM task").fetchone()
    columns = [
        (name, value)
        for (_, name, _, _, default, _), value in zip(connection.execute("PRAGMA table_info(task)"), first, strict=True)
        if name not in ("seq", "id") and value is not None and default is None
    ]
    names = ", ".join(name for name, _ in columns)
    marks = ", ".join("?" for _ in columns)
    return f"INSERT INTO task (id, {names}) VALUES (?, {marks})", tuple(value for _, value in columns)
