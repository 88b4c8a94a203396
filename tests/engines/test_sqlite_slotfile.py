"""The slot file of a worker: what a full disk does to it."""

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from thirdshift.engines.sqlite.slotfile import SlotFile
from thirdshift.testing.torture.room import can_mount, small_filesystem

WORKER = """
import os, sys
from pathlib import Path
from thirdshift.core.errors import StoreFull
from thirdshift.core.task import Claim
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.testing.clock import FakeClock
from thirdshift.testing.torture.workload import task_id

folder = Path(sys.argv[1])
engine = SQLiteEngine.shared(folder / "tasks.db", clock=FakeClock())
with open(folder / "filler", "wb", buffering=0) as filler:
    try:
        while filler.write(bytes(4096)):
            pass
    except OSError:
        pass
try:
    worker = engine.register(slots=4)
except StoreFull as error:
    print("refused:", error, flush=True)
else:
    worker.note_progress(0)
    print("registered", flush=True)
os._exit(0)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    if not can_mount():
        pytest.skip("nothing may be mounted here")
    with small_filesystem(tmp_path, 512 * 1024):
        yield tmp_path


def test_a_worker_that_starts_on_a_full_disk_is_refused_and_not_killed(small_disk: Path) -> None:
    """Its slots have room, or it does not start: a note in a file without room would end the process by SIGBUS."""
    done = subprocess.run([sys.executable, "-c", WORKER, small_disk], capture_output=True, text=True, check=False)
    assert done.returncode != -signal.SIGBUS
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused:")
    assert "full" in done.stdout


def test_the_slots_have_their_room_from_the_beginning(tmp_path: Path) -> None:
    """Whatever is written later, the disk has it already."""
    slots = SlotFile(tmp_path / "slots", 3 * resource.getpagesize())
    found = (tmp_path / "slots").stat()
    slots.close()
    assert found.st_blocks * 512 >= found.st_size
