"""One attempt, from its stored call to how it ended: found, called, judged. The same in a thread and in a child."""

import inspect
import traceback
from collections.abc import Callable
from datetime import datetime

from thirdshift.core import codec
from thirdshift.core.clock import Clock
from thirdshift.core.errors import UsageError
from thirdshift.core.outcome import Cancel, Ending, Retry, Snooze
from thirdshift.core.reference import resolve
from thirdshift.core.task import AttemptOutcome, TaskError
from thirdshift.runtime.context import StopReason, TaskContext, set_current_task

_TRACEBACK_LIMIT = 20_000
"""Most characters of a traceback that are stored; the end says what failed, so the beginning is cut."""
_MESSAGE_LIMIT = 10_000
"""Most characters of a message that are stored."""


def run_attempt(
    function: str, arguments: bytes, context: TaskContext, clock: Clock, began: Callable[[], None] | None = None
) -> Ending:
    """Call the function that the reference *function* names, with its stored *arguments*. Raises nothing.

    Its module is imported before the attempt starts; *began* is called in between.
    """
    started_at = None
    set_current_task(context)
    try:
        args, kwargs = codec.decode_arguments(arguments)
        called = resolve(function)
        if began is not None:
            began()
        started_at = clock.now()
        ending = _judge(called(*args, **kwargs), function, started_at, clock)
    except BaseException as error:  # noqa: BLE001  # whatever user code raises is this attempt's error
        now = clock.now()
        ending = Ending(AttemptOutcome.FAILED, started_at or now, now, error=error_of(error))
    finally:
        set_current_task(None)
    error_of_limit = OVER_LIMIT.get(context.stop_reason)
    if error_of_limit is not None:
        return Ending(AttemptOutcome.TIMED_OUT, ending.started_at, ending.finished_at, error=error_of_limit)
    return ending


def error_of(error: BaseException) -> TaskError:
    """Return *error* as it is stored; frames of our own are left out of the traceback."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    return TaskError(
        type=type(error).__name__, message=_text(error)[:_MESSAGE_LIMIT], traceback=_text(text)[-_TRACEBACK_LIMIT:]
    )


def _text(value: object) -> str:
    """Return *value* as text that any store takes: user code may fail to say it, or say half a character."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001  # a broken __str__ must not hide that the attempt failed
        text = f"<{type(value).__name__} that cannot be shown>"
    return text.encode("utf-8", "backslashreplace").decode()


OVER_LIMIT = {
    StopReason.TIMED_OUT: TaskError(type="TimedOut", message="the attempt ran longer than its timeout"),
    StopReason.STALLED: TaskError(
        type="Stalled", message="the attempt neither reported progress nor logged for longer than its stall_timeout"
    ),
}
"""How attempts end that were stopped for one of their time limits."""


def _judge(value: object, function: str, started_at: datetime, clock: Clock) -> Ending:
    """Return the ending that the function's return *value* stands for."""
    if inspect.iscoroutine(value):
        value.close()
        raise UsageError(f"{function} is an async function; it runs in an event-loop pool only")
    if isinstance(value, Retry | Snooze | Cancel):
        return _steered(value, started_at, clock.now())
    return Ending(AttemptOutcome.COMPLETED, started_at, clock.now(), codec.encode_result(value))


def _steered(value: Retry | Snooze | Cancel, started_at: datetime, now: datetime) -> Ending:
    """Return the ending that the function asked for by its return value."""
    match value:
        case Snooze(seconds=seconds):
            return Ending(AttemptOutcome.SNOOZED, started_at, now, after_s=seconds)
        case Cancel(reason=reason):
            error = TaskError(type="Cancel", message=_text(reason)[:_MESSAGE_LIMIT])
            return Ending(AttemptOutcome.CANCELLED, started_at, now, error=error)
        case Retry(after=after):
            error = TaskError(type="Retry", message="the function asked to be tried again")
            return Ending(AttemptOutcome.FAILED, started_at, now, error=error, after_s=after)
