"""Tasks are stored in the application's own transaction: with its rows, or not at all."""

import asyncio
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from thirdshift import (
    BackgroundTaskManager,
    QueueFull,
    ReadSnapshot,
    StoreBusy,
    TaskStatus,
    UniqueConflict,
    UsageError,
    WrongDatabase,
)
from thirdshift.engines.sqlite import joined, writer
from thirdshift.testing import functions, inline
from thirdshift.testing.signals import TIMEOUT_S

INSERT = "INSERT INTO parcel (id) VALUES (1)"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[BackgroundTaskManager]:
    """A manager that only submits, on a file in which the application has a table."""
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False) as manager:
        with closing(sqlite3.connect(manager.database)) as connection:
            connection.execute("CREATE TABLE parcel (id INTEGER PRIMARY KEY)")
        yield manager


def connect(manager: BackgroundTaskManager, **options: Any) -> "closing[sqlite3.Connection]":
    return closing(sqlite3.connect(manager.database, **options))


def parcels(manager: BackgroundTaskManager) -> int:
    with connect(manager) as connection:
        (count,) = connection.execute("SELECT count(*) FROM parcel").fetchone()
    return int(count)


def stored(manager: BackgroundTaskManager) -> tuple[int, int]:
    """How many parcels and tasks there are."""
    return parcels(manager), manager.get_stats()["total"]


# Every kind of connection


@contextmanager
def open_plain(path: str, **options: Any) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, **options)) as connection:
        yield connection


@contextmanager
def open_rows(path: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = lambda cursor, row: {"row": row}
        connection.text_factory = bytes
        yield connection


@contextmanager
def open_engine(path: str) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    yield engine
    engine.dispose()


@contextmanager
def open_engine_that_begins(path: str) -> Iterator[sqlalchemy.Engine]:
    """As SQLAlchemy's documents advise for transactions that hold what they read."""
    with open_engine(path) as engine:

        @sqlalchemy.event.listens_for(engine, "connect")
        def leave_begin_to_us(connection: Any, _record: Any) -> None:
            connection.isolation_level = None

        @sqlalchemy.event.listens_for(engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN")

        yield engine


@contextmanager
def open_connection(path: str) -> Iterator[sqlalchemy.Connection]:
    with open_engine(path) as engine, engine.connect() as connection:
        yield connection


@contextmanager
def open_session(path: str) -> Iterator[Session]:
    with open_engine(path) as engine, Session(engine) as session:
        yield session


@contextmanager
def open_session_that_begins(path: str) -> Iterator[Session]:
    with open_engine_that_begins(path) as engine, Session(engine) as session:
        yield session


@contextmanager
def open_scoped_session(path: str) -> Iterator[Any]:
    with open_engine(path) as engine:
        session = scoped_session(sessionmaker(engine))
        yield session
        session.remove()


class Autocommit(sqlite3.Connection):
    """``autocommit=True``: its own commit and rollback do nothing."""

    autocommit = True

    def commit(self) -> None: ...

    def rollback(self) -> None: ...


class AlwaysOpen(sqlite3.Connection):
    """``autocommit=False``: a transaction is always open."""

    autocommit = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.execute("BEGIN")

    def commit(self) -> None:
        self.execute("COMMIT")
        self.execute("BEGIN")

    def rollback(self) -> None:
        self.execute("ROLLBACK")
        self.execute("BEGIN")


KINDS: dict[str, Callable[[str], AbstractContextManager[Any]]] = {
    "sqlite3": open_plain,
    "sqlite3 without isolation level": lambda path: open_plain(path, isolation_level=None),
    "sqlite3 that begins immediately": lambda path: open_plain(path, isolation_level="IMMEDIATE"),
    "sqlite3 with factories": open_rows,
    "Engine": open_engine,
    "Connection": open_connection,
    "Session": open_session,
    "Session that begins": open_session_that_begins,
    "scoped_session": open_scoped_session,
}
if sys.version_info >= (3, 12):
    KINDS["sqlite3 with autocommit"] = lambda path: open_plain(path, autocommit=True)
    KINDS["sqlite3 without autocommit"] = lambda path: open_plain(path, autocommit=False)
else:  # what those versions document, on this one
    KINDS["sqlite3 with autocommit"] = lambda path: open_plain(path, isolation_level=None, factory=Autocommit)
    KINDS["sqlite3 without autocommit"] = lambda path: open_plain(path, isolation_level=None, factory=AlwaysOpen)

every_kind = pytest.mark.parametrize("kind", KINDS)
WITHOUT_THEIR_OWN = ("Engine", "sqlite3 without autocommit")
"""An engine gives each block a new connection; where one is always open, it is the block's."""
every_kind_with_its_own = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WITHOUT_THEIR_OWN])


def write(connection: Any) -> None:
    connection.execute(INSERT if isinstance(connection, sqlite3.Connection) else sqlalchemy.text(INSERT))


@every_kind
def test_a_row_and_a_task_are_stored_together(manager: BackgroundTaskManager, kind: str) -> None:
    """With one connection again and again."""
    with KINDS[kind](manager.database) as connection:
        with manager.transaction(connection) as tx:
            write(tx.connection)
            handle = tx.submit(functions.add, 1, 2)
            assert manager.get_task(handle.id) is None, "nobody sees it before the commit"
        assert handle.status is TaskStatus.PENDING
        with manager.transaction(connection) as tx:
            ids = tx.submit_many(functions.add, [(1, 1)] * 100)
            ids += tx.options(queue="other", priority=5).submit_many(functions.add, [(1, 1)])
    assert stored(manager) == (1, 102)
    assert manager.handle(ids[-1]).task.queue == "other"
    assert {queue.name for queue in manager.queues()} == {"default", "other"}


@every_kind
def test_a_unique_key_leads_to_the_task_that_has_it(manager: BackgroundTaskManager, kind: str) -> None:
    """Whether it was stored in a transaction or not; a conflict that is asked for rolls everything back."""
    with KINDS[kind](manager.database) as connection:
        with manager.transaction(connection) as tx:
            first = tx.options(unique_key="report").submit(functions.add, 1, 2)
            assert tx.options(unique_key="report").submit(functions.add, 3, 4).id == first.id
            replaced = tx.options(unique_key="report", on_conflict="replace").submit(functions.add, 5, 6)
        assert replaced.id == first.id
        assert manager.options(unique_key="report").submit(functions.add, 7, 8).id == first.id
        with pytest.raises(UniqueConflict), manager.transaction(connection) as tx:  # noqa: PT012  # it is the point
            write(tx.connection)
            tx.options(unique_key="report", on_conflict="error").submit(functions.add, 9, 10)
    assert stored(manager) == (0, 1)
    assert first.task.arguments == ((5, 6), {})


@every_kind
def test_an_exception_leaves_neither(manager: BackgroundTaskManager, kind: str) -> None:
    """And the connection can be used again."""
    with KINDS[kind](manager.database) as connection:
        with pytest.raises(ZeroDivisionError), manager.transaction(connection) as tx:  # noqa: PT012  # it is the point
            write(tx.connection)
            tx.options(queue="new").submit(functions.add, 1, 2)
            raise ZeroDivisionError
        assert stored(manager) == (0, 0)
        assert manager.queues() == []
        with manager.transaction(connection) as tx:
            write(tx.connection)
    assert stored(manager) == (1, 0)


@every_kind_with_its_own
def test_a_transaction_that_has_only_read_is_refused(manager: BackgroundTaskManager, kind: str) -> None:
    """It might see an old state and never be let to write; it stays the caller's."""
    with KINDS[kind](manager.database) as connection:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("BEGIN")
        query = "SELECT count(*) FROM parcel"
        select = query if isinstance(connection, sqlite3.Connection) else sqlalchemy.text(query)
        connection.execute(select).fetchall()
        with pytest.raises(ReadSnapshot, match="Commit or roll back first"), manager.transaction(connection):
            pytest.fail("it was entered")
        owner = connection() if kind == "scoped_session" else connection
        assert owner.in_transaction if kind.startswith("sqlite3") else owner.in_transaction()
        connection.execute("ROLLBACK") if kind == "sqlite3 with autocommit" else connection.rollback()
        with manager.transaction(connection) as tx:
            write(tx.connection)
    assert stored(manager) == (1, 0)


@every_kind_with_its_own
def test_a_transaction_that_has_written_stays_the_callers(manager: BackgroundTaskManager, kind: str) -> None:
    """Who commits it alone commits the task too, and who rolls it back loses both."""
    with KINDS[kind](manager.database) as connection:
        for end in ("rollback", "commit"):
            if kind in ("sqlite3 without isolation level", "sqlite3 with autocommit"):
                connection.execute("BEGIN IMMEDIATE")
            write(connection)
            with manager.transaction(connection) as tx:
                tx.submit(functions.add, 1, 2)
            assert stored(manager) == (0, 0)
            if kind == "sqlite3 with autocommit":
                connection.execute(end)
            else:
                getattr(connection, end)()
    assert stored(manager) == (1, 1)


def test_a_connection_that_always_has_a_transaction_open_commits_it(manager: BackgroundTaskManager) -> None:
    """With what was written before, as in ``with connection``; of blocks inside each other the outermost."""
    with KINDS["sqlite3 without autocommit"](manager.database) as connection, connect(manager) as other:
        assert connection.execute("SELECT count(*) FROM parcel").fetchone() == (0,)
        with other:
            other.execute("INSERT INTO parcel (id) VALUES (9)")
        with manager.transaction(connection) as tx:  # what it has read is old by now: it begins anew
            assert connection.execute("SELECT count(*) FROM parcel").fetchone() == (1,)
            tx.submit(functions.add, 1, 2)
        write(connection)
        with manager.transaction(connection):
            with manager.transaction(connection) as inner:
                inner.submit(functions.add, 1, 2)
            assert stored(manager) == (1, 1)
    assert stored(manager) == (2, 2)


@pytest.mark.parametrize("mode", ["commits", "fails"])
@pytest.mark.parametrize("kind", ["AsyncSession", "AsyncConnection", "AsyncEngine", "sqlite3"])
def test_coroutines_store_a_row_and_a_task_together(manager: BackgroundTaskManager, kind: str, mode: str) -> None:
    """With the asynchronous kinds, and with ``sqlite3`` too."""

    async def store(connection: Any) -> None:
        async with manager.transaction(connection) as tx:
            done = tx.connection.execute(INSERT if kind == "sqlite3" else sqlalchemy.text(INSERT))
            await done if kind != "sqlite3" else None
            await tx.asubmit(functions.add, 1, 2)
            await tx.options(queue="other").asubmit_many(functions.add, [(1, 1)] * 2)
            if kind != "sqlite3":
                with pytest.raises(UsageError, match=r"await tx\.asubmit"):
                    tx.submit(functions.add, 1, 2)
            with pytest.raises(UsageError, match=r"tx\.asubmit"):
                await manager.asubmit(functions.add, 1, 2)
            if mode == "fails":
                raise ZeroDivisionError

    async def main() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{manager.database}")
        makers: dict[str, Callable[[], Any]] = {
            "AsyncSession": lambda: AsyncSession(engine),
            "AsyncConnection": engine.connect,
            "AsyncEngine": lambda: nullcontext(engine),
        }
        with connect(manager) as plain, pytest.raises(ZeroDivisionError) if mode == "fails" else nullcontext():
            if kind == "sqlite3":
                await store(plain)
            else:
                async with makers[kind]() as connection:
                    assert isinstance(connection, AsyncSession | AsyncConnection | AsyncEngine)
                    await store(connection)
        await engine.dispose()

    asyncio.run(main())
    assert stored(manager) == ((1, 3) if mode == "commits" else (0, 0))


def test_an_asynchronous_connection_needs_async_with(manager: BackgroundTaskManager) -> None:
    """Said at once, before anything is written."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{manager.database}")
    with pytest.raises(UsageError, match="async with"), manager.transaction(engine):
        pytest.fail("it was entered")
    with pytest.raises(UsageError, match=r"sqlite3\.Connection, or a Session"):
        manager.transaction("tasks.db")


# Which file


def test_a_connection_to_another_file_is_refused(manager: BackgroundTaskManager, tmp_path: Path) -> None:
    """The error says which files are meant."""
    with closing(sqlite3.connect(tmp_path / "other.db")) as other, closing(sqlite3.connect(":memory:")) as memory:
        with pytest.raises(WrongDatabase, match=r"open on .*other\.db, the tasks lie in .*tasks\.db"):
            manager.transaction(other).__enter__()
        with pytest.raises(WrongDatabase, match="open on a database in memory"):
            manager.transaction(memory).__enter__()


def test_a_file_may_be_opened_by_another_name(manager: BackgroundTaskManager, tmp_path: Path) -> None:
    """A link leads to the same one."""
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    with closing(sqlite3.connect(tmp_path / "link" / "tasks.db")) as connection, manager.transaction(connection) as tx:
        tx.submit(functions.add, 1, 2)
    assert stored(manager) == (0, 1)


# Who waits for whom


def test_a_plain_submit_inside_the_block_is_refused_at_once(manager: BackgroundTaskManager) -> None:
    """It would wait for a lock that its own thread holds. So would any other change."""
    with connect(manager) as connection, connect(manager) as second:
        with manager.transaction(connection) as tx:
            handle = tx.submit(functions.add, 1, 2)
            with pytest.raises(UsageError, match=r"tx\.submit"):
                manager.submit(functions.add, 1, 2)
            with pytest.raises(UsageError, match=r"tx\.submit"):
                manager.cancel_task(handle.id)
            with pytest.raises(UsageError, match=r"tx\.submit"):
                manager.transaction(second).__enter__()
        manager.submit(functions.add, 1, 2)
    assert stored(manager) == (0, 2)


def test_it_is_refused_also_behind_other_threads(manager: BackgroundTaskManager) -> None:
    """One that may wait leads the commits of the process; it commits when the block is over."""
    with connect(manager) as connection:
        with manager.transaction(connection):
            other = threading.Thread(target=manager.submit, args=(functions.add, 1, 2))
            other.start()
            while not manager._engine._writer._is_led:  # type: ignore[attr-defined]
                pass
            with pytest.raises(UsageError, match=r"tx\.submit"):
                manager.submit(functions.add, 1, 2)
        other.join(TIMEOUT_S)
    assert stored(manager) == (0, 1)


def test_who_waits_for_a_long_block_is_told_of_it(
    manager: BackgroundTaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the transaction of this process that holds the lock."""
    monkeypatch.setattr(writer, "BUSY_LIMIT_S", 0.02)
    errors: list[StoreBusy] = []

    def submit() -> None:
        try:
            manager.submit(functions.add, 1, 2)
        except StoreBusy as error:
            errors.append(error)

    with connect(manager) as connection, manager.transaction(connection):
        other = threading.Thread(target=submit)
        other.start()
        other.join(TIMEOUT_S)
    assert "a transaction of this process, open for" in str(errors[0])
    assert "(thread MainThread)" in str(errors[0])


@pytest.mark.parametrize("kind", ["sqlite3", "Session", "Engine"])
def test_a_lock_that_somebody_holds_is_waited_for_and_then_reported(
    manager: BackgroundTaskManager, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nothing was written; afterwards the connection is as it was."""
    monkeypatch.setattr(joined, "BUSY_LIMIT_S", 0.02)
    with connect(manager, isolation_level=None) as stranger, KINDS[kind](manager.database) as connection:
        stranger.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy, match="a shell, a database browser"), manager.transaction(connection):
            pytest.fail("it was entered")
        stranger.execute("ROLLBACK")
        with manager.transaction(connection) as tx:
            write(tx.connection)
    assert stored(manager) == (1, 0)


def test_workers_are_woken_by_the_commit(tmp_path: Path) -> None:
    """And by ``wake`` where the caller commits."""
    with BackgroundTaskManager(database=tmp_path / "tasks.db") as manager, connect(manager) as connection:
        with manager.transaction(connection) as tx:
            handle = tx.submit(functions.add, 1, 2)
        assert handle.result(TIMEOUT_S) == 3
        connection.execute("CREATE TABLE parcel (id)")
        connection.execute(INSERT)
        with manager.transaction(connection) as tx:
            handle = tx.submit(functions.add, 2, 2)
        connection.commit()
        tx.wake()
        assert handle.result(TIMEOUT_S) == 4
        connection.execute(INSERT)
        with manager.transaction(connection) as tx:
            handle = tx.submit(functions.add, 3, 2)
        connection.commit()
        assert handle.result(TIMEOUT_S) == 5, "a caller who commits alone is noticed too"


# The rules of the file


def pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)


@pytest.mark.parametrize(("durability", "synchronous"), [(None, 2), ("full", 2), ("relaxed", 1)])
def test_the_connection_keeps_our_rules(
    manager: BackgroundTaskManager, durability: str | None, synchronous: int
) -> None:
    """No checkpoint of its own, as durable as the tasks ask; its other settings stay."""
    with connect(manager, timeout=1.5) as connection:
        connection.execute("PRAGMA synchronous = NORMAL")
        with manager.transaction(connection, durability=durability):
            assert pragma(connection, "synchronous") == synchronous
        assert pragma(connection, "wal_autocheckpoint") == 0
        assert pragma(connection, "busy_timeout") == 1500
        assert pragma(connection, "foreign_keys") == 0


def test_a_task_is_never_less_durable_than_it_asks(manager: BackgroundTaskManager) -> None:
    """A transaction that syncs nothing takes relaxed tasks only."""
    with connect(manager) as connection:
        connection.execute("PRAGMA synchronous = NORMAL")
        with manager.transaction(connection, durability="relaxed") as tx:
            tx.options(durability="relaxed").submit(functions.add, 1, 2)
            with pytest.raises(UsageError, match="durability='full'"):
                tx.submit(functions.add, 1, 2)
        connection.execute(INSERT)
        with pytest.raises(UsageError, match="durability='full'"), manager.transaction(connection) as tx:
            tx.submit(functions.add, 1, 2)
        connection.rollback()
    assert stored(manager) == (0, 1)


def test_a_full_queue_says_so_at_once(tmp_path: Path) -> None:
    """Nobody could make room while the block is open. What came before stands, if the caller wants it."""
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False, queue_size=2) as manager:
        with connect(manager) as connection, manager.transaction(connection) as tx:
            tx.submit(functions.add, 1, 2)
            with pytest.raises(QueueFull):
                tx.options(wait=60).submit_many(functions.add, [(1, 1)] * 2)
        assert manager.get_stats()["total"] == 1


def test_a_caller_who_commits_inside_ends_the_transaction(manager: BackgroundTaskManager) -> None:
    """What was stored stands; nothing more can be."""
    with connect(manager) as connection, manager.transaction(connection) as tx:
        tx.submit(functions.add, 1, 2)
        connection.commit()
        with pytest.raises(UsageError, match="not open"):
            tx.submit(functions.add, 1, 2)
    with pytest.raises(UsageError, match="not open"):
        tx.submit(functions.add, 1, 2)
    with pytest.raises(UsageError, match="used once"):
        tx.__enter__()
    assert stored(manager) == (0, 1)


def test_what_the_application_itself_does_wrong_is_its_own_error(manager: BackgroundTaskManager) -> None:
    """Also at the commit; then there is neither row nor task."""
    with connect(manager) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("CREATE TABLE note (parcel REFERENCES parcel (id) DEFERRABLE INITIALLY DEFERRED)")
        with pytest.raises(sqlite3.IntegrityError), manager.transaction(connection) as tx:  # noqa: PT012  # as above
            connection.execute("INSERT INTO note VALUES (99)")
            tx.submit(functions.add, 1, 2)
    assert stored(manager) == (0, 0)


def test_blocks_may_stand_inside_each_other(manager: BackgroundTaskManager) -> None:
    """The outermost commits."""
    with connect(manager) as connection, manager.transaction(connection) as outer:
        outer.submit(functions.add, 1, 2)
        with manager.transaction(connection) as inner:
            inner.submit(functions.add, 1, 2)
        assert stored(manager) == (0, 0)
    assert stored(manager) == (0, 2)


def test_in_a_test_the_tasks_run_at_the_commit() -> None:
    """With ``inline``, as every submit does."""
    with inline() as manager, connect(manager) as connection:
        with manager.transaction(connection) as tx:
            handle = tx.submit(functions.add, 1, 2)
        assert handle.result() == 3
