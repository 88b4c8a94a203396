"""The folders of a queue and the moves between them: what :mod:`thirdshift.apps.training.files.queue` stands on.

Every move is one rename, so a file is never in two places and two movers never both succeed. A rename would replace a
namesake without a word; that is why a name is claimed, by its sidecar, for all places of the queue at once.
"""

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from thirdshift.apps.training.filenames import REPORT_SUFFIX, demand_plain_name
from thirdshift.apps.training.files.known import KnownContents
from thirdshift.apps.training.files.sidecars import Sidecar, Sidecars
from thirdshift.apps.training.moments import iso
from thirdshift.apps.training.workspace import PRIORITIES
from thirdshift.core.errors import FileNotQueued, UsageError
from thirdshift.host.files import numbered, sync_directory


class Places:
    """The folders below *queue_dir*, made when they are missing; *clock* gives Unix seconds."""

    def __init__(self, queue_dir: Path, clock: Callable[[], float]) -> None:
        self.queue_dir = queue_dir
        self.waiting = {priority: queue_dir / priority for priority in PRIORITIES}
        self.checking = queue_dir / "checking"
        self.processing = queue_dir / "processing"
        self.failed = queue_dir / "failed"
        self.sidecars = Sidecars(queue_dir / ".meta")
        self.known = KnownContents(queue_dir / ".known")
        self._clock = clock
        folders = (
            self.checking,
            *self.waiting.values(),
            self.processing,
            self.failed,
            self.sidecars.folder,
            self.known.folder,
        )
        for folder in folders:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        arrivals = (sidecar.arrived_at for name in self.sidecars.names() if (sidecar := self.sidecars.read(name)))
        self._last_arrival = max(arrivals, default="")

    def folder_of(self, priority: str) -> Path:
        """The folder of the files that wait with *priority*; raises :class:`UsageError` for an unknown one."""
        if priority not in self.waiting:
            raise UsageError(f"{priority!r} is no priority; known are {', '.join(PRIORITIES)}")
        return self.waiting[priority]

    def place_of(self, name: str) -> Path | None:
        """The folder in which *name* is checked, waits or is processed."""
        places = (self.checking, *self.waiting.values(), self.processing)
        return next((place for place in places if os.path.lexists(place / name)), None)

    def find(self, name: str, folders: Iterable[Path], where: str) -> Path:
        """The file *name* in one of *folders*; raises :class:`FileNotQueued` saying that it is not *where*."""
        demand_plain_name(name)
        for folder in folders:
            if is_regular_file(folder / name):
                return folder / name
        raise FileNotQueued(name, where)

    def sidecar_of(self, path: Path) -> Sidecar:
        """What is known about the file at *path*; where nothing can be read: normal, as old as the file."""
        sidecar = self.sidecars.read(path.name)
        if sidecar is None:
            return Sidecar(priority="normal", arrived_at=iso(path.lstat().st_mtime))
        return sidecar if sidecar.priority in PRIORITIES else replace(sidecar, priority="normal")

    def enter(self, source: Path, name: str, priority: str, checked: Mapping[str, Any] | None = None) -> Path:
        """Move *source*, from outside, to the end of the line of *priority* as *name* or, if that is taken, ``-1``."""
        folder = self.folder_of(priority)
        sidecar = Sidecar(priority=priority, arrived_at=self._next_arrival(), checked=checked or {})
        claimed = self._claim(name, sidecar)
        return self._move_claimed(source, folder / claimed)

    def enter_checking(self, source: Path, name: str, folder: int | None) -> Path:
        """Move *source*, from the open *folder*, to where it is checked, by the rules of :meth:`enter`."""
        claimed = self._claim(name, Sidecar(priority="normal", arrived_at=self._next_arrival()))
        return self._move_claimed(source, self.checking / claimed, folder)

    def move_within(self, source: Path, folder: Path, sidecar: Sidecar) -> Path:
        """Move a file of the queue to *folder*; only what somebody laid there by hand can be in the way of its name."""
        if not os.path.lexists(folder / source.name):
            return move(source, folder / source.name)
        target = self._move_claimed(source, folder / self._claim(source.name, sidecar))
        if self.place_of(source.name) is None:
            self.sidecars.remove(source.name)
        return target

    def _claim(self, name: str, sidecar: Sidecar) -> str:
        demand_plain_name(name)
        for candidate in numbered(name):
            if self.place_of(candidate) is None and self.sidecars.claim(candidate, sidecar):
                return candidate
        raise AssertionError("unreachable: the names never end")

    def _move_claimed(self, source: Path, target: Path, folder: int | None = None) -> Path:
        try:
            return move(source, target, folder)
        except OSError:
            self.sidecars.remove(target.name)
            raise

    def _next_arrival(self) -> str:
        """Now, but always later than the arrival before, also when the clock was set back."""
        now = iso(self._clock())
        if now <= self._last_arrival:
            later = datetime.fromisoformat(self._last_arrival) + timedelta(microseconds=1)
            now = later.isoformat(timespec="microseconds")
        self._last_arrival = now
        return now


def move(source: Path, target: Path, folder: int | None = None) -> Path:
    """Rename *source* to *target*, durably.

    With the open *folder* that *source* lies in, nobody can put another folder there in between.
    """
    if folder is None:
        source.rename(target)
        sync_directory(source.parent)
    else:
        os.rename(source.name, target, src_dir_fd=folder)
        os.fsync(folder)
    sync_directory(target.parent)
    return target


def names_in(folder: Path) -> list[str]:
    """Names of the files in *folder*, sorted: neither reports nor what starts with a dot."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    return sorted(name for name in names if not name.startswith(".") and not name.endswith(REPORT_SUFFIX))


def is_regular_file(path: Path) -> bool:
    """Whether *path* is a regular file; symbolic links are not followed."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False
