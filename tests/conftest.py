"""What holds for every test."""

import signal


def pytest_configure() -> None:
    """Let Ctrl-C reach the programs that tests start: a shell has what it runs in the background ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
