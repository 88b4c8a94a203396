"""The file: who may read it, what is refused, and what happens when the disk or somebody else stands in the way."""

import os
import sqlite3
import stat
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from thirdshift.core.engine import ClaimRequest
from thirdshift.core.errors import StoreBusy, StoreDamaged, StoreError, StoreFull, StoreReadOnly, StoreTooNew
from thirdshift.core.outcome import Ending, settle
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import AttemptOutcome, PoolKind
from thirdshift.engines.sqlite import SQLiteEngine, writer
from thirdshift.engines.sqlite.connection import LOG_LIMIT_BYTES
from thirdshift.engines.sqlite.queries import migrations
from thirdshift.testing.clock import FakeClock
from thirdshift.testing.conformance import new_task

Connect = Callable[[], sqlite3.Connection]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_only_the_owner_may_read_anything(path: Path, clock: FakeClock) -> None:
    """Files 0600, folders of locks and sockets 0700, whatever the umask."""
    before = os.umask(0)
    try:
        engine = SQLiteEngine.shared(path, clock=clock)
        worker = engine.register(slots=1)
        engine.on_work(lambda: None)
        engine.submit([new_task()])
        files = [path, path.with_name("tasks.db-wal"), path.with_name("tasks.db-shm")]
        assert [mode(file) for file in files] == [0o600] * 3
        assert mode(path.with_name("tasks.db.run")) == 0o700
        locks = list(path.with_name("tasks.db.run").glob("*.lock"))
        assert [mode(lock) for lock in locks] == [0o600]
        worker.close()
        engine.close()
    finally:
        os.umask(before)


def test_closing_leaves_nothing_behind(path: Path, clock: FakeClock) -> None:
    """No descriptor, no socket, no lock: as often as one likes."""
    counts = []
    for _ in range(5):
        engine = SQLiteEngine.shared(path, clock=clock)
        worker = engine.register(slots=1)
        engine.on_work(lambda: None)
        engine.on_finished(lambda: None)
        engine.submit([new_task()])
        worker.close()
        engine.close()
        counts.append(open_descriptors())
    assert len(set(counts)) == 1
    assert [file.name for file in path.with_name("tasks.db.run").iterdir()] == []
    assert sorted(file.name for file in path.parent.iterdir()) == ["tasks.db", "tasks.db.run"]


def test_one_file_has_one_engine_until_its_last_user_closes(path: Path, clock: FakeClock) -> None:
    """Under whatever name it is opened; afterwards it can be opened again."""
    first = SQLiteEngine.shared(path, clock=clock)
    link = path.with_name("link.db")
    link.symlink_to(path)
    second = SQLiteEngine.shared(link, clock=clock)
    assert second is first
    assert not link.with_name("link.db.run").exists()
    first.close()
    task = new_task()
    second.submit([task])
    second.close()
    for call in (lambda: second.get(task.id), second.counts, lambda: second.submit([new_task()])):
        with pytest.raises(StoreError, match="was closed by this process; open a new manager"):
            call()
    again = SQLiteEngine.shared(path, clock=clock)
    assert again is not first
    assert again.get(task.id) is not None
    again.close()


def test_listening_to_a_closed_engine_leaves_nothing_behind(path: Path, clock: FakeClock) -> None:
    """Who comes too late opens no socket."""
    engine = SQLiteEngine.shared(path, clock=clock)
    engine.close()
    before = open_descriptors()
    engine.on_finished(lambda: None)()
    assert open_descriptors() == before


def test_an_empty_file_becomes_a_database(path: Path, clock: FakeClock) -> None:
    """As made by touch."""
    path.touch()
    SQLiteEngine.shared(path, clock=clock).close()


def refused(path: Path, clock: FakeClock, error: type[StoreError], words: str) -> None:
    """Opening is refused with these words; the file is left as it is and nothing stays open."""
    content = path.read_bytes()
    before = open_descriptors()
    with pytest.raises(error, match=words):
        SQLiteEngine.shared(path, clock=clock)
    assert path.read_bytes() == content
    assert open_descriptors() == before


def test_garbage_is_refused(path: Path, clock: FakeClock) -> None:
    """And left as it is."""
    path.write_bytes(os.urandom(8192))
    refused(path, clock, StoreDamaged, "is not a sound Thirdshift database: file is not a database")


def test_another_programs_database_is_refused(path: Path, clock: FakeClock) -> None:
    """And left as it is, whatever version it says of itself."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE customer (name TEXT); PRAGMA user_version = 7")
    refused(path, clock, StoreDamaged, "another program's database")


def test_a_newer_version_is_refused(path: Path, clock: FakeClock) -> None:
    """And left as it is."""
    SQLiteEngine.shared(path, clock=clock).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("PRAGMA journal_mode = DELETE")
    newest, _ = migrations()[-1]
    refused(path, clock, StoreTooNew, f"has schema version 99; this version of Thirdshift knows {newest}")


def test_a_path_below_a_file_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    """With an error of ours."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        SQLiteEngine.shared(tmp_path / "file" / "tasks.db", clock=clock)


def test_a_read_only_folder_is_refused(mounted: Callable[..., Path], clock: FakeClock) -> None:
    """A new file cannot be made there, and an existing one cannot be written."""
    folder = mounted("size=4m")
    SQLiteEngine.shared(folder / "tasks.db", clock=clock).close()
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    for name in ("tasks.db", "new.db"):
        with pytest.raises(StoreReadOnly, match="cannot be written"):
            SQLiteEngine.shared(folder / name, clock=clock)


def test_a_lock_that_is_not_given_back_is_named(
    engine: SQLiteEngine, stranger: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """StoreBusy after the limit, nothing written; afterwards all is well."""
    monkeypatch.setattr(writer, "BUSY_LIMIT_S", 0.05)
    holder = stranger()
    holder.execute("BEGIN IMMEDIATE")
    task = new_task()
    with pytest.raises(StoreBusy, match="has been locked by another connection for 0"):
        engine.submit([task])
    assert engine.get(task.id) is None
    holder.execute("ROLLBACK")
    engine.submit([task])
    assert engine.get(task.id) is not None


def test_a_lock_that_is_given_back_in_time_is_not_noticed(engine: SQLiteEngine, stranger: Connect) -> None:
    """The submit waits for it."""
    holder = stranger()
    holder.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(engine.submit, [new_task()]) for _ in range(2)]
        assert not any(future.done() for future in waiting)
        holder.execute("COMMIT")
        for future in waiting:
            future.result(120)
    assert engine.counts()[TaskStatus.PENDING] == 2


def test_a_full_disk_is_said_and_outlived(mounted: Callable[..., Path], clock: FakeClock) -> None:
    """StoreFull, nothing half-written, and work again after space returns; nothing that was acknowledged is gone."""
    folder = mounted(f"size={LOG_LIMIT_BYTES // 4}")
    engine = SQLiteEngine.shared(folder / "tasks.db", clock=clock)
    worker = engine.register(slots=1)
    first = new_task()
    engine.submit([first])
    ballast = folder / "ballast"
    ballast.write_bytes(b"\0" * 300_000)
    stored = []
    refused_ids = []
    for _ in range(2_000):
        batch = [new_task(arguments=b"[1,[],{}]" + b" " * 2_000) for _ in range(3)]
        try:
            engine.submit(batch)
            stored += batch
        except StoreFull:
            refused_ids = [task.id for task in batch]
            break
    assert refused_ids, "the disk became full"
    assert [engine.get(task_id) for task_id in refused_ids] == [None] * 3
    ballast.unlink()
    (claim, *_) = engine.exchange([], ClaimRequest(owner=worker.id, free={PoolKind.THREAD: 1})).claims
    now = clock.now()
    settlement = settle(claim, Ending(AttemptOutcome.COMPLETED, now, now), 0.0)
    assert list(engine.exchange([settlement], None).recorded) == [True]
    after = new_task()
    engine.submit([after])
    worker.close()
    engine.close()
    again = SQLiteEngine.shared(folder / "tasks.db", clock=clock)
    assert all(again.get(task.id) is not None for task in [first, *stored, after])
    assert again.counts()[TaskStatus.COMPLETED] == 1
    with closing(sqlite3.connect(folder / "tasks.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    again.close()


def test_a_schema_with_broken_texts_is_damage(path: Path, clock: FakeClock) -> None:
    """SQLite quotes it in its message, which then is no text that Python can read."""
    SQLiteEngine.shared(path, clock=clock).close()
    content = path.read_bytes()
    assert b"CREATE TABLE progress" in content
    path.write_bytes(content.replace(b"CREATE TABLE progress", b"CREATE T\xd1BLE progress"))
    refused(path, clock, StoreDamaged, "not UTF-8")


def test_damage_stops_the_engine(path: Path, clock: FakeClock) -> None:
    """What SQLite says after damage proves nothing, so nothing more is written."""
    engine = SQLiteEngine.shared(path, clock=clock)
    engine.submit([new_task(arguments=b"[1,[],{}]" + b" " * 5_000) for _ in range(50)])
    engine.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size // 2))
    engine = SQLiteEngine.shared(path, clock=clock)
    for _ in range(2):
        with pytest.raises(StoreDamaged, match="not a sound Thirdshift database"):
            engine.submit([new_task()])
    engine.close()
