"""What holds for every test."""

import os
import signal

from thirdshift.config.environment import VARIABLES


def pytest_configure() -> None:
    """Begin as on a fresh machine: nothing is configured, and Ctrl-C reaches the programs that tests start.

    A shell has what it runs in the background ignore Ctrl-C, which the children inherit.
    """
    for name in VARIABLES:
        os.environ.pop(name, None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
