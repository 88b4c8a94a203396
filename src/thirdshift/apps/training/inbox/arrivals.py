"""What the kernel says of files that arrive in a folder: closed after writing, renamed in, or made some other way."""

from collections.abc import Callable
from pathlib import Path

from thirdshift.host.inotify import CLOSED_AFTER_WRITING, CREATED, FOLDER_GONE, LOST, MOVED_IN, FolderWatch

_COMPLETE = CLOSED_AFTER_WRITING | MOVED_IN


class Arrivals:
    """Collects the names of files that arrived in *folder*, as long as there are events to read.

    Where there are none (another system, no inotify instance left, a folder that is gone), or where some were lost,
    *say* is told once and nothing is known: then files are found by looking. For one thread.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        self._said: set[str] = set()
        self._complete: set[str] = set()
        self._appeared: set[str] = set()
        self._watched: tuple[int, int] | None = None
        self._watch: FolderWatch | None = None
        try:
            self._watch = FolderWatch(folder, _COMPLETE | CREATED)
            self._watched = _identity(folder)
        except OSError as error:
            self._polled(f"no file-system events ({error.strerror or error})")

    @property
    def has_events(self) -> bool:
        """Whether there are events to read."""
        return self._watch is not None

    def fileno(self) -> int:
        """Return the descriptor that is readable when something arrived; only with events."""
        assert self._watch is not None
        return self._watch.fileno()

    def drain(self) -> None:
        """Read what happened."""
        if self._watch is None:
            return
        for event in self._watch.events():
            if event.mask & LOST:
                self._polled("more arrived at once than the system keeps events of")
            elif event.mask & FOLDER_GONE:
                self._watched = None
            elif event.mask & _COMPLETE:
                self._complete.add(event.name)
            else:
                self._appeared.add(event.name)
        self._follow_the_folder(self._watch)

    def is_complete(self, name: str, is_written: bool | None) -> bool:
        """Whether events say that the file *name* is whole; *is_written*: somebody has it open for writing.

        A link to a file that exists appears whole, without being closed: that takes knowing that nobody writes.
        """
        return not is_written and (name in self._complete or (name in self._appeared and is_written is False))

    def forget(self, name: str) -> None:
        """What was said of *name* holds no more: it is written to again, or was taken."""
        self._complete.discard(name)
        self._appeared.discard(name)

    def keep(self, names: set[str]) -> None:
        """Forget all but *names*."""
        self._complete &= names
        self._appeared &= names

    def close(self) -> None:
        """Give the descriptor back."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _follow_the_folder(self, watch: FolderWatch) -> None:
        """Watch the folder that has the name now: somebody may have put another in its place."""
        try:
            identity = _identity(self._folder)
            if identity != self._watched:
                watch.renew()
            self._watched = identity
        except OSError as error:
            self._watched = None
            self._polled(f"no file-system events ({error.strerror or error})")

    def _polled(self, why: str) -> None:
        if why not in self._said:
            self._said.add(why)
            self._say(f"{self._folder.name}: {why}; files are found by looking, a little later")


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
