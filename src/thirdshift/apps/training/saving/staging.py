"""Memory that a trainer copies its state into and a writer process reads it from.

It is anonymous memory that both have mapped, allocated once: copying into it costs what moving the bytes costs. No name
of it is left anywhere: the kernel takes it back when both processes are gone, however they died.
"""

import mmap
import os
import tempfile
from pathlib import Path

from thirdshift.core.errors import ThirdshiftError

_PAGE = mmap.PAGESIZE
_SPARE_BYTES = 64 << 20
"""What is left to everybody else, of memory and of disk."""


class NoRoom(ThirdshiftError):
    """Memory or disk have no room for a checkpoint; nothing was begun."""


class StagingBuffer:
    """*size_bytes* of memory that another process may map too, by :attr:`descriptor`."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = max(_PAGE, -(-size_bytes // _PAGE) * _PAGE)
        demand_memory(self.size_bytes)
        self.descriptor = _anonymous_file()
        try:
            os.ftruncate(self.descriptor, self.size_bytes)
            self.view = mmap.mmap(self.descriptor, self.size_bytes)
            for start in range(0, self.size_bytes, _PAGE):  # take every page now, and not amid a copy
                self.view[start] = 0
        except BaseException:
            os.close(self.descriptor)
            raise

    def close(self) -> None:
        """Give our side of the memory back; what is copied out of it by tensors keeps it mapped until they are gone."""
        os.close(self.descriptor)


def demand_memory(size_bytes: int) -> None:
    """Raise :class:`NoRoom` unless *size_bytes* of memory are free."""
    free = available_memory_bytes()
    if free is not None and free < size_bytes + _SPARE_BYTES:
        raise NoRoom(
            f"a checkpoint needs {_mb(size_bytes)} of memory to be staged in, and {_mb(free)} are available. End other "
            "programs, or train a smaller model."
        )


def demand_disk(directory: Path, size_bytes: int) -> None:
    """Raise :class:`NoRoom` unless *size_bytes* may be written to the disk of *directory*."""
    state = os.statvfs(directory)
    free = state.f_bavail * state.f_frsize
    if free < size_bytes + _SPARE_BYTES:
        raise NoRoom(
            f"a checkpoint needs {_mb(size_bytes)} in {directory}, and {_mb(free)} are free. Make room there; training "
            "goes on by itself then."
        )


def available_memory_bytes() -> int | None:
    """Return what may still be taken without swapping, of the machine or of our cgroup; None where nobody says."""
    found = [figure for figure in (_of_machine(), _of_cgroup()) if figure is not None]
    return min(found, default=None)


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _of_cgroup() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such file, or "max": no limit
        return None
    return limit - used + int(statistics.get("file", 0)) - int(statistics.get("shmem", 0))


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("thirdshift-staging", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"
