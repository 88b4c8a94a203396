"""Which attempts stand in a worker's slots: a small mapped file that outlives the worker, also a SIGKILL.

A write costs a microsecond and no system call: the kernel owns the page and keeps it when the process dies. After a
power loss the file may say anything; what does not fit the store is ignored.
"""

import errno
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_SLOT = struct.Struct("<qqq")
"""Task (``seq``), attempt and progress of one slot; an attempt of 0 stands for an empty slot."""
_PROGRESS = struct.Struct("<q")
_PROGRESS_OFFSET = 16


@dataclass(frozen=True, slots=True)
class Stood:
    """What the slot file says about an attempt that stood in a slot."""

    has_progress: bool


class SlotFile:
    """The slots of a worker of this process. Each slot is written by its own thread only."""

    def __init__(self, path: Path, slots: int) -> None:
        self._slots = slots
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Written, not only made that long: on a full disk the first note would end the process by SIGBUS.
            size_bytes = max(1, slots) * _SLOT.size
            if os.pwrite(descriptor, bytes(size_bytes), 0) < size_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            self._map = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)

    def enter(self, slot: int, seq: int, attempt: int) -> None:
        """Note that the attempt is about to run in *slot*."""
        _SLOT.pack_into(self._map, slot * _SLOT.size, seq, attempt, 0)

    def note_progress(self, slot: int) -> None:
        """Note that the attempt in *slot* has come forward."""
        _PROGRESS.pack_into(self._map, slot * _SLOT.size + _PROGRESS_OFFSET, 1)

    def leave(self, slot: int) -> None:
        """Note that *slot* is empty."""
        try:
            _SLOT.pack_into(self._map, slot * _SLOT.size, 0, 0, 0)
        except (TypeError, ValueError):  # closed: the function of a detached attempt returns after its worker has ended
            if not self._map.closed:
                raise

    def close(self) -> None:
        """Unmap the file, which stays."""
        self._map.close()


def read_slots(path: Path) -> Mapping[tuple[int, int], Stood]:
    """Return what stood in the slots of a dead worker by (``seq``, attempt); nothing where there is no such file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    whole = len(data) - len(data) % _SLOT.size
    return {
        (seq, attempt): Stood(has_progress=bool(progress))
        for seq, attempt, progress in _SLOT.iter_unpack(data[:whole])
        if attempt
    }
