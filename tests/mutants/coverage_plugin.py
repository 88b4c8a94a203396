"""A plugin of pytest: which test runs which line of the modules to be mutated, and how long each test takes.

Each process of the run leaves one file of coverage data, whose contexts are the tests, and one of what they took.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from coverage import Coverage

_FOLDER = Path(os.environ["MUTANTS_COVERAGE"])
_SOURCES = os.environ["MUTANTS_SOURCES"].split(os.pathsep)


class _Recorder:
    def __init__(self) -> None:
        self._coverage = Coverage(data_file=_FOLDER / f"lines-{os.getpid()}", source=_SOURCES, config_file=False)
        self._coverage.start()
        self._took_s: dict[str, float] = {}
        self._passed: dict[str, bool] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.switch_context(item.nodeid)
        began = time.monotonic()
        try:
            return (yield)
        finally:
            self._took_s[item.nodeid] = time.monotonic() - began
            self._coverage.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._passed[report.nodeid] = self._passed.get(report.nodeid, True) and report.passed

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        self._coverage.save()
        took = {test: seconds for test, seconds in self._took_s.items() if self._passed.get(test)}
        (_FOLDER / f"took-{os.getpid()}.json").write_text(json.dumps(took))


def pytest_configure(config: pytest.Config) -> None:
    """Record in the processes that run tests; with xdist that is not the first one."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.register(_Recorder(), "thirdshift-mutants")
