"""The bare loops: the same rows and indexes by plain ``sqlite3``, the limit that an engine can come close to."""

import os
import time
from pathlib import Path

from thirdshift.core import codec
from thirdshift.core.reference import reference_of
from thirdshift.core.status import TaskPriority
from thirdshift.core.task import NewTask, PoolKind, TaskId
from thirdshift.engines.sqlite.connection import open_writer
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.engines.sqlite.rows import row_of_new


def noop(number: int = 0) -> int:
    return number


class BareLoop:
    """One connection with the engine's own schema and pragmas, and nothing else."""

    def __init__(self, path: Path, durability: str) -> None:
        self.connection = open_writer(path)
        self.connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        self.connection.execute(QUERY["know_queue"], ("default",))
        self._row = row_of_new(
            NewTask(
                id=TaskId("0" * 32),
                name="noop",
                function=reference_of(noop),
                arguments=codec.encode_arguments((1,), {}),
                queue="default",
                pool=PoolKind.THREAD,
                priority=TaskPriority.NORMAL,
            ),
            time.time_ns() // 1000,
        )

    def submit(self, count: int) -> float:
        """Insert *count* tasks, one commit each; returns tasks a second."""
        execute, statement, row = self.connection.execute, QUERY["submit"], self._row[1:]
        started = time.perf_counter()
        for _ in range(count):
            execute("BEGIN IMMEDIATE")
            execute(statement, (os.urandom(16).hex(), *row))
            execute("COMMIT")
        return count / (time.perf_counter() - started)

    def submit_many(self, count: int) -> float:
        """Insert *count* tasks in one commit; returns tasks a second."""
        row = self._row[1:]
        started = time.perf_counter()
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany(QUERY["submit"], ((os.urandom(16).hex(), *row) for _ in range(count)))
        self.connection.execute("COMMIT")
        return count / (time.perf_counter() - started)

    def checkpoint(self) -> None:
        """Move the log into the file, between measurements, so that both sides start from the same state."""
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self.connection.close()


def fsync_rate(folder: Path, seconds: float = 0.3) -> float:
    """Return how many fsyncs of 4 KiB appends a second the disk of *folder* takes now."""
    path = folder / "fsync-probe"
    count, block = 0, b"x" * 4096
    with path.open("wb", buffering=0) as file:
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            file.write(block)
            os.fdatasync(file.fileno())
            count += 1
    path.unlink()
    return count / seconds


def open_bare(folder: Path, name: str, durability: str) -> BareLoop:
    """Open a new bare loop in *folder*."""
    return BareLoop((folder / f"bare-{name}.db").absolute(), durability)


__all__ = ["BareLoop", "fsync_rate", "noop", "open_bare"]
