"""What holds for every test."""

import os
import signal

import pytest

from thirdshift.config.environment import VARIABLES


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let ``make test`` say which tests may run beside others (``phases.py``)."""
    parser.addoption("--phase", choices=["together", "alone"], help="only tests not marked alone, or only those")


def pytest_configure() -> None:
    """Begin as on a fresh machine: nothing is configured, and Ctrl-C reaches the programs that tests start.

    A shell has what it runs in the background ignore Ctrl-C, which the children inherit.
    """
    for name in VARIABLES:
        os.environ.pop(name, None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of the other phase."""
    phase = config.getoption("--phase")
    if phase is not None:
        parts: dict[bool, list[pytest.Item]] = {True: [], False: []}
        for item in items:
            parts[(item.get_closest_marker("alone") is not None) == (phase == "alone")].append(item)
        items[:] = parts[True]
        config.hook.pytest_deselected(items=parts[False])
