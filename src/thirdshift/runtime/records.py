"""Log records of an attempt: those that it writes by ``current_task().log``, and those of anybody in its context.

They are taken where records are made (:func:`logging.setLogRecordFactory`). A handler on the root logger would make
``logging.basicConfig`` of the application do nothing, and silence its warnings where it configures nothing.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

LEAST_LEVEL = logging.INFO
"""``current_task().log`` keeps records from this level on, whatever the application's loggers are set to."""

TASK_LOGGER = "thirdshift.task"
_OURS = (TASK_LOGGER, "thirdshift.worker")
_task_logger = logging.getLogger(TASK_LOGGER)
_LONGEST_LINE = 16 * 1024
_formatter = logging.Formatter()

Keep = Callable[[str], None]

MARKS = "thirdshift_task"
"""The attribute of a record that says which task was running: a name that no caller's ``extra`` has."""
Marks = Callable[[], Mapping[str, Any] | None]


class TaskLog(logging.LoggerAdapter[logging.Logger]):
    """The logger of one attempt: its records are stored with the attempt, and go where the application sends them."""

    def __init__(self, facts: MutableMapping[str, Any], keep: Keep | None) -> None:
        super().__init__(_task_logger, facts)
        self._keep = keep

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Keep the record, and pass it on to the logger ``thirdshift.task``."""
        if self._keep is not None and level >= LEAST_LEVEL:
            error = kwargs.get("exc_info")
            found = _exc_info(error) if error else None
            keep_record(logging.LogRecord(TASK_LOGGER, level, "", 0, msg, args, found), self._keep)
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the caller's line is meant, not this one
        super().log(level, msg, *args, **kwargs)


def keep_record(record: logging.LogRecord, keep: Keep) -> None:
    """Give *record* as one line, with its traceback if there is one, to *keep*."""
    with contextlib.suppress(Exception):  # arguments that do not fit: logging itself says so to the user
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = f"{moment}.{int(record.msecs):03d}Z {record.levelname} {record.name}: {record.getMessage()}"
        if record.exc_info and record.exc_info[0] is not None:
            line = f"{line}\n{_formatter.formatException(record.exc_info)}"
        keep(f"{line[:_LONGEST_LINE]}\n")


def watch_records(keeper: Callable[[], Keep | None], marks: Marks) -> None:
    """From now on give every record that is made here to what *keeper* returns for its place; ``None``: to nobody.

    What *marks* returns there stands in the record, for whoever writes it as a line.

    Records of a level that their logger does not care for are never made. Doing it again changes nothing.
    """
    make = logging.getLogRecordFactory()
    if isinstance(make, _KeepingFactory):
        return
    logging.setLogRecordFactory(_KeepingFactory(make, keeper, marks))


class _KeepingFactory:
    """Makes records as the application wants them, and shows them to a keeper."""

    def __init__(self, make: Callable[..., logging.LogRecord], keeper: Callable[[], Keep | None], marks: Marks) -> None:
        self._make = make
        self._keeper = keeper
        self._marks = marks

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        marks = self._marks()
        if marks is not None:
            setattr(record, MARKS, marks)
        keep = self._keeper()
        if keep is not None and record.name not in _OURS and isinstance(record.levelno, int):
            keep_record(record, keep)
        return record


def _exc_info(error: Any) -> Any:
    """Return what ``exc_info`` stands for as the tuple that a record holds."""
    if isinstance(error, BaseException):
        return type(error), error, error.__traceback__
    return error if isinstance(error, tuple) else sys.exc_info()
