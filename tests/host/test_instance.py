"""Two daemons never run on one workspace."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from thirdshift.core.errors import AlreadyRunning
from thirdshift.host.instance import PIDManager

DAEMON = """
import sys
from pathlib import Path
from thirdshift.host.instance import PIDManager
with PIDManager(Path(sys.argv[1])):
    print("running", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def pid_file(tmp_path: Path) -> Path:
    return tmp_path / ".pids" / "daemon.pid"


def test_the_pid_file_names_the_running_daemon(pid_file: Path) -> None:
    """A person reads the PID with cat; the folder and the file are private."""
    with PIDManager(pid_file):
        assert pid_file.read_text() == f"{os.getpid()}\n"
        assert pid_file.parent.stat().st_mode & 0o777 == 0o700
        assert pid_file.stat().st_mode & 0o777 == 0o600


def test_a_second_daemon_is_refused_with_the_pid_of_the_first_and_starts_after_its_kill(pid_file: Path) -> None:
    """While one runs the second is told which; after kill -9 of the first it starts at once."""
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(pid_file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "running\n"
        second = PIDManager(pid_file, "the training daemon")
        with pytest.raises(AlreadyRunning, match=f"the training daemon is already running .process {first.pid}") as no:
            second.acquire()
        assert no.value.pid == first.pid
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        with second:
            assert pid_file.read_text() == f"{os.getpid()}\n"


def test_the_pid_of_a_living_stranger_in_the_file_stops_nobody(pid_file: Path) -> None:
    """A stale file with a PID that is in use again is no obstacle: the number decides nothing."""
    pid_file.parent.mkdir()
    pid_file.write_text(f"{os.getppid()}\n")
    with PIDManager(pid_file):
        pass


def test_releasing_lets_the_next_one_start(pid_file: Path) -> None:
    """Release may be called twice, and by one that never acquired."""
    first, second = PIDManager(pid_file), PIDManager(pid_file)
    second.release()
    first.acquire()
    second.release()
    with pytest.raises(AlreadyRunning):
        second.acquire()
    first.release()
    first.release()
    second.acquire()
    second.release()
