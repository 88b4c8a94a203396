"""``with`` and ``async with`` around a transaction on a connection of the application."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from thirdshift.core import codec
from thirdshift.core.clock import Clock
from thirdshift.core.engine import SQLITE_JOIN, Join, Joined
from thirdshift.core.errors import UsageError
from thirdshift.core.outcome import Ending
from thirdshift.core.reference import resolve
from thirdshift.core.task import AttemptOutcome, Fence

R = TypeVar("R")

_PAUSE_S = 0.001
"""How long after the write lock was refused it is asked for again."""


class TransactionBlock:
    """Begins when it is entered, commits when it is left, and rolls back when it is left by an exception.

    Everything is done on the caller's thread; with an asynchronous connection, in the caller's event loop.
    """

    def __init__(self, joined: Joined) -> None:
        self._joined = joined

    @property
    def connection(self) -> Any:
        """What the application writes with inside the block: what was given, or the new connection of an engine."""
        return self._joined.connection

    def __enter__(self) -> Self:
        if self._joined.is_async:
            raise UsageError("this connection is asynchronous: use `async with`")
        try:
            while not self._begin():
                time.sleep(_PAUSE_S)
        except BaseException:
            self._joined.roll_back()
            raise
        self._joined.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end(error)
        finally:
            self._joined.leave()
        if error is None:
            self._announce()

    async def __aenter__(self) -> Self:
        import asyncio  # noqa: PLC0415  # only applications with an event loop need it

        try:
            while not await self._joined.run(self._begin):  # noqa: ASYNC110  # SQLite tells nobody of a free lock
                await asyncio.sleep(_PAUSE_S)
        except BaseException:
            await self._joined.run(self._joined.roll_back)
            raise
        self._joined.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._joined.run(lambda: self._end(error))
        finally:
            self._joined.leave()
        if error is None:
            self._announce()

    def _begin(self) -> bool:
        return self._joined.begin()

    def _end(self, error: BaseException | None) -> None:
        if error is None:
            self._joined.commit()
        else:
            self._joined.roll_back()

    def _announce(self) -> None:
        """Tell who waits for what was committed."""


def joined_for(fence: Fence | None, connection: Any) -> Joined:
    """Return a transaction on *connection* that can complete the attempt of *fence*; without one, on any database."""
    if fence is None:
        join: Join = resolve(SQLITE_JOIN)
        return join(connection, None, False)
    join = resolve(fence.join)
    return join(connection, fence.location, fence.durable)


class CommitBlock(TransactionBlock):
    """The block of :meth:`TaskContext.commit`; *fence* is ``None`` outside of a worker."""

    def __init__(self, joined: Joined, fence: Fence | None, clock: Clock, announce: Callable[[], None]) -> None:
        super().__init__(joined)
        self.result: Any = None
        """What the task returns; set it inside the block."""
        self._fence = fence
        self._clock = clock
        self._announced = announce

    def _begin(self) -> bool:
        if not super()._begin():
            return False
        if self._fence is not None:
            if not self._joined.is_own:
                raise UsageError("the connection is in a transaction already; end it: the block begins its own")
            self._joined.check(self._fence)
        return True

    def _end(self, error: BaseException | None) -> None:
        try:
            if error is None and self._fence is not None:
                now = self._clock.now()
                # its start, and what it used, is known when the function has returned
                ending = Ending(AttemptOutcome.COMPLETED, None, now, codec.encode_result(self.result))
                self._joined.complete(self._fence, ending)
        except BaseException:
            self._joined.roll_back()
            raise
        super()._end(error)

    def _announce(self) -> None:
        self._announced()
