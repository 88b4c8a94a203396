"""Writes the daemon's status in a thread of its own: on a busy disk a rename may take a quarter of a second."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from thirdshift.apps.training.service.status import StatusFile
from thirdshift.host.loop import Loop

_IDLE_S = 3600.0


class StatusWriter:
    """Replaces the document in *file* by the newest one it was given; those it had no time for are left out.

    For one thread that gives. Close it at the end: then the last one is written.
    """

    def __init__(self, file: StatusFile) -> None:
        self._file = file
        self._newest: deque[Mapping[str, Any]] = deque(maxlen=1)
        self._errors: deque[OSError] = deque(maxlen=1)
        self._loop = Loop("status", self._write, retry_s=1)
        self._loop.start()

    def write(self, document: Mapping[str, Any]) -> None:
        """Have *document*, which nobody changes any more, written soon; raises the error of one before it."""
        self._newest.append(document)
        self._loop.wake()
        self._raise_error()

    def close(self) -> None:
        """Write the last document, and end; raises the error of that."""
        self._loop.stop()
        self._write()
        self._raise_error()

    def _raise_error(self) -> None:
        if self._errors:
            raise self._errors.pop()

    def _write(self) -> float:
        if self._newest:
            try:
                self._file.write(self._newest.pop())
            except OSError as error:
                self._errors.append(error)
            else:
                self._errors.clear()
        return _IDLE_S
