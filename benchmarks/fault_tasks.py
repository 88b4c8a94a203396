"""The tasks of the fault demonstrations; each says in a log of its own that it starts and that it ends.

That log is the judge: lines are appended by one write each, which survives the death of the process, and no library
takes part. Imports nothing of ours: what a peer's worker loads is the peer's.
"""

import os
import signal
import time
from collections.abc import Callable

CHILD = 1_000_000
"""A child submits the task of this number more than its parent's."""


def note(log: str, word: str, number: int) -> None:
    """Append one line: what, of which task, in which process, when on the clock that all processes share."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{word} {number} {os.getpid()} {time.monotonic()}\n".encode())
    os.close(descriptor)


def work(log: str, number: int, seconds: float) -> None:
    """Take so many seconds."""
    note(log, "start", number)
    time.sleep(seconds)
    note(log, "end", number)


def poison(log: str, number: int, _seconds: float) -> None:
    """Kill the process that runs it, every time."""
    note(log, "start", number)
    os.kill(os.getpid(), signal.SIGKILL)


def fork(log: str, number: int, submit: Callable[[int], object] | None) -> None:
    """Fork a child that ends at once, or that submits a task by what it has inherited."""
    note(log, "start", number)
    child = os.fork()
    if child == 0:
        if submit is None:
            os._exit(0)
        try:
            submit(number + CHILD)
            note(log, "sent", number + CHILD)
        except Exception as error:  # noqa: BLE001  # whatever it is: a submit that is refused is no acknowledgement
            note(log, "refused", number + CHILD)
            with open(f"{log}-refusals", "a") as refusals:
                refusals.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    note(log, "end", number)
