"""Says which files of a folder were written to, without opening any of them (Linux)."""

import contextlib
import ctypes
import os
import struct
from pathlib import Path

_EVENT = struct.Struct("iIII")
"""Watch, mask, cookie, and the length of the name that follows."""
_MODIFIED = 0x00000002
_BUFFER_BYTES = 64 * 1024


class FolderWatch:
    """A descriptor that is readable when a file in *folder* was written to. Raises :class:`OSError` where none is had.

    Writes through a memory map are not seen. For one thread.
    """

    def __init__(self, folder: Path) -> None:
        try:
            library = ctypes.CDLL(None, use_errno=True)
            self._descriptor = int(library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        except AttributeError as absent:
            raise OSError("this system has no inotify") from absent
        if self._descriptor < 0:
            raise _last_error(folder)
        if library.inotify_add_watch(self._descriptor, os.fsencode(folder), _MODIFIED) < 0:
            error = _last_error(folder)
            self.close()
            raise error

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def names(self) -> set[str]:
        """Return the names of the files that were written to since the last call."""
        found: set[str] = set()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._descriptor, _BUFFER_BYTES):
                found |= _names(data)
        return found

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


def _names(data: bytes) -> set[str]:
    found = set()
    start = 0
    while start < len(data):
        *_, length = _EVENT.unpack_from(data, start)
        start += _EVENT.size + length
        found.add(os.fsdecode(data[start - length : start].rstrip(b"\0")))
    return found


def _last_error(folder: Path) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), str(folder))
