"""A lock that the operating system gives back when its holder dies, however it dies.

It lies on an open file (``flock``), not on a file's existence or on a PID written somewhere: a killed holder leaves
nothing to clean up, and a PID that was given to another program fools nobody. The PID inside is for people.
"""

import contextlib
import errno
import fcntl
import os
import stat
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_PROBE_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class FileLock:
    """An exclusive lock on *path*, whose folder must exist; the file is made (0600) and stays.

    One object stands for one holder: another object on the same path, in this process or in any other, is refused
    while it holds. It may be used from any thread, also released by another thread than the one that acquired it.
    It is held until :meth:`release` or the end of the process, even when the object itself is forgotten. A forked
    child does not hold it, and a started program does not inherit it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def try_acquire(self) -> bool:
        """Take the lock if it is free, without waiting; ``False`` while anybody holds it, this object included.

        Raises :class:`OSError` when the path is a symbolic link, not a regular file, or cannot be opened.
        """
        with _mutex:
            if self._descriptor is not None:
                return False
            self._descriptor = _open_and_lock(self.path)
            if self._descriptor is None:
                return False
            _held.add(self)
            _write_pid(self._descriptor)
            return True

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held. The file stays, empty."""
        with _mutex:
            if self._descriptor is None:
                return
            descriptor, self._descriptor = self._descriptor, None
            _held.discard(self)
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
            # Unlocked before it is closed: a child between fork and exec may still share the open file.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def read_pid(self) -> int | None:
        """The PID the last holder wrote, for messages only: it decides nothing and may be that of a dead process."""
        return read_pid(self.path)

    def __enter__(self) -> Self:
        if not self.try_acquire():
            raise BlockingIOError(errno.EWOULDBLOCK, f"locked by process {self.read_pid()}", str(self.path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _forget_in_forked_child(self) -> None:
        """Close without unlocking: unlocking here would free the parent's lock too."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def held_by_somebody(path: Path) -> bool:
    """Whether any process, this one included, holds the lock on *path*; ``False`` where there is no such file.

    Asking disturbs nobody: whoever acquires at that moment still gets the lock.
    """
    try:
        descriptor = os.open(path, _PROBE_FLAGS)
    except FileNotFoundError:
        return False
    try:
        return not _lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def read_pid(path: Path) -> int | None:
    """The PID written in the lock file *path*, or ``None`` where there is none. For messages only."""
    try:
        return int(path.read_bytes()[:20])
    except (OSError, ValueError):
        return None


def remove_if_free(path: Path) -> bool:
    """Unlink the lock file *path* unless somebody holds it; returns whether it is gone.

    This is the one safe way to unlink one: it is done under the lock, and whoever opened the old file meanwhile
    notices and opens the new one. It is for locks whose owner is gone for good: an acquirer that comes at that very
    moment is told ``False``.
    """
    lock = FileLock(path)
    if not lock.try_acquire():
        return False
    path.unlink(missing_ok=True)
    lock.release()
    return True


# No fork falls between the opening of a descriptor and the note that it is open: forking takes the mutex too.
# Re-entrant, because a signal handler may fork in the middle of an acquisition.
_mutex = threading.RLock()
_held: set[FileLock] = set()


def _open_and_lock(path: Path) -> int | None:
    """The descriptor of *path* with the exclusive lock on it, or ``None`` while somebody else holds it."""
    while True:
        descriptor = os.open(path, _OPEN_FLAGS, 0o600)
        try:
            _demand_regular_file(descriptor, path)
            if not _lock_past_probes(descriptor):
                os.close(descriptor)
                return None
            if _is_still_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock_past_probes(descriptor: int) -> bool:
    """Lock exclusively; shared locks are only the moments of :func:`held_by_somebody` and are outlasted."""
    while not _lock(descriptor, fcntl.LOCK_EX):
        if not _lock(descriptor, fcntl.LOCK_SH):
            return False
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _demand_regular_file(descriptor: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "a lock file must be a regular file", str(path))


def _is_still_at(path: Path, descriptor: int) -> bool:
    """Whether *path* still names the locked file; a lock on an unlinked file would keep nobody out."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write_pid(descriptor: int) -> None:
    """Best effort: a full disk must not cost the lock."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _forget_all_in_forked_child() -> None:
    for lock in list(_held):
        lock._forget_in_forked_child()  # noqa: SLF001 - one module
    _held.clear()
    _mutex.release()


os.register_at_fork(before=_mutex.acquire, after_in_parent=_mutex.release, after_in_child=_forget_all_in_forked_child)
