"""A daemon that fills the disk takes every other program with it: look first, and refuse in time."""

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from thirdshift.core.errors import DiskTooFull

DiskLevel = Literal["ok", "low", "full"]
_GB = 1_000_000_000


class DiskUsage(Protocol):
    """What :func:`shutil.disk_usage` returns: bytes in all, and bytes this user may still write."""

    @property
    def total(self) -> int: ...
    @property
    def free(self) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskState:
    """How full a disk is. 1 GB is 10^9 bytes; ``free_gb`` is what this user may write, not root's reserve."""

    free_gb: float
    total_gb: float
    level: DiskLevel


class DiskGuard:
    """Says whether the disk of a path has room: under *warn_free_gb* it is low, under *min_free_gb* full.

    *usage* reads a file system; only tests give another one. Any thread may use it.
    """

    def __init__(
        self,
        min_free_gb: float = 10,
        warn_free_gb: float = 50,
        *,
        usage: Callable[[Path], DiskUsage] = shutil.disk_usage,
    ) -> None:
        self.min_free_gb = min_free_gb
        self.warn_free_gb = warn_free_gb
        self._usage = usage

    def check(self, path: Path) -> DiskState:
        """The state of the file system that holds *path*, or will hold it once it is made."""
        usage = self._usage(_nearest_existing(path))
        free_gb = usage.free / _GB
        return DiskState(free_gb=free_gb, total_gb=usage.total / _GB, level=self._level(free_gb))

    def is_full(self, path: Path) -> bool:
        """Whether the disk of *path* is full."""
        return self.check(path).level == "full"

    def require(self, path: Path) -> DiskState:
        """Return the state of the disk of *path*; raises :class:`DiskTooFull` when it is full."""
        state = self.check(path)
        if state.level == "full":
            raise DiskTooFull(path, state.free_gb, self.min_free_gb)
        return state

    def _level(self, free_gb: float) -> DiskLevel:
        if free_gb < self.min_free_gb:
            return "full"
        return "low" if free_gb < self.warn_free_gb else "ok"


def says_no_space(error: OSError) -> bool:
    """Whether *error* was raised because a disk, or this user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _nearest_existing(path: Path) -> Path:
    absolute = path.absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())
