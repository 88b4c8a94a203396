"""SQLAlchemy's sessions, connections and engines, as :class:`~thirdshift.engines.sqlite.links.Link`.

Statements of ours go to the driver's cursor: the application's hooks and echo see its own alone. In an asynchronous one
the same calls are made inside SQLAlchemy's ``run_sync``, which awaits the driver.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session, scoped_session

from thirdshift.core.errors import UsageError

R = TypeVar("R")


def alchemy_link_of(connection: Any) -> "AlchemyLink | None":
    """Return what joins *connection*, ``None`` when it is nothing of SQLAlchemy's."""
    if isinstance(connection, scoped_session):
        connection = connection()
    if isinstance(connection, Session | Connection | Engine):
        return AlchemyLink(connection)
    return _async_link_of(connection)


def _async_link_of(connection: Any) -> "AlchemyLink | None":
    try:
        from sqlalchemy.ext.asyncio import (  # noqa: PLC0415  # it needs greenlet, which may not be there
            AsyncConnection,
            AsyncEngine,
            AsyncSession,
            async_scoped_session,
        )
    except ImportError:
        return None
    if isinstance(connection, async_scoped_session):
        connection = connection()
    if isinstance(connection, AsyncSession):
        return AsyncAlchemyLink(connection, connection.sync_session)
    if isinstance(connection, AsyncConnection):
        return AsyncAlchemyLink(connection, connection.sync_connection)
    if isinstance(connection, AsyncEngine):
        return AsyncEngineLink(connection)
    return None


class AlchemyLink:
    """A ``Session`` or ``Connection``, or a new connection of an ``Engine``."""

    is_async = False
    is_always_open = False

    def __init__(self, target: Any) -> None:
        self.connection = target
        self.is_callers = False
        self._owner = target
        """What begins and ends the transaction: always a synchronous object."""
        self._connection: Any = None
        self._must_close = False

    def open(self) -> None:
        if isinstance(self._owner, Engine):
            self._owner = self.connection = self._owner.connect()
            self._must_close = True
        self.is_callers = self._owner.in_transaction()
        if isinstance(self._owner, Session):
            self._connection = self._owner.connection()  # which begins, unless it has begun
        else:
            self._connection = self._owner
            if not self.is_callers:
                self._owner.begin()
        if self._connection.dialect.name != "sqlite":
            raise UsageError(f"the tasks lie in a SQLite file; this is a connection to {self._connection.dialect.name}")

    def execute(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = (), /) -> Any:
        cursor = self._connection.connection.cursor()
        cursor.execute(query, parameters)
        return cursor

    @property
    def is_in_transaction(self) -> bool:
        if self._connection.closed:  # a session that has committed
            return False
        return bool(self._connection.connection.driver_connection.in_transaction)

    def flush(self) -> None:
        if isinstance(self._owner, Session):
            self._owner.flush()

    def commit(self) -> None:
        self._owner.commit()

    def roll_back(self) -> None:
        self._owner.rollback()

    def close(self) -> None:
        if self._must_close:
            self._owner.close()

    async def run(self, step: Callable[[], R]) -> R:
        return step()


class AsyncAlchemyLink(AlchemyLink):
    """An ``AsyncSession`` or ``AsyncConnection``."""

    is_async = True

    def __init__(self, target: Any, owner: Any) -> None:
        super().__init__(target)
        self._owner = owner

    async def run(self, step: Callable[[], R]) -> R:
        result: R = await self.connection.run_sync(lambda _owner: step())
        return result


class AsyncEngineLink(AsyncAlchemyLink):
    """A new connection of an ``AsyncEngine``."""

    def __init__(self, engine: Any) -> None:
        super().__init__(None, None)
        self._engine = engine

    async def run(self, step: Callable[[], R]) -> R:
        if self.connection is None:
            self.connection = await self._engine.connect()
            self._owner = self.connection.sync_connection
            self._must_close = True
        return await super().run(step)
