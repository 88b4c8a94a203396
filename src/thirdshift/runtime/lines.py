"""Log lines of a whole process, for people or as JSON: who was running is in each that is written during a task.

Child processes of a pool write theirs to the same place (:func:`as_told`), whatever becomes of what their tasks print.
"""

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from thirdshift.core.plain import plain
from thirdshift.runtime.context import keep_records
from thirdshift.runtime.records import MARKS

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)
EVENT_MARKS = "thirdshift_claim"
"""The attribute of a record that is about an attempt, and written outside of it."""

_USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", MARKS, EVENT_MARKS, "task_id", "task_name", "attempt"}
_told: dict[str, Any] | None = None


class TextLines(logging.Formatter):
    """A line for people; at its end, the task that was running."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the base class's name
        """Return the line without a traceback."""
        line = super().formatMessage(record)
        if EVENT_MARKS in vars(record):  # its message names the task itself
            return line
        words = " ".join(f"{name}={value}" for name, value in marks_of(record).items())
        return f"{line} [{words}]" if words else line


class JsonLines(logging.Formatter):
    """One JSON object: ``at``, ``level``, ``logger``, ``message``, of a task ``task_id``, ``task_name``, ``attempt``,
    ``queue`` and ``worker``, ``traceback`` where there is one, and as ``extra`` what the caller has added."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        facts: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **marks_of(record),
        }
        if record.exc_info and record.exc_info[0] is not None:
            facts["traceback"] = self.formatException(record.exc_info)
        extra = {name: plain(value) for name, value in vars(record).items() if name not in _USUAL}
        if extra:
            facts["extra"] = extra
        return json.dumps(facts)


def marks_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return which task a record is of; nothing when it is of none."""
    found: Mapping[str, Any] = getattr(record, EVENT_MARKS, None) or getattr(record, MARKS, None) or {}
    return found


def show_lines(form: str, level: str, descriptor: int = 2) -> None:
    """Write the records of all loggers from *level* on to *descriptor*, here and in child processes."""
    global _told  # noqa: PLW0603  # one place for the whole process, as the root logger is
    handler = _Handler(descriptor)
    handler.setFormatter(JsonLines() if form == JSON else TextLines())
    handler.setLevel(level)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(min(root.level, handler.level))
    keep_records()
    _told = {"form": form, "level": level}


def as_told() -> Mapping[str, Any] | None:
    """Return the arguments that a child process needs to do the same; ``None``: nothing is shown here."""
    return _told


class _Handler(logging.Handler):
    """Writes a whole line at once, so that those of several processes do not mix."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        try:
            data = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:  # nobody reads what is written any more: the work goes on
            pass
        except Exception:  # noqa: BLE001  # arguments that do not fit: logging says so to the user
            self.handleError(record)
