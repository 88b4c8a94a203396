"""A lock file belongs to one living process at a time."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from thirdshift.host.lock import FileLock, held_by_somebody, read_pid, remove_if_free

HOLDER = """
import sys
from pathlib import Path
from thirdshift.host.lock import FileLock
lock = FileLock(Path(sys.argv[1]))
print(lock.try_acquire(), flush=True)
sys.stdin.read()
"""

FORKER = """
import os, sys
from pathlib import Path
from thirdshift.host.lock import FileLock, held_by_somebody
lock = FileLock(Path(sys.argv[1]))
assert lock.try_acquire()
heard, say = os.pipe()
stay, leave = os.pipe()
child = os.fork()
if child == 0:
    os.close(leave)
    lock.release()
    os.write(say, b"held" if lock.held else b"free")
    os.read(stay, 1)  # lives on until the parent closes its end
    os._exit(0)
print("child:", os.read(heard, 4).decode())
print("parent:", "held" if held_by_somebody(lock.path) else "free")
lock.release()
print("released:", "held" if held_by_somebody(lock.path) else "free")
os.close(leave)
assert os.waitpid(child, 0)[1] == 0
"""

RACER = """
import sys
from pathlib import Path
from thirdshift.host.lock import FileLock, held_by_somebody
path, claims, wanted = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
won = 0
while won < wanted:
    lock = FileLock(path)
    held_by_somebody(path)
    if lock.try_acquire():
        claims.mkdir()  # fails when two hold the lock at once
        claims.rmdir()
        won += 1
        lock.release()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "the.lock"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until it is killed or its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_a_second_holder_is_refused_until_the_first_releases(path: Path) -> None:
    """Two objects on one path never hold at once, not even in one process."""
    first, second = FileLock(path), FileLock(path)
    assert first.try_acquire()
    assert (first.held, second.held) == (True, False)
    assert not first.try_acquire()
    assert not second.try_acquire()
    first.release()
    assert second.try_acquire()
    assert (first.held, second.held) == (False, True)
    second.release()


def test_the_lock_file_is_private_whatever_the_umask(path: Path) -> None:
    """The file is readable and writable by its owner alone."""
    before = os.umask(0)
    try:
        with FileLock(path):
            assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_another_process_is_refused_and_told_the_pid(path: Path, holder: subprocess.Popen[str]) -> None:
    """The holder's PID can be read for a message."""
    lock = FileLock(path)
    assert held_by_somebody(path)
    assert not lock.try_acquire()
    assert lock.read_pid() == holder.pid
    with pytest.raises(BlockingIOError, match=str(holder.pid)), lock:
        pass


def test_the_lock_is_free_at_once_after_its_holder_is_killed(path: Path, holder: subprocess.Popen[str]) -> None:
    """kill -9 leaves a PID in the file and no lock on it."""
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert read_pid(path) == holder.pid
    assert not held_by_somebody(path)
    with FileLock(path) as lock:
        assert lock.read_pid() == os.getpid()


def test_asking_makes_no_file_and_takes_no_lock(path: Path) -> None:
    """Where there is no lock file nobody holds it, and asking leaves none behind."""
    assert not held_by_somebody(path)
    assert not path.exists()
    with FileLock(path):
        assert held_by_somebody(path)
    assert not held_by_somebody(path)
    assert path.read_bytes() == b""


def test_a_forked_child_neither_holds_nor_frees_the_lock(path: Path) -> None:
    """The child of a fork cannot keep its parent's lock alive, and its own release does not free it."""
    output = subprocess.check_output([sys.executable, "-c", FORKER, str(path)], text=True)
    assert output.split() == ["child:", "free", "parent:", "held", "released:", "free"]


def test_a_started_program_does_not_inherit_the_lock(path: Path) -> None:
    """A program started by the holder outlives it without keeping the lock."""
    lock = FileLock(path)
    assert lock.try_acquire()
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, close_fds=False) as program:
        lock.release()
        assert FileLock(path).try_acquire()
        program.communicate()


def test_of_many_processes_one_at_a_time_holds_it(path: Path, tmp_path: Path) -> None:
    """Processes that race for the lock, asking about it all the while, never hold it together; all get it."""
    arguments = [sys.executable, "-c", RACER, str(path), str(tmp_path / "claim"), "250"]
    racers = [subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate()
    assert [racer.returncode for racer in racers] == [0, 0, 0, 0]


def test_asking_never_makes_an_acquirer_fail(path: Path) -> None:
    """While another thread asks without pause, a free lock is always acquired."""
    path.touch()
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            held_by_somebody(path)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        for _ in range(500):
            with FileLock(path):
                pass
    finally:
        done.set()
        asker.join()


def test_a_lock_file_removed_under_its_holder_keeps_nobody_in(path: Path) -> None:
    """A lock on an unlinked file does not count: who comes next locks the file that has the name now."""
    with FileLock(path):
        assert not remove_if_free(path)
        assert path.exists()
    assert remove_if_free(path)
    assert not path.exists()
    assert remove_if_free(path)


def test_a_symbolic_link_or_a_fifo_is_no_lock_file(path: Path, tmp_path: Path) -> None:
    """What somebody else laid at the place of the lock is refused, not followed and not waited for."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"precious")
    path.symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic link") as refusal:
        FileLock(path).try_acquire()
    assert refusal.value.errno == errno.ELOOP
    assert elsewhere.read_bytes() == b"precious"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="regular file"):
        FileLock(path).try_acquire()
