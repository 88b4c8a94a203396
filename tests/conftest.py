"""What holds for every test."""

import json
import os
import signal
from pathlib import Path

import pytest

from thirdshift.config.environment import VARIABLES

_OUTCOMES = ("failed", "passed", "skipped", "xfailed", "xpassed", "error")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let ``make test`` choose a phase, and learn what became of its tests (``phases.py``)."""
    parser.addoption("--phase", choices=["together", "alone"], help="only tests not marked alone, or only those")
    parser.addoption("--tally", type=Path, help="the file for the number of tests of each outcome, as JSON")


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write the numbers that stand in pytest's closing line."""
    tally = config.getoption("--tally")
    if tally is not None:
        found = {outcome: len(terminalreporter.getreports(outcome)) for outcome in _OUTCOMES}
        tally.write_text(json.dumps({outcome: number for outcome, number in found.items() if number}))
