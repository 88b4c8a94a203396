"""Work that must cost the machine nothing runs only while nobody else wants to."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from thirdshift.host.processes import descendants

_AUTOGROUP = Path("/proc/self/autogroup")


@contextlib.contextmanager
def idle_priority() -> Iterator[None]:
    """Run at idle priority inside the ``with`` block: the processor and the disk are used only when free.

    On Linux this is ``SCHED_IDLE`` for the calling thread and every thread and process it starts from here on, so
    enter it first thing in a child process. The disk follows by itself: the kernel gives a ``SCHED_IDLE`` thread the
    idle I/O class unless somebody set another. On leaving, the old policy comes back where the system allows it: an
    unprivileged process whose ``RLIMIT_NICE`` is 0 (the usual default) stays idle.

    The kernel may share the processor among sessions first (``sched_autogroup_enabled``, which desktops have on), and
    an idle thread takes all that its session gets. So a session that holds nobody else is made as nice as can be too.

    Elsewhere (macOS) it is ``nice 19``, which is never taken back. Enter it, there and as an unprivileged user, only
    in a process that ends with this work.
    """
    if sys.platform != "linux":
        os.nice(19)
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    is_alone = _is_alone_in_session()
    if is_alone:
        _set_session_nice(19)
    try:
        yield
    finally:
        if is_alone:
            _set_session_nice(0)
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, policy, parameters)


def _set_session_nice(value: int) -> None:
    with contextlib.suppress(OSError):  # no such sharing here, or not allowed
        _AUTOGROUP.write_text(f"{value}\n")


def _is_alone_in_session() -> bool:
    """Whether no process that matters to others shares our session: only its leader, if that is our parent, and ours.

    A session with a terminal is a person's.
    """
    own = os.getpid()
    _, tty = _session_of(own)
    if tty != 0 or not _AUTOGROUP.exists():
        return False
    session = os.getsid(0)
    ours = {own, *descendants(own), *({os.getppid()} & {session})}
    return all(_session_of(pid)[0] != session for pid in _pids() if pid not in ours)


def _session_of(pid: int) -> tuple[int, int]:
    """Return session and terminal of a process, -1 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return -1, -1
    return int(fields[3]), int(fields[4])


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
