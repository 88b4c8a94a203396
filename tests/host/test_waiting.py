"""A loop sleeps on signals, on whatever can be read, and on time."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from thirdshift.host.signals import StopSignals
from thirdshift.host.waiting import LoopWait, Waker

pytestmark = pytest.mark.alone

LONG_S = 60
"""Longer than the test may take: a wait that is not ended fails it."""


@pytest.fixture
def signals() -> Iterator[StopSignals]:
    with StopSignals() as signals:
        yield signals


@pytest.fixture
def waker() -> Iterator[Waker]:
    waker = Waker()
    yield waker
    waker.close()


class Broken(Waker):
    """A source that cannot be drained."""

    def drain(self) -> None:
        raise OSError("the descriptor is gone")


def test_time_passes_when_nothing_happens(signals: StopSignals) -> None:
    """The fall-back of a loop that nobody wakes."""
    with LoopWait(signals) as loop:
        began = time.monotonic()
        loop.wait(0.02)
        assert time.monotonic() - began >= 0.019


def test_a_signal_ends_the_wait(signals: StopSignals) -> None:
    """Also every further one: whoever is told to stop does not sleep again."""
    with LoopWait(signals) as loop:
        os.kill(os.getpid(), signal.SIGTERM)
        loop.wait(LONG_S)
        loop.wait(LONG_S)
        assert signals.stop_requested


def test_any_thread_wakes_the_loop(signals: StopSignals, waker: Waker) -> None:
    """While it sleeps or before it does; once for all calls that came together."""
    with LoopWait(signals) as loop:
        loop.add(waker)
        for _ in range(100_000):  # more than a pipe holds
            waker.wake()
        loop.wait(LONG_S)
        loop.wait(0)
        threading.Timer(0.01, waker.wake).start()
        loop.wait(LONG_S)
        assert not signals.stop_requested


def test_several_sources_are_drained_together(signals: StopSignals, waker: Waker) -> None:
    """Each of those that are readable."""
    other = Waker()
    with LoopWait(signals) as loop:
        for source in (waker, other):
            loop.add(source)
            source.wake()
        loop.wait(LONG_S)
        began = time.monotonic()
        loop.wait(0.02)
        assert time.monotonic() - began >= 0.019, "nothing is readable any more"
    other.close()


def test_a_source_that_fails_does_not_stop_the_loop(
    signals: StopSignals, waker: Waker, caplog: pytest.LogCaptureFixture
) -> None:
    """It is dropped and told, and the others still wake it."""
    broken = Broken()
    with LoopWait(signals) as loop:
        loop.add(broken)
        loop.add(waker)
        broken.wake()
        loop.wait(LONG_S)
        assert "the descriptor is gone" in caplog.text
        began = time.monotonic()
        loop.wait(0.02)
        assert time.monotonic() - began >= 0.019, "a broken source keeps no loop awake"
        waker.wake()
        loop.wait(LONG_S)
    broken.close()


def test_the_loop_knows_how_long_it_did_not_look(signals: StopSignals) -> None:
    """What lies between two waits; nothing is known before the second."""
    with LoopWait(signals) as loop:
        loop.wait(0)
        assert loop.gaps_ms() == {}
        threading.Event().wait(0.02)
        loop.wait(0)
        assert 20 <= loop.gaps_ms()["longest"] < 20_000
        for _ in range(1000):
            loop.wait(0)
        assert loop.gaps_ms()["p50"] < 20, "only the newest thousand count"
