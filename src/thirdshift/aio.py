"""The edge to asyncio: what blocks runs in a few threads of ours, and who waits is called back. No loop is held up.

Loaded by the first call of an async method, so that an application without an event loop does not load asyncio.
"""

import asyncio
import contextlib
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from thirdshift.core.task import BackgroundTask
from thirdshift.waiting import FinishWait, WaitingSubmit, Wake

P = ParamSpec("P")
R = TypeVar("R")

_THREADS = 16
"""Most calls that run at once; submits among them share a commit. More calls wait in line, not in threads."""
_threads: ThreadPoolExecutor | None = None


async def in_thread(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Return what *function* returns, called in one of our threads: those of the loop may all be busy for long.

    When the caller is cancelled, a call that has begun goes on, and nobody hears of its end.
    """
    global _threads  # noqa: PLW0603  # the threads of the process
    if _threads is None:
        _threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="thirdshift-aio")
    call = partial(contextvars.copy_context().run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_threads, call)


async def finish(begin: Callable[[Wake], FinishWait], read: Callable[[BackgroundTask], R]) -> R:
    """Wait as *begin* says, and return what *read* makes of the finished task."""
    alarm = _Alarm()
    wait = begin(alarm.set)

    def step() -> tuple[R] | None:
        found = wait.look()
        return None if found is None else (read(found),)

    try:
        while (result := await in_thread(step)) is None:
            await alarm.wait(wait.left_s())
        return result[0]
    finally:
        wait.leave()


async def store(begin: Callable[[Wake], WaitingSubmit]) -> list[str]:
    """Submit as *begin* says, waiting for room; return the ids."""
    alarm = _Alarm()
    submit = begin(alarm.set)
    try:
        while not await in_thread(submit.store):
            await alarm.wait(submit.left_s())
        return list(submit.ids)
    finally:
        submit.leave()


class _Alarm:
    """An event of the running loop that any thread may set."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed without an end of the wait
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout_s: float | None) -> None:
        """Return when it is set, or after *timeout_s* seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        self._event.clear()


def _forget_threads() -> None:
    """A forked child has none of the threads."""
    global _threads  # noqa: PLW0603  # the threads of the process
    _threads = None


os.register_at_fork(after_in_child=_forget_threads)
