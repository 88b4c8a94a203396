"""The installed command, run as people run it: a process of its own, with its output in a pipe."""

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from thirdshift import BackgroundTaskManager

COMMAND = str(Path(sys.executable).with_name("thirdshift"))
FUNCTIONS = """
import dataclasses
import math


@dataclasses.dataclass
class Letter:
    to: str


def add(one, other=0):
    return one + other


def fail(text):
    raise ValueError(text)


def numbers():
    return {"infinite": math.inf, "none": math.nan, "pair": (1, {2})}


def read(letter):
    return letter.to


def speak():
    from thirdshift import current_task

    print("printed")
    current_task().log.info("logged")


def wait():
    from thirdshift import current_task

    while not current_task().should_stop:
        pass
"""


@dataclass(frozen=True)
class Shell:
    """Runs ``thirdshift`` on one workspace, from a folder that holds ``functions.py``."""

    workspace: Path
    folder: Path

    def __call__(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "THIRDSHIFT_WORKSPACE": str(self.workspace)}
        command = [COMMAND, *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
            cwd=self.folder,
            env=environment,
            **options,
        )

    def on_a_terminal(self, answer: str, *arguments: str) -> tuple[int, str, str]:
        """Run it before a person who types *answer*; returns the exit code, what it printed, and what they saw."""
        ours, theirs = pty.openpty()
        environment = {**os.environ, "THIRDSHIFT_WORKSPACE": str(self.workspace), "TERM": "xterm"}
        with subprocess.Popen(
            [COMMAND, *arguments], stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            os.close(theirs)
            os.write(ours, answer.encode())
            printed, _ = process.communicate(timeout=180)
        seen = b""
        with contextlib.suppress(OSError):  # the terminal is gone with the process
            while piece := os.read(ours, 10_000):
                seen += piece
        os.close(ours)
        return process.returncode, printed, seen.decode()

    def json(self, *arguments: str) -> Any:
        """Return the one document on standard output."""
        done = self("--json", *arguments)
        return json.loads(done.stdout)

    def submit(self, *arguments: str) -> str:
        """Submit a call; returns the task's id."""
        done = self("submit", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @property
    def database(self) -> Path:
        return self.workspace / "thirdshift.db"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell in a folder with task functions, and an empty workspace."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "functions.py").write_text(FUNCTIONS)
    (tmp_path / "shift").mkdir()
    return Shell(tmp_path / "shift", folder)


@pytest.fixture
def work(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], BackgroundTaskManager]]:
    """Starts a worker of the workspace in this process; it stops with the test."""
    monkeypatch.syspath_prepend(str(shell.folder))
    managers: list[BackgroundTaskManager] = []

    def start() -> BackgroundTaskManager:
        managers.append(BackgroundTaskManager("process", 1, database=shell.database, shutdown_timeout_seconds=5))
        return managers[-1]

    yield start
    for manager in managers:
        manager.shutdown()
