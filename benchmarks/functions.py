"""The functions that all sides run. Imports nothing of ours: what a peer's worker loads is the peer's."""

import time


def noop(number: object = 0) -> object:
    return number


def moment(_number: object = 0) -> float:
    """Return when it ran, on the clock that all processes of the machine share."""
    return time.monotonic()
