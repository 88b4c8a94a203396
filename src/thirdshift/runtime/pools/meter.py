"""What an attempt used, measured inside the child process that runs it. What cannot be measured is ``None``."""

import contextlib
import os
import re
import resource

_HIGH_WATER = re.compile(rb"VmHWM:\s+(\d+) kB")
_RESET_HIGH_WATER = b"5"


class Meter:
    """Measures one attempt after another: processor time with that of waited-for children, and peak memory."""

    def __init__(self) -> None:
        self._cpu_s = 0.0
        self._clear = _opened("/proc/self/clear_refs", os.O_WRONLY)
        self._status = _opened("/proc/self/status", os.O_RDONLY)
        self._statm = _opened("/proc/self/statm", os.O_RDONLY)
        self._is_reset = False

    def begin(self) -> None:
        """Begin to measure an attempt."""
        self._cpu_s = cpu_s()
        self._is_reset = False
        if self._clear is not None:
            with contextlib.suppress(OSError):
                self._is_reset = os.write(self._clear, _RESET_HIGH_WATER) > 0

    def used_cpu_s(self) -> float:
        """Return the processor seconds used since :meth:`begin`."""
        return cpu_s() - self._cpu_s

    def peak_bytes(self) -> int | None:
        """Return the most memory that the process held since :meth:`begin`, without its descendants'."""
        if self._status is None or not self._is_reset:
            return None
        found = _HIGH_WATER.search(os.pread(self._status, 8192, 0))
        return None if found is None else int(found[1]) * 1024

    def resident_bytes(self) -> int | None:
        """Return the memory that the process holds now."""
        if self._statm is None:
            return None
        return int(os.pread(self._statm, 256, 0).split()[1]) * resource.getpagesize()


def cpu_s() -> float:
    """Return the processor seconds of this process and of the children that it has waited for, since their starts."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _opened(path: str, flags: int) -> int | None:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError:
        return None
