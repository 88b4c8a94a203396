"""The functions that all sides run. Imports nothing of ours: what a peer's worker loads is the peer's."""

import os
import time
from pathlib import Path


def noop(number: object = 0) -> object:
    return number


async def anoop(number: object = 0) -> object:
    return number


def moment(_number: object = 0) -> float:
    """Return when it ran, on the clock that all processes of the machine share."""
    return time.monotonic()


def log_start(path: str) -> None:
    """Append when it started and its process to *path*, then take a minute."""
    with Path(path).open("a") as log:
        log.write(f"{time.monotonic()} {os.getpid()}\n")
    time.sleep(60)
