"""Work that must cost the machine nothing runs only while nobody else wants to."""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def idle_priority() -> Iterator[None]:
    """Run at idle priority inside the ``with`` block: the processor and the disk are used only when free.

    On Linux this is ``SCHED_IDLE`` for the calling thread and every thread and process it starts from here on, so
    enter it first thing in a child process. The disk follows by itself: the kernel gives a ``SCHED_IDLE`` thread the
    idle I/O class unless somebody set another. On leaving, the old policy comes back where the system allows it: an
    unprivileged process whose ``RLIMIT_NICE`` is 0 (the usual default) stays idle.

    Elsewhere (macOS) it is ``nice 19``, which is never taken back. Enter it, there and as an unprivileged user, only
    in a process that ends with this work.
    """
    if sys.platform != "linux":
        os.nice(19)
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, policy, parameters)
