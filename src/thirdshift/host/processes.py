"""A process and all that descends from it, as the kernel knows them; Linux, with a stated loss elsewhere.

Descent is read from ``/proc``, not from process groups or sessions, which a process may leave. It is complete below a
process that adopts orphans (:func:`adopt_orphans`). Without ``/proc`` (macOS) nothing is found: there only the process
group is ended, and what left it goes on.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator

GUARD_SUFFIX = ".guard"
"""What the name of a child's lock file is followed by in that of its guard's."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.02


def adopt_orphans() -> bool:
    """Become the parent of descendants whose own parent dies; False where the system does not offer that."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL when the thread that started us ends; leave at once if *parent* is gone already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def parent_of(pid: int) -> int:
    """Return the parent of the process *pid*. Raises ``OSError`` when it is gone, and where there is no ``/proc``."""
    descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:  # the name in parentheses may hold anything; the state and the parent follow it
        return int(os.read(descriptor, 4096).rpartition(b")")[2].split()[1])
    finally:
        os.close(descriptor)


def descendants(root: int) -> list[int]:
    """Return all that descend from the process *root*, parents before their children; also those just dead."""
    children: dict[int, list[int]] = {}
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
    found = list(children.get(root, ()))
    for pid in found:  # it grows meanwhile
        found += children.get(pid, ())
    return found


def freeze_descendants(root: int) -> list[int]:
    """Stop all that descends from *root*, until no new one turns up; returns them.

    Who is stopped cannot fork, and cannot have its children's numbers given to other processes.
    """
    frozen: list[int] = []
    while new := [pid for pid in descendants(root) if pid not in frozen]:
        for pid in new:
            send_signal(pid, signal.SIGSTOP)
        frozen += new
    return frozen


def end_all_descendants(reap: Callable[[], bool], limit_s: float) -> bool:
    """Kill what descends from this process, which adopts orphans, until nothing is left.

    *reap* takes the exit statuses of who has died and returns whether children are left. False when something outlives
    *limit_s* seconds: a process in an uninterruptible sleep of the kernel.
    """
    give_up_at = time.monotonic() + limit_s
    pause_s = _PAUSE_S
    while reap():
        for pid in freeze_descendants(os.getpid()):
            send_signal(pid, signal.SIGKILL)
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(pause_s)  # a large one takes its time to give its memory back
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return True


def send_signal(pid: int, number: int) -> None:
    """Signal the process *pid*, which may be gone, or have become somebody else's (setuid)."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def send_signal_to_group(leader: int, number: int) -> None:
    """Signal the process group that *leader* leads, which may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _processes() -> Iterator[tuple[int, int]]:
    """Yield (process, its parent) for every process that can be seen."""
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with contextlib.suppress(OSError):  # it ended meanwhile
                    yield int(entry.name), parent_of(int(entry.name))


def _prctl(option: int, value: int) -> bool:
    with contextlib.suppress(OSError, AttributeError):  # only Linux has it
        return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)
    return False
