"""What an attempt used, measured inside the child process that runs it. What cannot be measured is ``None``."""

import contextlib
import os
import resource
import sys
from typing import NamedTuple

_RESET_HIGH_WATER = b"5"
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
_PAGE_BYTES = resource.getpagesize()


class Usage(NamedTuple):
    """What a process used for an attempt."""

    cpu_s: float
    total_cpu_s: float
    """Since the process began."""
    peak_memory_bytes: int | None
    resident_bytes: int | None
    """What it holds now."""


class Meter:
    """Measures one attempt after another: processor time with that of waited-for children, and peak memory."""

    def __init__(self) -> None:
        self._cpu_s = 0.0
        self._clear = _opened("/proc/self/clear_refs", os.O_WRONLY)
        self._statm = _opened("/proc/self/statm", os.O_RDONLY)
        self._is_reset = False

    def begin(self) -> None:
        """Begin to measure an attempt."""
        self._cpu_s = cpu_s()
        self._is_reset = False
        if self._clear is not None:
            with contextlib.suppress(OSError):
                self._is_reset = os.write(self._clear, _RESET_HIGH_WATER) > 0

    def read(self) -> Usage:
        """Return what was used since :meth:`begin`; memory without that of descendants.

        The kernel gives the peak since it was last reset, as long as the process has not become another program.
        """
        own = resource.getrusage(resource.RUSAGE_SELF)
        total_s = _cpu_s(own) + _cpu_s(resource.getrusage(resource.RUSAGE_CHILDREN))
        peak_bytes = own.ru_maxrss * _MAXRSS_BYTES if self._is_reset else None
        return Usage(total_s - self._cpu_s, total_s, peak_bytes, self._resident_bytes())

    def _resident_bytes(self) -> int | None:
        if self._statm is None:
            return None
        return int(os.pread(self._statm, 256, 0).split()[1]) * _PAGE_BYTES


def cpu_s() -> float:
    """Return the processor seconds of this process and of the children that it has waited for, since their starts."""
    return _cpu_s(resource.getrusage(resource.RUSAGE_SELF)) + _cpu_s(resource.getrusage(resource.RUSAGE_CHILDREN))


def _cpu_s(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def _opened(path: str, flags: int) -> int | None:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError:
        return None
