"""The huey peer: one no-op task, and its consumer with four threads."""

from typing import Any

from huey import SqliteHuey


def make(database: str) -> tuple[Any, Any]:
    """Return (task, huey) on *database*."""
    queue = SqliteHuey(filename=database)

    @queue.task(name="noop")
    def run(number: int) -> int:
        return number

    return run, queue


def serve(database: str) -> None:
    """Run a consumer until it is told to stop."""
    from huey.consumer import Consumer  # noqa: PLC0415  # the submitting side does not need it

    Consumer(make(database)[1], workers=4, worker_type="thread").run()
