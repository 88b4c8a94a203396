"""``manager.batch``: tasks that are stored together, in one commit, when the block is left."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self

from thirdshift.core.errors import UsageError
from thirdshift.core.task import NewTask
from thirdshift.handle import Submitter
from thirdshift.submission import NO_OPTIONS, Call, SubmitOptions, TaskMaker

if TYPE_CHECKING:
    from thirdshift.manager import BackgroundTaskManager

P = ParamSpec("P")


class Batch(Submitter):
    """Collects what is submitted in the ``with`` block; made by :meth:`BackgroundTaskManager.batch`.

    Left by an exception, it stores nothing. Handles can be given to ``after`` and have their ``output`` at once; they
    can be asked when the block is over. Belongs to one thread or coroutine, and is used once.
    """

    def __init__(self, manager: "BackgroundTaskManager", maker: TaskMaker) -> None:
        super().__init__(manager, NO_OPTIONS, self)
        self._maker = maker
        self._tasks: list[NewTask] = []
        self._wait_s: float | None = None
        self._is_open = False
        self._is_over = False
        self.options = self._inside(manager.options)
        """Returns a submitter with these options, which are those of :meth:`BackgroundTaskManager.options`."""

    def __enter__(self) -> Self:
        if self._is_over or self._is_open:
            raise UsageError("a batch is used once; make a new one for each block")
        self._is_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if error is None:
            self._manager.store(self._tasks, self._wait_s)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if error is None:
            await self._manager.astore(self._tasks, self._wait_s)

    def submit_calls(self, options: SubmitOptions, func: Callable[..., Any], calls: Sequence[Call]) -> list[str]:
        """Keep *calls* of *func* until the block is left; every kind of submit comes here."""
        if not self._is_open:
            raise UsageError("the batch is not open: submit inside its `with` block")
        if options.unique_key is not None:
            raise UsageError(
                "unique_key: which task a submit leads to is known when it is stored, and a batch is stored when left. "
                "Submit that one outside, or inside manager.transaction."
            )
        tasks = self._maker.make(options, func, calls)
        if options.wait is not None:
            self._wait_s = max(options.wait, self._wait_s or 0.0)
        self._tasks += tasks
        return [task.id for task in tasks]

    async def asubmit_calls(self, options: SubmitOptions, func: Callable[..., Any], calls: Sequence[Call]) -> list[str]:
        """Do what :meth:`submit_calls` does, for coroutines."""
        return self.submit_calls(options, func, calls)

    def _close(self) -> None:
        self._is_open = False
        self._is_over = True
