"""SIGTERM and SIGINT ask for a stop; a second one ends the process."""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from thirdshift.host.signals import StopSignals

pytestmark = pytest.mark.alone

DAEMON = """
from thirdshift.host.signals import StopSignals
with StopSignals() as signals:
    print("ready", flush=True)
    signals.wait()
    print("stopping", flush=True)
    while True:  # a stop that takes for ever
        signals.wait()
"""


@pytest.fixture
def daemon() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", DAEMON], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_asks_and_the_second_ends(
    daemon: subprocess.Popen[str], number: signal.Signals, code: int
) -> None:
    """A daemon that hangs while stopping ends at the second signal with the exit code of a killed program."""
    assert daemon.stdout is not None
    daemon.send_signal(number)
    assert daemon.stdout.readline() == "stopping\n"
    daemon.send_signal(number)
    assert daemon.wait() == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_stop_says_which_signal_asked_for_it(number: signal.Signals) -> None:
    """The flag is set, the wait ends, and the descriptor stays readable for a loop that selects on it."""
    with StopSignals() as signals:
        assert not signals.stop_requested
        assert not signals.wait(timeout=0)
        os.kill(os.getpid(), number)
        assert signals.wait(timeout=10)
        assert signals.wait(timeout=10)
        assert signals.received is number
        assert select.select([signals], [], [], 0)[0] == [signals]


def test_a_second_signal_of_another_kind_counts_too() -> None:
    """Ctrl-C after systemd's SIGTERM is the second signal; what it calls can be chosen."""
    second: list[int] = []
    with StopSignals(on_second=second.append) as signals:
        signal.raise_signal(signal.SIGTERM)
        assert second == []
        signal.raise_signal(signal.SIGINT)
        assert second == [signal.SIGINT]
        assert signals.received is signal.SIGTERM


def test_the_old_handlers_come_back() -> None:
    """After the block Ctrl-C raises KeyboardInterrupt as before, also when the block failed."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(ZeroDivisionError), StopSignals():
        _ = 1 / 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_any_thread_may_wait() -> None:
    """A thread that waits for the stop wakes up when the main thread receives the signal."""
    with StopSignals() as signals:
        answers: list[bool] = []
        waiter = threading.Thread(target=lambda: answers.append(signals.wait(timeout=30)))
        waiter.start()
        signal.raise_signal(signal.SIGTERM)  # one for the process may go to the waiter, where no handler runs
        waiter.join()
        assert answers == [True]


def test_a_storm_of_signals_while_waiting_neither_deadlocks_nor_raises() -> None:
    """Signals that hit the waiting main thread at any moment are only counted."""
    hits: list[int] = []
    with StopSignals(on_second=hits.append) as signals:
        # Without end: the kernel makes one of signals that arrive before the first is taken, so no number is enough.
        storm = [sys.executable, "-c", "import os\nwhile True: os.kill(os.getppid(), 15)"]
        with subprocess.Popen(storm) as sender:
            while len(hits) < 200:
                signals.wait(timeout=0.001)
            sender.kill()
        assert signals.received is signal.SIGTERM
        assert set(hits) == {signal.SIGTERM}


def test_a_signal_that_another_thread_gets_ends_the_wait_at_once() -> None:
    """The main thread's poll is not interrupted by it: only the descriptor tells."""
    with StopSignals() as signals:

        def send() -> None:
            time.sleep(0.1)  # by then the main thread polls; if it does not, the test shows less and still holds
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # to this thread, never to the main one

        sender = threading.Thread(target=send)
        sender.start()
        assert signals.wait(60)
        sender.join()
    assert signals.received is signal.SIGTERM


def test_another_signal_neither_ends_nor_spins_the_wait() -> None:
    """It is handled, and the wait goes on."""
    heard = []
    old = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert not signals.wait(0.05)
            assert not select.select([signals.fileno()], [], [], 0)[0]
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert heard == [1]


def test_waiting_outside_the_block_is_an_error() -> None:
    """There is nothing to wait for before the handlers are set."""
    with pytest.raises(ValueError, match="with block"):
        StopSignals().wait(timeout=0)
