"""Files that people drop inside folders move up to the inbox itself, where the watcher finds them."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from thirdshift.apps.training.inbox.watcher import Seen, SettleRule, look_at
from thirdshift.host.files import numbered

_SUFFIX = ".jsonl"
_DEEPEST = 32
"""Folders below the inbox that are looked into; what lies deeper was not dropped there by a person."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


class InboxFlattener:
    """Moves every finished ``*.jsonl`` below the sub-folders of *inbox* up into it; for use by one thread.

    Links move as the links they are, and are not followed; names that start with a dot are passed over. A directory
    that is itself called ``something.jsonl`` is neither entered nor removed: the watcher reports it. Whoever swaps a
    folder for a link meanwhile gains nothing: files are moved between folders that are open already. In each pass of a
    daemon, flatten comes before the watcher: only so is a move that a crash interrupted finished before its file is
    taken.
    """

    def __init__(self, inbox: Path, *, settle_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.inbox = Path(inbox)
        self._rule = SettleRule(settle_s, clock)

    def flatten(self) -> list[tuple[Path, Path]]:
        """Move what has settled, remove the folders that this left empty; returns old and new path of each file.

        A namesake in the inbox is never overwritten: the newcomer becomes ``name-1.jsonl``. A folder is removed only
        when a file was moved out of it or out of one below it, so a folder somebody has just made stays.
        """
        found = sorted(self._files_in_subfolders(), key=lambda seen: (seen.modified_ns, seen.path))
        moved: list[tuple[Path, Path]] = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it changes under us: the next look is right
            for seen in found:
                if seen.link_count > 1:
                    self._finish_interrupted_move(seen)
            for seen in self._rule.settled(found):
                new = self._move_up(seen)
                moved += [] if new is None else [(seen.path, new)]
        return moved

    def size(self) -> int:
        """Number of files that will be moved up once they are complete."""
        return sum(1 for _ in self._files_in_subfolders())

    def _files_in_subfolders(self) -> Iterator[Seen]:
        folders = [(self.inbox, 0)]
        while folders:
            folder, depth = folders.pop()
            for entry in _entries(folder):
                is_named = entry.name.endswith(_SUFFIX)
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if not is_named and depth < _DEEPEST:
                        folders.append((Path(entry.path), depth + 1))
                elif is_named and depth and (seen := look_at(Path(entry.path), regular_only=False)):
                    yield seen

    def _finish_interrupted_move(self, seen: Seen) -> None:
        """A crash in the middle of a move left the file under both names; only the new one may stay."""
        twins = (twin for path in self.inbox.glob(f"*{_SUFFIX}") if (twin := look_at(path, regular_only=False)))
        if any(seen.identity == twin.identity for twin in twins):
            with self._opened(seen.path.parent) as folders:
                self._take_out(seen, folders)

    def _move_up(self, seen: Seen) -> Path | None:
        """Move the file that was *seen*; ``None`` when something else has its name by now."""
        with self._opened(seen.path.parent) as folders:
            status = os.stat(seen.path.name, dir_fd=folders[-1], follow_symlinks=False)
            if (status.st_dev, status.st_ino) != seen.identity:
                return None
            for candidate in numbered(seen.path.name):
                try:
                    os.link(
                        seen.path.name,
                        candidate,
                        src_dir_fd=folders[-1],
                        dst_dir_fd=folders[0],
                        follow_symlinks=False,
                    )
                except FileExistsError:
                    continue
                os.fsync(folders[0])
                self._take_out(seen, folders)
                return self.inbox / candidate
        raise AssertionError("unreachable: the names never end")

    @contextlib.contextmanager
    def _opened(self, folder: Path) -> Iterator[list[int]]:
        """Open the inbox and every folder below it down to *folder*, no link among them."""
        with ExitStack() as closing:
            folders = [os.open(self.inbox, _FOLDER)]
            closing.callback(os.close, folders[0])
            for name in folder.relative_to(self.inbox).parts:
                folders.append(os.open(name, _FOLDER, dir_fd=folders[-1]))
                closing.callback(os.close, folders[-1])
            yield folders

    def _take_out(self, seen: Seen, folders: list[int]) -> None:
        """Remove the old name of *seen*, and its folders as far as they are empty."""
        *parents, name = seen.path.relative_to(self.inbox).parts
        os.unlink(name, dir_fd=folders[-1])
        os.fsync(folders[-1])
        with contextlib.suppress(OSError):  # not empty
            for number, parent in reversed(list(enumerate(parents))):
                os.rmdir(parent, dir_fd=folders[number])


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
