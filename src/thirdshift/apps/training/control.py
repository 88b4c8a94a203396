"""Words to a running daemon, laid as empty files, so that ``touch control/.pause`` works from any shell.

A word is removed when it is taken. The one thing that lasts, being paused, has its own file, which says since when.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from thirdshift.apps.training.moments import iso
from thirdshift.core.errors import UsageError
from thirdshift.host.files import sync_directory, write_atomically

_STALE_AT_START = ("stop", "stop_after_file", "stop_now", "skip", "resume")
WORDS = (*_STALE_AT_START, "pause", "trigger_snapshot", "trigger_retention", "trigger_consolidation")


class ControlFolder:
    """The words in *control_dir*, which must exist. Any process and thread may lay and take; each is taken once.

    *clock* gives Unix seconds.
    """

    def __init__(self, control_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.control_dir = Path(control_dir)
        self._paused = self.control_dir / "paused"
        self._clock = clock

    def request(self, word: str) -> Path:
        """Lay *word* and return its file; one that lies there already keeps its place in the order."""
        if word not in WORDS:
            raise UsageError(f"{word!r} is no control word; known are {', '.join(WORDS)}")
        path = self._path(word)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                moment_ns = int(self._clock() * 1e9)
                os.utime(descriptor, ns=(moment_ns, moment_ns))
            finally:
                os.close(descriptor)
        return path

    def take(self) -> list[str]:
        """Remove all words that lie there and return them in the order in which they were laid."""
        return self._take(WORDS)

    def clear_stale(self) -> list[str]:
        """Remove and return the words that were meant for a daemon that is gone: every stop, skip, resume.

        A pause and the triggers stay: they are served by the next daemon.
        """
        return self._take(_STALE_AT_START)

    @property
    def is_paused(self) -> bool:
        """Whether a person asked for a pause that was not ended; it survives restarts."""
        return os.path.lexists(self._paused)

    @property
    def paused_since(self) -> datetime | None:
        """When the pause began (aware UTC), ``None`` when there is none."""
        try:
            return datetime.fromisoformat(json.loads(self._paused.read_bytes())["since"]).astimezone(UTC)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return datetime.fromtimestamp(self._paused.lstat().st_mtime, UTC)

    def set_paused(self, paused: bool) -> None:
        """Begin or end the pause, durably; a pause that goes on keeps its beginning."""
        if not paused:
            with contextlib.suppress(FileNotFoundError):
                self._paused.unlink()
                sync_directory(self.control_dir)
        elif not self.is_paused:
            write_atomically(self._paused, json.dumps({"since": iso(self._clock())}).encode())

    def _take(self, words: tuple[str, ...]) -> list[str]:
        laid: list[tuple[int, int, str]] = []
        for number, word in enumerate(words):
            with contextlib.suppress(FileNotFoundError):
                laid.append((self._path(word).lstat().st_mtime_ns, number, word))
        return [word for *_, word in sorted(laid) if self._remove(word)]

    def _remove(self, word: str) -> bool:
        """Whether this call removed the word; of two takers only one does, and a folder of that name is no word."""
        try:
            self._path(word).unlink()
        except (FileNotFoundError, IsADirectoryError, PermissionError):
            return False
        return True

    def _path(self, word: str) -> Path:
        return self.control_dir / f".{word}"
