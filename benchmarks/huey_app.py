"""The huey peer: a no-op task, one that returns when it ran, and its consumer with four threads."""

from typing import Any

from functions import moment, noop
from huey import SqliteHuey


def make(database: str, fsync: bool) -> tuple[Any, Any, Any]:
    """Return (no-op task, moment task, huey) on *database*."""
    queue = SqliteHuey(filename=database, fsync=fsync)
    return queue.task(name="noop")(noop), queue.task(name="moment")(moment), queue


def serve(database: str, fsync: str) -> None:
    """Run a consumer until it is told to stop."""
    from huey.consumer import Consumer  # noqa: PLC0415  # the submitting side does not need it

    Consumer(make(database, fsync == "True")[2], workers=4, worker_type="thread").run()
