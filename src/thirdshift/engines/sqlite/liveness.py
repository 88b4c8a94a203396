"""Who is alive is asked of the kernel: a worker and each of its children hold file locks that die with them.

No clock, PID or guess decides. A stopped, slow or suspended process keeps its locks and is never robbed.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from thirdshift.core.task import Claim
from thirdshift.engines.sqlite.card import Card, write_card
from thirdshift.engines.sqlite.slotfile import SlotFile, read_slots
from thirdshift.host.lock import FileLock, held_by_somebody, read_pid
from thirdshift.host.processes import GUARD_SUFFIX

_END_S = 0.1
"""How long a look waits for killed children to be gone."""
_PAUSE_S = 0.002


class SQLiteRegistration:
    """A worker of this process; its lock is held until :meth:`close` or the end of the process."""

    def __init__(self, folder: Path, slots: int, forget: Callable[[str], None], name: str | None = None) -> None:
        self.id = uuid4().hex
        self._name = name
        self._folder = folder
        self._forget = forget
        self._lock = FileLock(_worker_lock(folder, self.id))
        if not self._lock.try_acquire():
            raise AssertionError(f"the new lock {self._lock.path} is held by somebody")
        try:
            self._slots = SlotFile(_slot_file(folder, self.id), slots)
            if name is not None:
                write_card(folder, self.id, Card(name=name))
        except BaseException:
            self.abandon()
            raise

    def enter_slot(self, slot: int, claim: Claim) -> None:
        """Note that the attempt is about to run in *slot*."""
        self._slots.enter(slot, claim.seq, claim.attempt)

    def note_progress(self, slot: int) -> None:
        """Note that the attempt in *slot* has come forward."""
        self._slots.note_progress(slot)

    def leave_slot(self, slot: int) -> None:
        """Note that *slot* is empty."""
        self._slots.leave(slot)

    def child_lock(self, number: int) -> str:
        """Return the path of the lock file that child *number* must hold while it lives."""
        return str(self._folder / f"{self.id}.child-{number}.lock")

    def note_lost_wakes(self, count: int, at: datetime) -> None:
        """Let others see how many wake-ups were lost on this worker."""
        write_card(self._folder, self.id, Card(name=self._name, lost_wakes=count, lost_wake_at=at.isoformat()))

    def abandon(self) -> None:
        """Take back what was made for a worker that did not become known."""
        _remove_files(self._folder, self.id)
        self._lock.release()

    def close(self) -> None:
        """Forget the worker and release its lock, which is released in any case."""
        try:
            self._forget(self.id)
        finally:
            self._lock.release()
        self._slots.close()
        _remove_files(self._folder, self.id)


class DeadWorker:
    """A worker whose death is certain, because the caller now holds its lock. :meth:`forget` ends that."""

    def __init__(self, folder: Path, worker: str, lock: FileLock) -> None:
        self.id = worker
        self.stood = read_slots(_slot_file(folder, worker))
        """The attempts that stood in its slots, by (``seq``, attempt)."""
        self._folder = folder
        self._lock = lock

    def forget(self) -> None:
        """Remove what is left of it in the file system."""
        _remove_files(self._folder, self.id)
        self._lock.release()


def is_alive(folder: Path, worker: str) -> bool:
    """Return whether *worker* holds its lock."""
    return held_by_somebody(_worker_lock(folder, worker))


def dead_workers(folder: Path, workers: Sequence[str]) -> Iterator[DeadWorker]:
    """Yield those of *workers* that are dead and whose children are dead too.

    A child that outlived its worker is killed first; its task is not touched before its lock is free.
    """
    for worker in workers:
        lock = FileLock(_worker_lock(folder, worker))
        if not lock.try_acquire():
            continue
        if _end_orphans(folder, worker):
            yield DeadWorker(folder, worker, lock)
        else:
            lock.release()


def _end_orphans(folder: Path, worker: str) -> bool:
    """Kill children of a dead worker; returns whether all of them are gone, which they mostly are at once."""
    locks = list(folder.glob(f"{worker}.child-*.lock"))
    guards = list(folder.glob(f"{worker}.child-*.lock{GUARD_SUFFIX}"))  # each ends by itself when its child is gone
    _signal_holders(locks, os.killpg, signal.SIGKILL)  # a child leads a group of its own: what it started goes with it
    _signal_holders(guards, os.kill, signal.SIGCONT)  # a task may have stopped its guard
    deadline = time.monotonic() + _END_S
    while any(map(held_by_somebody, [*locks, *guards])):
        if time.monotonic() > deadline:
            return False  # the next look finds it
        time.sleep(_PAUSE_S)
    return True


def _signal_holders(locks: Sequence[Path], send: Callable[[int, int], None], number: signal.Signals) -> None:
    for path in filter(held_by_somebody, locks):
        pid = read_pid(path)  # written by the holder after it took the lock, so it cannot be another program's
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                send(pid, number)


def _remove_files(folder: Path, worker: str) -> None:
    for path in folder.glob(f"{worker}.*"):
        path.unlink(missing_ok=True)


def _slot_file(folder: Path, worker: str) -> Path:
    return folder / f"{worker}.slots"


def _worker_lock(folder: Path, worker: str) -> Path:
    return folder / f"{worker}.lock"
