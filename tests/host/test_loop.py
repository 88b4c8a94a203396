"""What is done beside a worker: again and again, woken, stopped, and not ended by what goes wrong."""

import logging
from queue import SimpleQueue

import pytest

from thirdshift.core.errors import StoreError
from thirdshift.host.loop import Loop

LONG_S = 120.0


def test_it_ticks_again_when_it_is_woken_and_never_after_its_stop() -> None:
    """Long before the seconds that the tick asked for."""
    ticks: SimpleQueue[int] = SimpleQueue()

    def tick() -> float:
        ticks.put(1)
        return LONG_S

    loop = Loop("test", tick, retry_s=LONG_S)
    loop.start()
    for _ in range(3):
        ticks.get(timeout=LONG_S)
        loop.wake()
    ticks.get(timeout=LONG_S)
    loop.stop()
    loop.wake()
    assert ticks.empty()


def test_it_is_stopped_before_its_first_tick() -> None:
    """While it waits for that; and one that never began is stopped at once."""
    ticks: list[int] = []
    for begins in (True, False):
        loop = Loop("test", lambda: ticks.append(1) or LONG_S, first_s=LONG_S, retry_s=LONG_S)
        if begins:
            loop.start()
        loop.stop()
    assert ticks == []


def test_no_error_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    """What the store says is told by the worker; a fault of ours is logged."""
    ticks: SimpleQueue[int] = SimpleQueue()
    errors: list[Exception] = [StoreError("the disk is full"), KeyError("x")]

    def tick() -> float:
        if errors:
            raise errors.pop(0)
        ticks.put(1)
        return LONG_S

    loop = Loop("test", tick, retry_s=0.001)
    with caplog.at_level(logging.ERROR):
        loop.start()
        ticks.get(timeout=LONG_S)
        loop.stop()
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == ("thirdshift.test", "test.failed")
