"""An exception raised into a thread from outside: ``TaskInterrupted``, while a task function runs there.

Python delivers it between two bytecodes, at some moment after it was asked for. So it must be out of the way before the
thread goes on to code of ours, whatever is late: the asking, the delivery, or both.
"""

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from thirdshift.core.errors import TaskInterrupted
from thirdshift.runtime.context import StopReason, TaskContext

_ENDING = (StopReason.TIMED_OUT, StopReason.STALLED, StopReason.CANCELLED)
_raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc


class Interrupt:
    """One call of a function, into which :class:`TaskInterrupted` may be raised, once."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._thread: int | None = None
        """The thread in which the function runs now."""
        self._is_thrown = False

    def throw(self) -> bool:
        """Raise the exception in the function; False when it does not run (any more), or it was done before."""
        if self._is_thrown:
            return False
        with self._mutex:
            self._is_thrown = self._thread is not None and self._set(self._thread, TaskInterrupted)
        return self._is_thrown

    def call(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], context: TaskContext
    ) -> Any:
        """Call *function*; after that nothing is raised here any more.

        Raises ``TaskInterrupted`` when it was thrown, whatever the function made of it, unless it has returned.
        """
        try:
            try:
                self._thread = threading.get_ident()
                if context.stop_reason in _ENDING:  # since before there was something to throw into
                    raise TaskInterrupted
                return function(*args, **kwargs)
            finally:
                self._disarm()
        except BaseException as error:
            self._thread = None  # it came while it was disarmed; being raised once, it comes no more
            if self._is_thrown and not isinstance(error, TaskInterrupted):
                raise TaskInterrupted from error
            raise

    def _disarm(self) -> None:
        with self._mutex:
            thread, self._thread = self._thread, None
            if self._is_thrown and thread is not None:
                self._set(thread, None)

    def _set(self, thread: int, exception: type[BaseException] | None) -> bool:
        """Set what *thread* raises next; ``None`` takes back what it has not raised yet."""
        argument = ctypes.py_object() if exception is None else ctypes.py_object(exception)
        return bool(_raise_in(ctypes.c_ulong(thread), argument))
