"""The connections of applications that a transaction can be joined on, each behind the same few calls."""

import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from thirdshift.core.errors import UsageError

R = TypeVar("R")


class Rows(Protocol):
    """What a statement gave back: a DBAPI cursor."""

    @property
    def rowcount(self) -> int:
        """Return how many rows it changed."""

    def fetchall(self) -> Sequence[Any]:
        """Return the rows that it read."""


class Statements(Protocol):
    """Whatever runs statements: our own connection, or a :class:`Link`."""

    def execute(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = (), /) -> Rows:
        """Run one statement."""


class Link(Statements, Protocol):
    """A connection of the application. Where *is_async*, its calls are made through :meth:`run`."""

    is_async: bool
    connection: Any
    """What the application works with."""
    is_callers: bool
    """Set by :meth:`open`: the caller has a transaction open."""
    is_always_open: bool
    """The driver keeps a transaction open at all times, so that one says nothing of the caller."""

    def open(self) -> None:
        """Make it ready for statements."""

    @property
    def is_in_transaction(self) -> bool:
        """Return whether SQLite has a transaction open on it."""

    def flush(self) -> None:
        """Write what the application has not written yet."""

    def commit(self) -> None:
        """Commit, as the application would."""

    def roll_back(self) -> None:
        """Roll back, as the application would."""

    def close(self) -> None:
        """Release what :meth:`open` has opened; the transaction is over."""

    async def run(self, step: Callable[[], R]) -> R:
        """Make *step* in the running event loop."""


def link_of(connection: Any) -> Link:
    """Return what joins *connection*; raises ``UsageError`` when it is none that is known."""
    if isinstance(connection, sqlite3.Connection):
        return PlainLink(connection)
    if "sqlalchemy" in sys.modules:
        from thirdshift.engines.sqlite.alchemy import alchemy_link_of  # noqa: PLC0415  # an optional dependency

        link = alchemy_link_of(connection)
        if link is not None:
            return link
    raise UsageError(
        f"{type(connection).__module__}.{type(connection).__qualname__} is no connection that tasks can be stored "
        "on. Give a sqlite3.Connection, or a Session, Connection or Engine of SQLAlchemy, asynchronous ones too."
    )


class PlainLink:
    """A ``sqlite3.Connection`` of any ``isolation_level`` and ``autocommit`` mode."""

    is_async = False

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.is_callers = False
        self._autocommit = getattr(connection, "autocommit", -1)  # since Python 3.12
        self.is_always_open = self._autocommit is False

    def open(self) -> None:
        self.is_callers = self.is_in_transaction

    def execute(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = (), /) -> sqlite3.Cursor:
        cursor = self.connection.cursor()
        cursor.row_factory = None  # the application may have set one for itself
        return cursor.execute(query, parameters)

    @property
    def is_in_transaction(self) -> bool:
        return self.connection.in_transaction

    def flush(self) -> None:
        """Nothing is kept back."""

    def commit(self) -> None:
        if self._autocommit is True:  # then its own commit() does nothing
            self.execute("COMMIT")
        else:
            self.connection.commit()

    def roll_back(self) -> None:
        if self._autocommit is True:
            self.execute("ROLLBACK")
        else:
            self.connection.rollback()

    def close(self) -> None:
        """The connection is the caller's."""

    async def run(self, step: Callable[[], R]) -> R:
        return step()
