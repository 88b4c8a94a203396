"""One attempt, from its stored call to how it ended: found, called, judged. The same in a thread and in a child."""

import inspect
import traceback
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from thirdshift.core import codec
from thirdshift.core.clock import Clock
from thirdshift.core.errors import UsageError
from thirdshift.core.outcome import Cancel, Retry, Snooze
from thirdshift.core.reference import resolve
from thirdshift.core.task import AttemptOutcome, TaskError
from thirdshift.runtime.context import StopReason, TaskContext, set_current_task

_TRACEBACK_LIMIT = 20_000
"""Most characters of a traceback that are stored; the end says what failed, so the beginning is cut."""
_MESSAGE_LIMIT = 10_000
"""Most characters of a message that are stored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How the call of a function ended."""

    outcome: AttemptOutcome
    started_at: datetime
    finished_at: datetime
    encoded_result: bytes | None = None
    error: TaskError | None = None
    after_s: float | None = None


def run_attempt(function: str, arguments: bytes, context: TaskContext, clock: Clock) -> Ending:
    """Call the function that the reference *function* names, with its stored *arguments*. Raises nothing."""
    started_at = clock.now()
    set_current_task(context)
    try:
        ending = _call(function, arguments)
    except BaseException as error:  # noqa: BLE001  # whatever user code raises is this attempt's error
        ending = _Raised(AttemptOutcome.FAILED, error=error_of(error))
    finally:
        set_current_task(None)
    if context.stop_reason is StopReason.TIMED_OUT:
        ending = _Raised(AttemptOutcome.TIMED_OUT, error=TIMED_OUT)
    return Ending(
        outcome=ending.outcome,
        started_at=started_at,
        finished_at=clock.now(),
        encoded_result=ending.encoded_result,
        error=ending.error,
        after_s=ending.after_s,
    )


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


TIMED_OUT = TaskError(type="TimedOut", message="the attempt ran longer than its timeout")


@dataclass(frozen=True, slots=True)
class _Raised:
    """What a call came to, before the clock is read."""

    outcome: AttemptOutcome
    encoded_result: bytes | None = None
    error: TaskError | None = None
    after_s: float | None = None


def _call(function: str, arguments: bytes) -> _Raised:
    args, kwargs = codec.decode_arguments(arguments)
    value = resolve(function)(*args, **kwargs)
    if inspect.iscoroutine(value):
        value.close()
        raise UsageError(f"{function} is an async function; it runs in an event-loop pool only")
    return _judge(value)


def _judge(value: Any) -> _Raised:
    match value:
        case Snooze(seconds=seconds):
            return _Raised(AttemptOutcome.SNOOZED, after_s=seconds)
        case Cancel(reason=reason):
            return _Raised(
                AttemptOutcome.CANCELLED, error=TaskError(type="Cancel", message=_text(reason)[:_MESSAGE_LIMIT])
            )
        case Retry(after=after):
            error = TaskError(type="Retry", message="the function asked to be tried again")
            return _Raised(AttemptOutcome.FAILED, error=error, after_s=after)
        case _:
            return _Raised(AttemptOutcome.COMPLETED, encoded_result=codec.encode_result(value))
