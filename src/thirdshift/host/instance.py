"""One daemon for one workspace: the lock that a second one meets."""

from pathlib import Path
from types import TracebackType
from typing import Self

from thirdshift.core.errors import AlreadyRunning
from thirdshift.host.lock import FileLock


class PIDManager:
    """The instance lock of a daemon on *pid_file*, which also tells people the PID.

    What counts is the operating system's lock on the file, never the number in it: after ``kill -9`` the next start
    succeeds at once, and a PID that now belongs to another program stops nobody. *what* names the daemon in messages.
    """

    def __init__(self, pid_file: Path, what: str = "the daemon") -> None:
        self.pid_file = Path(pid_file)
        self._what = what
        self._lock = FileLock(self.pid_file)

    def acquire(self) -> None:
        """Become the one instance; raises :class:`AlreadyRunning` naming the process that is."""
        self.pid_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._lock.try_acquire():
            raise AlreadyRunning(self._what, self.pid_file, self._lock.read_pid())

    def release(self) -> None:
        """Let the next instance start; nothing happens when this one does not hold the lock."""
        self._lock.release()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
