"""``manager.transaction``: tasks that are stored with the application's own writes, or not at all."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from thirdshift.core.engine import Joined
from thirdshift.core.errors import UsageError
from thirdshift.handle import Submitter
from thirdshift.runtime.block import TransactionBlock
from thirdshift.submission import NO_OPTIONS, Call, SubmitOptions, TaskMaker

if TYPE_CHECKING:
    from thirdshift.manager import BackgroundTaskManager


class Transaction(TransactionBlock, Submitter):
    """A transaction that is open for the ``with`` block; made by :meth:`BackgroundTaskManager.transaction`.

    ``submit`` and ``submit_many`` store in it, and their twins ``asubmit`` and ``asubmit_many`` in coroutines. Handles
    and ids mean something once it is committed. A full queue raises :class:`QueueFull` at once: nobody could make room
    while the block is open. Belongs to one thread or coroutine.
    """

    def __init__(self, manager: "BackgroundTaskManager", maker: TaskMaker, joined: Joined) -> None:
        TransactionBlock.__init__(self, joined)
        Submitter.__init__(self, manager, NO_OPTIONS, self)
        self._maker = maker
        self._ids: list[str] = []
        self.options = self._inside(manager.options)
        """Returns a submitter with these options, which are those of :meth:`BackgroundTaskManager.options`."""

    def wake(self) -> None:
        """Wake the workers: after the commit, where the caller has begun the transaction and commits it.

        Without it they find by themselves that somebody has written, some 30 ms later, and count a lost wake.
        """
        self._manager.announce_submits(self._ids)

    def submit_calls(self, options: SubmitOptions, func: Callable[..., Any], calls: Sequence[Call]) -> list[str]:
        """Store *calls* of *func*, all or none, when the transaction commits; every kind of submit comes here."""
        if self._joined.is_async:
            raise UsageError("this connection is asynchronous: use `await tx.asubmit(...)`")
        return self._store_calls(options, func, calls)

    async def asubmit_calls(self, options: SubmitOptions, func: Callable[..., Any], calls: Sequence[Call]) -> list[str]:
        """Do what :meth:`submit_calls` does, for coroutines."""
        return await self._joined.run(lambda: self._store_calls(options, func, calls))

    def _store_calls(self, options: SubmitOptions, func: Callable[..., Any], calls: Sequence[Call]) -> list[str]:
        tasks = self._maker.make(options, func, calls)
        if not tasks:
            return []
        ids: list[str] = [*self._joined.submit(tasks, self._manager.clock.now(), self._manager.queue_size)]
        self._ids += ids
        return ids

    def _announce(self) -> None:
        if self._joined.is_own:
            self.wake()
