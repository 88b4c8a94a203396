"""Finds the files people drop into a folder, once they are written to the end."""

import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

Identity = tuple[int, int]
"""Device and inode: what stays the same when a file is renamed, and differs when a new one gets an old name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A file as one look found it."""

    path: Path
    identity: Identity
    size_bytes: int
    modified_ns: int


class SettleRule:
    """Tells files that are still being written from finished ones, by looking twice.

    A file has settled when its size and its time of change have stayed the same over looks at least *settle_s*
    seconds apart. A writer that pauses for longer is not noticed: whoever writes slowly writes under a name that
    starts with a dot and renames at the end. *clock* counts seconds and never steps. Not for several threads.
    """

    def __init__(self, settle_s: float, clock: Callable[[], float]) -> None:
        self._settle_s = settle_s
        self._clock = clock
        self._unchanged_since: dict[Identity, tuple[Seen, float]] = {}

    def settled(self, look: Iterable[Seen]) -> list[Seen]:
        """Take one *look* at all candidates; returns those of them that have settled, in the same order."""
        now = self._clock()
        since = {seen.identity: (seen, self._since(seen, now)) for seen in look}
        self._unchanged_since = since
        return [seen for seen, first in since.values() if now - first >= self._settle_s]

    def _since(self, seen: Seen, now: float) -> float:
        earlier, first = self._unchanged_since.get(seen.identity, (seen, now))
        same = (earlier.size_bytes, earlier.modified_ns) == (seen.size_bytes, seen.modified_ns)
        return first if same else now


class FileWatcher:
    """Watches *directory* for files whose name matches *pattern*.

    Only regular files count: no symbolic links, no FIFOs, nothing whose name starts with a dot. The folder is looked
    at when asked; for use by one thread.
    """

    def __init__(
        self,
        directory: Path,
        pattern: str = "*.jsonl",
        *,
        settle_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.directory = Path(directory)
        self.pattern = pattern
        self._rule = SettleRule(settle_s, clock)
        self._last_look: dict[Path, Seen] = {}
        self._processed: dict[Identity, int] = {}

    def get_new_files(self) -> list[Path]:
        """Finished files that were not marked yet, oldest first (time of last change, then name).

        A file is returned by every call until it is marked or gone.
        """
        look = sorted(self._look(), key=lambda seen: (seen.modified_ns, seen.path.name))
        self._last_look = {seen.path: seen for seen in look}
        self._forget_processed_files_that_left(look)
        new = [seen for seen in look if self._processed.get(seen.identity) != seen.modified_ns]
        return [seen.path for seen in self._rule.settled(new)]

    def size(self) -> int:
        """Number of files that were not marked yet, finished or not."""
        return sum(self._processed.get(seen.identity) != seen.modified_ns for seen in self._look())

    def mark_processed(self, path: Path) -> None:
        """Do not return this file again, wherever it is moved meanwhile; a path that was never seen is ignored.

        A new file that later gets this name, and a marked one that is written again, are new arrivals.
        """
        if seen := self._last_look.get(Path(path)):
            self._processed[seen.identity] = seen.modified_ns

    def get_directories(self) -> list[Path]:
        """Directories whose name matches: no training data, though their owner thinks so. By name."""
        with os.scandir(self.directory) as entries:
            found = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        return sorted(path for path in found if self._matches(path))

    def _look(self) -> list[Seen]:
        with os.scandir(self.directory) as entries:
            paths = [Path(entry.path) for entry in entries]
        return [seen for path in paths if self._matches(path) and (seen := look_at(path))]

    def _matches(self, path: Path) -> bool:
        return path.match(self.pattern) and not path.name.startswith(".")

    def _forget_processed_files_that_left(self, look: list[Seen]) -> None:
        """The system gives the inode of a deleted file to a new one, which must not pass for the old one."""
        present = {seen.identity for seen in look}
        self._processed = {identity: when for identity, when in self._processed.items() if identity in present}


def look_at(path: Path) -> Seen | None:
    """*path* as it is now, ``None`` when it is gone or no regular file (symbolic links are not followed)."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return Seen(
        path=path,
        identity=(status.st_dev, status.st_ino),
        size_bytes=status.st_size,
        modified_ns=status.st_mtime_ns,
    )
