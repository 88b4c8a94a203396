"""Whether a process still has a file open for writing: the kernel knows, and a lease asks it (Linux)."""

import errno
import fcntl
import os
import signal
from pathlib import Path

_SET_SIGNAL = 10
"""``F_SETSIG``, which Python names since 3.13 only."""


def is_open_for_writing(path: Path) -> bool | None:
    """Say whether any process has *path* open for writing, or mapped so; ``None`` where nobody can tell.

    The kernel grants a read lease only on a file that nobody writes to; it is given back at once. A writer that comes
    in between waits that moment, and the signal that tells us of it is one that does nothing. It takes the file's
    owner or root, and a file system with leases (not NFS). Raises :class:`OSError` when *path* cannot be opened.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.fcntl(descriptor, _SET_SIGNAL, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    finally:
        os.close(descriptor)
    return False
