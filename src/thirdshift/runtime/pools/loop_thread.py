"""One thread with one asyncio loop. It starts at the first call, so that a worker without coroutines does not pay."""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thirdshift.runtime.context import TaskContext, task_in

if TYPE_CHECKING:
    import asyncio

_logger = logging.getLogger("thirdshift.worker")

_TIDY_S = 2.0
"""How long tasks that a coroutine started and left behind may clean up at the end of the loop."""
_SHOWN_FRAMES = 4
_OURS = str(Path(__file__).parents[1])
_BASE_OF_LOOP = "Handle._run"
"""Calls everything that a loop runs, and knows in which context."""

Call = tuple[Callable[..., object], tuple[Any, ...]]


class LoopThread:
    """Any thread may :meth:`call`; what is called runs on the loop, and so may use its other methods."""

    def __init__(self, name: str, fail: Callable[[BaseException], None]) -> None:
        self._fail = fail
        self._mutex = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._early: list[Call] = []
        self._is_closing = False
        self._is_over = False

    def call(self, callback: Callable[..., object], *args: Any) -> None:
        """Call *callback* on the loop, soon; what it raises is a fault of ours. After the end nothing is called."""
        with self._mutex:
            if self._is_over:
                return
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._guarded, callback, args, context=Context())
                return
            self._early.append((callback, args))
            if self._thread.ident is None:
                self._thread.start()

    def call_later(self, delay_s: float, callback: Callable[..., object], *args: Any) -> None:
        """Call *callback* on the loop after *delay_s* seconds."""
        assert self._loop is not None, "called on the loop"
        self._loop.call_later(delay_s, self._guarded, callback, args, context=Context())

    def run(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run *coroutine* beside all others, in a context of its own: it sees no variable of who asked for it."""
        assert self._loop is not None, "called on the loop"
        return self._loop.create_task(coroutine, context=Context())

    def close(self) -> None:
        """Let the loop end, now or never; :meth:`join` waits for it. Any thread may call it."""
        with self._mutex:
            was_closing, self._is_closing = self._is_closing, True
            self._is_over |= self._thread.ident is None
        if not was_closing:  # a second stop would hit the tidying up
            self.call(self._stop)

    def join(self) -> None:
        """Wait for the thread, which ends after :meth:`close`."""
        if self._thread.ident is not None:
            self._thread.join()

    def blocker(self) -> tuple[TaskContext | None, str]:
        """Return the attempt whose code runs at this moment, ``None`` for nobody's, and where it is."""
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001  # the documented way to ask
        frames: list[str] = []
        while frame is not None and frame.f_code.co_qualname != _BASE_OF_LOOP:
            if not frame.f_code.co_filename.startswith(_OURS):
                frames.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")
            frame = frame.f_back
        context = None if frame is None else getattr(frame.f_locals.get("self"), "_context", None)
        return None if context is None else task_in(context), " > ".join(reversed(frames[:_SHOWN_FRAMES]))

    def _stop(self) -> None:
        assert self._loop is not None, "called on the loop"
        self._loop.stop()

    def _guarded(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        try:
            callback(*args)
        except BaseException as error:  # noqa: BLE001  # the worker must know, and nobody here could tell it
            self._fail(error)

    def _run(self) -> None:
        try:
            import asyncio  # noqa: PLC0415  # only a worker that has coroutines needs it

            with contextlib.closing(asyncio.new_event_loop()) as loop:
                try:
                    self._begin(loop)
                    self._serve(loop)
                    loop.run_until_complete(_tidy(asyncio))
                finally:
                    with self._mutex:
                        self._is_over = True
        except BaseException as error:  # noqa: BLE001  # as above
            self._fail(error)

    def _begin(self, loop: "asyncio.AbstractEventLoop") -> None:
        with self._mutex:
            self._loop = loop
            for callback, args in self._early:
                loop.call_soon(self._guarded, callback, args)
            self._early.clear()

    def _serve(self, loop: "asyncio.AbstractEventLoop") -> None:
        while not self._is_closing:
            try:
                loop.run_forever()
            except (KeyboardInterrupt, SystemExit) as error:  # of a task that a coroutine started; it gets it too
                _logger.warning("loop.interrupted error=%r", error)


async def _tidy(asyncio: Any) -> None:
    """End what coroutines started and left behind."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=_TIDY_S)
    await asyncio.get_running_loop().shutdown_asyncgens()
