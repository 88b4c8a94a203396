"""The transactions that applications of this process have open on our files: who waits for a lock asks whose it is."""

import os
import threading
import time
from contextvars import ContextVar
from pathlib import Path

from thirdshift.core.errors import UsageError


class OpenBlock:
    """One transaction, from its BEGIN to its end. *path* is ``None`` for any other database."""

    __slots__ = ("begun_at", "connection", "path", "thread_name")

    def __init__(self, path: Path | None, connection: object) -> None:
        self.path = path
        self.connection = connection
        self.begun_at = time.monotonic()
        self.thread_name = threading.current_thread().name


_open: set[OpenBlock] = set()
_around: ContextVar[tuple[OpenBlock, ...]] = ContextVar("thirdshift_transactions", default=())
"""Those that this thread, or coroutine, is inside of; also what it calls in other threads of ours."""


def enter(path: Path | None, connection: object) -> OpenBlock:
    """Note that this context is inside a transaction of *connection* on *path* from now on."""
    block = OpenBlock(path, connection)
    _open.add(block)
    _around.set((*_around.get(), block))
    return block


def leave(block: OpenBlock) -> None:
    """Note that the transaction is over. A generator may be left in another context than it was entered in."""
    _open.discard(block)
    _around.set(tuple(other for other in _around.get() if other is not block))


def is_inside(connection: object) -> bool:
    """Return whether this context is inside a transaction of *connection*."""
    return any(block in _open and block.connection is connection for block in _around.get())


def refuse_inside(path: Path) -> None:
    """Raise ``UsageError`` where a wait for the write lock of *path* would be one for the caller's own end."""
    if _open and any(block in _open and block.path == path for block in _around.get()):
        raise UsageError(
            f"a transaction on {path} is open around this call and holds its write lock, so this would wait for ever. "
            "Use tx.submit (in coroutines tx.asubmit) inside the block, or make the call after it; nothing was written."
        )


def holder(path: Path) -> str | None:
    """Return which transaction of this process holds the write lock of *path*, ``None`` when it is somebody else's."""
    for block in list(_open):
        if block.path == path:
            age_s = time.monotonic() - block.begun_at
            return f"a transaction of this process, open for {age_s:.1f} s (thread {block.thread_name})"
    return None


os.register_at_fork(after_in_child=_open.clear)
