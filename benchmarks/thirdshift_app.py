"""Ourselves in a process of our own: a worker with four threads."""

import sys
import time

from thirdshift import BackgroundTaskManager


def serve(database: str, max_workers: int | None = None) -> None:
    """Work until standard input ends."""
    with BackgroundTaskManager(database=database, max_workers=max_workers):
        sys.stdin.read()


def drain(database: str, max_workers: int = 4, *, monitor_enabled: bool = True) -> float:
    """Run all that is there; returns the seconds from the worker's start to the last row."""
    started = time.perf_counter()
    with BackgroundTaskManager(database=database, max_workers=max_workers, monitor_enabled=monitor_enabled) as manager:
        manager.shutdown(drain=True)
    return time.perf_counter() - started
