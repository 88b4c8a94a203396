"""One attempt, from its stored call to how it ended: found, called, judged. The same in every pool."""

import contextvars
import inspect
import os
import traceback
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import datetime
from types import CodeType, TracebackType
from typing import Any

from thirdshift.core import codec
from thirdshift.core.clock import Clock
from thirdshift.core.declare import declaration_of, is_interruptible
from thirdshift.core.errors import TaskInterrupted
from thirdshift.core.outcome import Cancel, Ending, Retry, Snooze
from thirdshift.core.reference import NotThere, is_imported, resolve
from thirdshift.core.retry import RetryPolicy
from thirdshift.core.task import AttemptOutcome, TaskError, Traces
from thirdshift.runtime.context import StopReason, TaskContext, set_current_task
from thirdshift.runtime.interrupt import Interrupt

_OURS = (__file__, Interrupt.call.__code__.co_filename)
"""Where functions are called from: frames of these files say nothing about the task."""
_TRACEBACK_LIMIT = 20_000
"""Most characters of a traceback that are stored; the end says what failed, so the beginning is cut."""
_MESSAGE_LIMIT = 10_000
"""Most characters of a message that are stored."""
_WHERE = 3
"""How many functions tell where an error came from."""
_NAME_LIMIT = 200
_LIBRARY = f"{os.path.dirname(os.__file__)}{os.sep}"  # noqa: PTH120  # of the interpreter; asked once for each frame
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def run_attempt(
    function: str,
    arguments: bytes,
    context: TaskContext,
    clock: Clock,
    began: Callable[[], None] | None = None,
    new_interrupt: Callable[[], Interrupt] | None = None,
) -> Ending:
    """Call the function that the reference *function* names, with its stored *arguments*. Raises nothing.

    Its module is imported before the attempt starts; *began* is called in between. *new_interrupt* makes, in threads,
    what calls those functions that declare that they may be interrupted.
    """
    started_at = called = None
    set_current_task(context)
    try:
        called = resolve(function)
        args, kwargs = codec.decode_arguments(arguments)
        if began is not None:
            began()
        started_at = clock.now()
        if new_interrupt is not None and is_interruptible(called):
            value = new_interrupt().call(called, args, kwargs, context)
        else:
            value = called(*args, **kwargs)
        if inspect.iscoroutine(value):
            value = _finished(value)
        ending = _judged(value, called, started_at, clock)
    except BaseException as error:  # noqa: BLE001  # whatever user code raises is this attempt's error
        ending = _failed(error, called, started_at, clock)
        if isinstance(error, TaskInterrupted):
            ending = stopped(ending, context.stop_reason)
    finally:
        set_current_task(None)
    return _limited(ending, called, context)


async def run_coroutine(
    function: str, arguments: bytes, context: TaskContext, clock: Clock, began: Callable[[], None] | None = None
) -> Ending:
    """Do what :func:`run_attempt` does, in the running event loop. The caller has given it a context of its own.

    Raises nothing, not even when it is cancelled: that is how the attempt ended. A module that is not imported yet is
    imported in a thread, so that nobody else waits for it.
    """
    started_at = called = None
    set_current_task(context)
    try:
        called = resolve(function) if is_imported(function) else await _found_in_thread(function)
        args, kwargs = codec.decode_arguments(arguments)
        if began is not None:
            began()
        started_at = clock.now()
        value = called(*args, **kwargs)
        if inspect.isawaitable(value):
            value = await value
        ending = _judged(value, called, started_at, clock)
    except BaseException as error:  # noqa: BLE001  # as above
        ending = _failed(error, called, started_at, clock)
    return _limited(ending, called, context)


def stopped(ending: Ending, reason: StopReason | None) -> Ending:
    """Return how an attempt ended that was told to end for *reason*: by that, whatever it raised in cleaning up."""
    if ending.outcome is not AttemptOutcome.FAILED or reason not in OF_REASON:
        return ending
    outcome, error = OF_REASON[reason]
    trace = None if ending.error is None else ending.error.traceback
    return ending._replace(outcome=outcome, error=replace(error, traceback=trace), after_s=None, is_final=False)


def detached(context: TaskContext, now: datetime) -> Ending:
    """Return the ending of an attempt that had to end and is not waited for any longer, while its function runs."""
    reason = context.stop_reason
    outcome, error = (AttemptOutcome.TIMED_OUT, OVER_LIMIT[reason]) if reason in OVER_LIMIT else OF_REASON[reason]
    error = replace(error, message=f"{error.message}; its function still runs, detached from its task")
    return Ending(outcome, None, now, error=error, traces=Traces(log=context.take_log()))


def error_of(error: BaseException) -> TaskError:
    """Return *error* as it is stored; frames of our own are left out of the traceback."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename in _OURS:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    return TaskError(
        type=type(error).__name__,
        message=_text(error)[:_MESSAGE_LIMIT],
        traceback=_text(text)[-_TRACEBACK_LIMIT:],
        where=_where(frames),
    )


def _where(frames: TracebackType | None) -> tuple[str, ...]:
    """Return the innermost functions of the application, or of whatever there is when it has none in *frames*."""
    codes = [(frame.f_code, str(frame.f_globals.get("__name__"))) for frame, _ in traceback.walk_tb(frames)]
    ours = [each for each in codes if _is_of_application(each[0])]
    return tuple(_name_of(*each) for each in reversed((ours or codes)[-_WHERE:]))


def _is_of_application(code: CodeType) -> bool:
    file = code.co_filename
    return not file.startswith(("<frozen ", _LIBRARY)) and not any(folder in file for folder in _PACKAGES)


def _name_of(code: CodeType, module: str) -> str:
    """Return ``module:name``, without signs that a shell would take for its own."""
    name = code.co_qualname.replace("<locals>.", "").replace("<", "").replace(">", "")
    return _text(f"{module}:{name}")[:_NAME_LIMIT]


def _text(value: object) -> str:
    """Return *value* as text that any store takes: user code may fail to say it, or say half a character."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001  # a broken __str__ must not hide that the attempt failed
        text = f"<{type(value).__name__} that cannot be shown>"
    return text.encode("utf-8", "backslashreplace").decode()


OVER_LIMIT: Mapping[StopReason | None, TaskError] = {
    StopReason.TIMED_OUT: TaskError(type="TimedOut", message="the attempt ran longer than its timeout"),
    StopReason.STALLED: TaskError(
        type="Stalled", message="the attempt neither reported progress nor logged for longer than its stall_timeout"
    ),
}
"""How attempts end that were stopped for one of their time limits."""


OF_REASON: Mapping[StopReason | None, tuple[AttemptOutcome, TaskError]] = {
    StopReason.CANCELLED: (
        AttemptOutcome.CANCELLED,
        TaskError(type="Cancelled", message="the task was cancelled while it ran"),
    ),
    StopReason.SHUTDOWN: (
        AttemptOutcome.INTERRUPTED,
        TaskError(type="Interrupted", message="the worker was shut down"),
    ),
}


async def _found_in_thread(function: str) -> Any:
    import asyncio  # noqa: PLC0415  # loaded already: there is a running loop

    return await asyncio.get_running_loop().run_in_executor(None, resolve, function)


def _finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return what *coroutine* returns, run in a loop of its own: in a child process, or for a test."""
    import asyncio  # noqa: PLC0415  # only who runs coroutines needs it

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  # as above

    with ThreadPoolExecutor(1) as thread:  # a loop runs in this one: a test of coroutines runs its tasks in line
        return thread.submit(contextvars.copy_context().run, asyncio.run, coroutine).result()


def _failed(error: BaseException, called: Any, started_at: datetime | None, clock: Clock) -> Ending:
    """Return the ending of an attempt that raised *error*; *called* is ``None`` when the function was not found."""
    now = clock.now()
    if called is None and isinstance(error, NotThere):
        how = TaskError(type=type(error.__cause__).__name__, message=_text(error)[:_MESSAGE_LIMIT])
        return Ending(AttemptOutcome.FAILED, now, now, error=how, is_unknown=True)
    declared = declaration_of(called)
    return Ending(
        AttemptOutcome.FAILED,
        started_at or now,
        now,
        error=error_of(error),
        is_final=declared.gives_up(error),
        backoff=declared.backoff,
    )


def _limited(ending: Ending, called: Any, context: TaskContext) -> Ending:
    """Return *ending*, or that of an attempt of the function *called* that went over one of its time limits."""
    error = OVER_LIMIT.get(context.stop_reason)
    if error is None:
        return ending
    trace = None if ending.error is None else ending.error.traceback
    return Ending(
        AttemptOutcome.TIMED_OUT,
        ending.started_at,
        ending.finished_at,
        error=replace(error, traceback=trace),
        backoff=declaration_of(called).backoff,
    )


def _judged(value: object, called: Any, started_at: datetime, clock: Clock) -> Ending:
    """Return the ending that the return *value* of the function *called* stands for."""
    if isinstance(value, Retry | Snooze | Cancel):
        return _steered(value, declaration_of(called).backoff, started_at, clock.now())
    return Ending(AttemptOutcome.COMPLETED, started_at, clock.now(), codec.encode_result(value))


def _steered(
    value: Retry | Snooze | Cancel, backoff: RetryPolicy | None, started_at: datetime, now: datetime
) -> Ending:
    """Return the ending that the function asked for by its return value."""
    match value:
        case Snooze(seconds=seconds):
            return Ending(AttemptOutcome.SNOOZED, started_at, now, after_s=seconds)
        case Cancel(reason=reason):
            error = TaskError(type="Cancel", message=_text(reason)[:_MESSAGE_LIMIT])
            return Ending(AttemptOutcome.CANCELLED, started_at, now, error=error)
        case Retry(after=after):
            error = TaskError(type="Retry", message="the function asked to be tried again")
            return Ending(AttemptOutcome.FAILED, started_at, now, error=error, after_s=after, backoff=backoff)
