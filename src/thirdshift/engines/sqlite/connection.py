"""How a database file is opened: the rules that every connection of ours keeps.

WAL, no automatic checkpoints (``checkpoint`` owns them), no waiting inside SQLite (``writer`` waits, fairly), readers
that cannot write. The database files are never opened by other means in a process that uses them: closing any
descriptor of them drops SQLite's locks (sqlite.org/howtocorrupt, 2.2).
"""

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thirdshift.core.errors import (
    OutcomeUnknown,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreOnNetwork,
    StoreReadOnly,
    StoreTooNew,
)
from thirdshift.engines.sqlite.queries import migrations
from thirdshift.host.filesystem import filesystem_type, is_network_filesystem

APPLICATION_ID = 0x33534846
"""``3SHF``: says in the file's header whose it is."""

LOG_LIMIT_BYTES = 4 * 1024 * 1024
"""A longer log is checkpointed; the first commit after that cuts it to this length, so that its length says again how
much there is to move."""

_OPEN_LIMIT_S = 5.0
"""How long an open waits for others that open the file too, or change it."""
_PAUSE_S = 0.005

_COMMON = (
    "PRAGMA wal_autocheckpoint = 0",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",
)


def open_writer(path: Path) -> sqlite3.Connection:
    """Open *path* for writing; made (0600) and brought to the current schema when needed. Raises ``StoreError``."""
    with errors_of(path):
        _create_private(path)
        connection = _connect(path, "rw")
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open *path*, which must exist and be current, for reading only."""
    with errors_of(path):
        connection = _connect(path, "ro")
        try:
            connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
    return connection


def open_guard(path: Path) -> sqlite3.Connection:
    """Open *path*, which must exist and be current, for the checkpoint owner: it holds locks and writes no rows."""
    with errors_of(path):
        return _connect(path, "rw")


@contextmanager
def errors_of(path: Path, *, committing: bool = False) -> Iterator[None]:
    """Turn SQLite's errors about *path* into ours; *committing* says that a failure leaves the outcome unknown."""
    try:
        yield
    except sqlite3.Error as error:
        raise translated(error, path, committing=committing) from error
    except UnicodeDecodeError as error:  # of a text in the file, or of SQLite's own message, which quotes the file
        raise StoreDamaged(str(path), "it holds texts that are not UTF-8") from error
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(str(path)) from error
        if error.errno in _UNWRITABLE:
            raise StoreReadOnly(str(path)) from error
        raise StoreError(f"{path} cannot be opened: {error.strerror}") from error


_BY_CODE = {
    sqlite3.SQLITE_FULL: StoreFull,
    sqlite3.SQLITE_READONLY: StoreReadOnly,
    sqlite3.SQLITE_PERM: StoreReadOnly,
    sqlite3.SQLITE_CANTOPEN: StoreReadOnly,
}
OF_THE_OPERATION = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)
"""SQLite's errors that are about the values of one caller, not about the file."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def translated(error: sqlite3.Error | MemoryError, path: Path, *, committing: bool = False) -> StoreError:
    """Return *error* as the ``StoreError`` that says what to do."""
    code = primary_code(error)
    if code in _BY_CODE:
        return _BY_CODE[code](str(path))
    if code in _DAMAGE:
        return StoreDamaged(str(path), str(error))
    if code == sqlite3.SQLITE_BUSY:
        return StoreBusy(str(path), _OPEN_LIMIT_S)  # who opens and who reads has waited so long
    if committing:
        return OutcomeUnknown(str(path), str(error) or "out of memory")
    return StoreError(f"{path}: {error}")


def closed(path: Path) -> StoreError:
    """Return the error of a call that comes after the close."""
    return StoreError(f"{path} was closed by this process; open a new manager")


def forked(path: Path) -> StoreError:
    """Return the error of a call in a forked child about a file that its parent had open."""
    return StoreError(
        f"{path} was in use for so long while this process was forked that it could not be closed, and SQLite does not "
        "work across a fork. Fork when no other program holds the file locked, open it only after the fork, or start "
        "the process by spawn (multiprocessing.get_context('spawn'))."
    )


def primary_code(error: Exception) -> int:
    """Return SQLite's primary result code of *error*, 0 when it has none."""
    return int(getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def refuse_network(path: Path) -> None:
    """Raise ``StoreOnNetwork`` where locks cannot be trusted."""
    kind = filesystem_type(path.parent)
    if is_network_filesystem(kind):
        raise StoreOnNetwork(str(path), kind)


def _create_private(path: Path) -> None:
    """Create *path* readable by its owner only, unless it exists. Never opens an existing file."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=_OPEN_LIMIT_S,
        cached_statements=256,
    )
    try:
        for pragma in _COMMON:
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    is_empty = _is_empty_or_ours(connection, path)
    _schema_version(connection, path, migrations()[-1][0])  # a newer version's file is left as it is
    if is_empty:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # possible only before the first table
    if _switch_to_wal(connection) != "wal":
        raise StoreError(f"{path}: write-ahead logging is not possible here; put the database on a local disk")
    connection.execute(f"PRAGMA journal_size_limit = {LOG_LIMIT_BYTES}")
    connection.execute("PRAGMA synchronous = FULL")
    _migrate(connection, path)
    connection.execute("PRAGMA busy_timeout = 0")  # from here on the writer waits, fairly


def _switch_to_wal(connection: sqlite3.Connection) -> str:
    """Return the mode after the switch, which is made once in a file's life, by whoever of several comes first.

    SQLite makes the switch from a read lock to a write lock, and never waits there, lest two wait for each other. Here
    nothing is locked between two tries.
    """
    give_up_at = time.monotonic() + _OPEN_LIMIT_S
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up_at:
                raise
        time.sleep(_PAUSE_S)


def _is_empty_or_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Return whether there is no table yet; raises when the tables are another program's."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreDamaged(str(path), "it is another program's database")
    return not tables


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema to this version in one transaction: another process sees the old one or the new one."""
    known = migrations()
    newest = known[-1][0]
    if _schema_version(connection, path, newest) == newest:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = _schema_version(connection, path, newest)
        for version, script in known:
            if version > found:
                for statement in _statements(script):
                    connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {newest}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _schema_version(connection: sqlite3.Connection, path: Path, newest: int) -> int:
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > newest:
        raise StoreTooNew(str(path), found, newest)
    return found


def _statements(script: str) -> Iterator[str]:
    """Cut *script* into statements (``executescript`` would commit the transaction that it runs in)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
