"""Files that people drop inside folders move up to the inbox itself, where the watcher finds them."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from thirdshift.apps.training.watcher import Seen, SettleRule, look_at
from thirdshift.host.files import move_without_overwriting, sync_directory

_SUFFIX = ".jsonl"


class InboxFlattener:
    """Moves every finished ``*.jsonl`` below the sub-folders of *inbox* up into it; for use by one thread.

    Symbolic links are not followed and names that start with a dot are passed over. A directory that is itself called
    ``something.jsonl`` is neither entered nor removed: the watcher reports it. In each pass of a daemon, flatten comes
    before the watcher: only so is a move that a crash interrupted finished before its file is taken.
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
        waiting = [seen for seen in found if not self._finish_interrupted_move(seen)]
        moved = [(seen.path, move_without_overwriting(seen.path, self.inbox)) for seen in self._rule.settled(waiting)]
        for old, _ in moved:
            self._remove_empty_folders(old.parent)
        return moved

    def size(self) -> int:
        """Number of files that will be moved up once they are complete."""
        return sum(1 for _ in self._files_in_subfolders())

    def _files_in_subfolders(self) -> Iterator[Seen]:
        for folder, subfolders, names in os.walk(self.inbox, followlinks=False):
            subfolders[:] = [name for name in subfolders if not name.endswith(_SUFFIX) and not name.startswith(".")]
            if Path(folder) == self.inbox:
                continue
            for name in names:
                if name.endswith(_SUFFIX) and not name.startswith(".") and (seen := look_at(Path(folder, name))):
                    yield seen

    def _finish_interrupted_move(self, seen: Seen) -> bool:
        """A crash in the middle of a move left the file under both names; only the new one may stay."""
        if seen.path.lstat().st_nlink == 1:
            return False
        if not any(seen.identity == twin.identity for twin in self._files_of_inbox()):
            return False
        seen.path.unlink()
        sync_directory(seen.path.parent)
        self._remove_empty_folders(seen.path.parent)
        return True

    def _files_of_inbox(self) -> Iterator[Seen]:
        return (seen for path in self.inbox.glob(f"*{_SUFFIX}") if (seen := look_at(path)))

    def _remove_empty_folders(self, folder: Path) -> None:
        """Remove *folder* and its parents below the inbox as far as they are empty."""
        while folder != self.inbox:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                return
            folder = folder.parent
