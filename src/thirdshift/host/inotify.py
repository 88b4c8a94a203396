"""Says what happens in a folder, file by file, without opening any of them (Linux)."""

import contextlib
import ctypes
import os
import struct
from dataclasses import dataclass
from pathlib import Path

MODIFIED = 0x00000002
CLOSED_AFTER_WRITING = 0x00000008
MOVED_IN = 0x00000080
CREATED = 0x00000100
LOST = 0x00004000
"""More happened than the kernel keeps; the names are not known."""
FOLDER_GONE = 0x00002000 | 0x00008000 | 0x00000400 | 0x00000800
"""The folder was deleted, renamed or unmounted: nothing more is seen before :meth:`FolderWatch.renew`."""

_ONLY_FOLDERS = 0x01000000
_SELF = 0x00000400 | 0x00000800
_EVENT = struct.Struct("iIII")
"""Watch, mask, cookie, and the length of the name that follows."""
_BUFFER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class FolderEvent:
    """What happened (the bits of the constants above) to the file *name*; the name is empty for the folder itself."""

    name: str
    mask: int


class FolderWatch:
    """A descriptor that is readable when one of *events* happened in *folder*; by default, a file was written to.

    Raises :class:`OSError` where none is had. Writes through a memory map are not seen. For one thread.
    """

    def __init__(self, folder: Path, events: int = MODIFIED) -> None:
        self._folder = folder
        self._events = events
        try:
            self._library = ctypes.CDLL(None, use_errno=True)
            self._descriptor = int(self._library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        except AttributeError as absent:
            raise OSError("this system has no inotify") from absent
        if self._descriptor < 0:
            raise _last_error(folder)
        try:
            self.renew()
        except OSError:
            self.close()
            raise

    def renew(self) -> None:
        """Watch whatever folder has the name now: the old one may be gone. Raises :class:`OSError` where there is none.

        To watch the same folder once more changes nothing.
        """
        mask = self._events | _SELF | _ONLY_FOLDERS
        if self._library.inotify_add_watch(self._descriptor, os.fsencode(self._folder), mask) < 0:
            raise _last_error(self._folder)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def events(self) -> list[FolderEvent]:
        """Return what happened since the last call, in order."""
        found: list[FolderEvent] = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._descriptor, _BUFFER_BYTES):
                found += _events(data)
        return found

    def names(self) -> set[str]:
        """Return the names of the files that something happened to since the last call."""
        return {event.name for event in self.events()}

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


def _events(data: bytes) -> list[FolderEvent]:
    found = []
    start = 0
    while start < len(data):
        _, mask, _, length = _EVENT.unpack_from(data, start)
        start += _EVENT.size + length
        found.append(FolderEvent(os.fsdecode(data[start - length : start].rstrip(b"\0")), mask))
    return found


def _last_error(folder: Path) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), str(folder))
