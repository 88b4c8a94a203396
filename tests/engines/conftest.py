"""What the tests of the embedded engine share: a file, engines on it, and connections of strangers."""

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.testing.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database will lie."""
    return tmp_path / "tasks.db"


@pytest.fixture
def engine(path: Path, clock: FakeClock) -> Iterator[SQLiteEngine]:
    engine = SQLiteEngine.shared(path, clock=clock)
    yield engine
    engine.close()


@pytest.fixture
def stranger(path: Path) -> Iterator[Callable[[], sqlite3.Connection]]:
    """Opens connections as any other program would."""
    with contextlib.ExitStack() as stack:

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            return stack.enter_context(contextlib.closing(connection))

        yield connect


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts small file systems of their own, where that is allowed."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system of its own needs root")
    points: list[Path] = []

    def mount(options: str) -> Path:
        point = tmp_path / f"mount-{len(points)}"
        point.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", point], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"this machine lets nobody mount: {done.stderr.strip()}")
        points.append(point)
        return point

    yield mount
    for point in points:
        subprocess.run(["umount", point], check=True)
