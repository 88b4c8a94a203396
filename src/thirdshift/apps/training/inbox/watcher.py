"""Finds the files people drop into a folder, once they are written to the end."""

import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from thirdshift.apps.training.inbox.arrivals import Arrivals
from thirdshift.host.writers import is_open_for_writing

Identity = tuple[int, int]
"""Device and inode: what stays the same when a file is renamed, and differs when a new one gets an old name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A file as one look found it."""

    path: Path
    identity: Identity
    size_bytes: int
    modified_ns: int
    link_count: int


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
    at when asked, and *events* of the file system, where there are any, say what is complete already: closed after
    writing, or renamed in. Every other file, an empty one and one with two names have to settle. What a process still
    has open for writing is not taken, where the system tells.

    A loop may sleep until :meth:`fileno` is readable, then :meth:`drain` it and ask. *say* is told what a person should
    know. For use by one thread.
    """

    def __init__(
        self,
        directory: Path,
        pattern: str = "*.jsonl",
        *,
        settle_s: float = 1.0,
        events: bool = True,
        say: Callable[[str], None] = lambda _text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.directory = Path(directory)
        self.pattern = pattern
        self._rule = SettleRule(settle_s, clock)
        self._arrivals = Arrivals(self.directory, say) if events else None
        self._say = say
        self._last_look: dict[Path, Seen] = {}
        self._processed: dict[Identity, int] = {}
        self._told_of: set[Identity] = set()

    @property
    def has_events(self) -> bool:
        """Whether the system tells what arrives; else it is found by looking only."""
        return self._arrivals is not None and self._arrivals.has_events

    def fileno(self) -> int:
        """Return a descriptor that is readable when something arrived; only with events."""
        assert self._arrivals is not None
        return self._arrivals.fileno()

    def drain(self) -> None:
        """Take note of what arrived."""
        if self._arrivals is not None:
            self._arrivals.drain()

    def close(self) -> None:
        """Give the descriptor back; files are found by looking from now on."""
        if self._arrivals is not None:
            self._arrivals.close()

    def get_new_files(self) -> list[Path]:
        """Finished files that were not marked yet, oldest first (time of last change, then name).

        A file is returned by every call until it is marked or gone.
        """
        self.drain()
        look = sorted(self._look(), key=lambda seen: (seen.modified_ns, seen.path.name))
        self._last_look = {seen.path: seen for seen in look}
        self._forget_files_that_left(look)
        new = [seen for seen in look if self._processed.get(seen.identity) != seen.modified_ns]
        settled = {seen.identity for seen in self._rule.settled(new)}
        return [seen.path for seen in new if self._is_finished(seen, seen.identity in settled)]

    def size(self) -> int:
        """Number of files that were not marked yet, finished or not."""
        return sum(self._processed.get(seen.identity) != seen.modified_ns for seen in self._look())

    def mark_processed(self, path: Path) -> None:
        """Do not return this file again, wherever it is moved meanwhile; a path that was never seen is ignored.

        A new file that later gets this name, and a marked one that is written again, are new arrivals.
        """
        if seen := self._last_look.get(Path(path)):
            self._processed[seen.identity] = seen.modified_ns
            if self._arrivals is not None:
                self._arrivals.forget(seen.path.name)

    def get_irregular(self) -> list[Path]:
        """What has such a name and is no regular file: a directory, a link, a FIFO. By name."""
        with os.scandir(self.directory) as entries:
            found = [Path(entry.path) for entry in entries if not entry.is_file(follow_symlinks=False)]
        return sorted(path for path in found if self._matches(path))

    def _is_finished(self, seen: Seen, has_settled: bool) -> bool:
        """Whether *seen* may be taken.

        An empty file is often one that its writer has only begun; a second name may be one that a move is removing.
        """
        name = seen.path.name
        try:
            is_written = is_open_for_writing(seen.path)
        except OSError:  # gone meanwhile, or not for us to read: that is told by whoever takes it
            is_written = None
        if is_written:
            if self._arrivals is not None:
                self._arrivals.forget(name)
            if has_settled and seen.identity not in self._told_of:
                self._told_of.add(seen.identity)
                self._say(f"{name} waits: a process has it open for writing")
            return False
        is_complete = self._arrivals is not None and self._arrivals.is_complete(name, is_written)
        return has_settled or (is_complete and seen.size_bytes > 0 and seen.link_count == 1)

    def _look(self) -> list[Seen]:
        with os.scandir(self.directory) as entries:
            paths = [Path(entry.path) for entry in entries]
        return [seen for path in paths if self._matches(path) and (seen := look_at(path))]

    def _matches(self, path: Path) -> bool:
        return path.match(self.pattern) and not path.name.startswith(".")

    def _forget_files_that_left(self, look: list[Seen]) -> None:
        """The system gives the inode of a deleted file to a new one, which must not pass for the old one."""
        present = {seen.identity for seen in look}
        self._processed = {identity: when for identity, when in self._processed.items() if identity in present}
        self._told_of &= present
        if self._arrivals is not None:
            self._arrivals.keep({seen.path.name for seen in look})


def look_at(path: Path, *, regular_only: bool = True) -> Seen | None:
    """*path* as it is now, links not followed; ``None`` when it is gone, or no regular file and *regular_only*."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if regular_only and not stat.S_ISREG(status.st_mode):
        return None
    return Seen(
        path=path,
        identity=(status.st_dev, status.st_ino),
        size_bytes=status.st_size,
        modified_ns=status.st_mtime_ns,
        link_count=status.st_nlink,
    )
