"""The status is one whole document of plain JSON, at any moment."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from thirdshift.apps.training.service.status import StatusFile, training_status
from thirdshift.apps.training.service.status_writer import StatusWriter
from thirdshift.core.status import TaskStatus
from thirdshift.host.disk import DiskState

WRITER = """
import sys
from pathlib import Path
from thirdshift.apps.training.service.status import StatusFile
file = StatusFile(Path(sys.argv[1]))
number = 0
while True:
    file.write({"number": number, "padding": [number] * 5000})
    if number == 0:
        print("ready", flush=True)
    number += 1
"""

KEYS = "state reason pid started_at updated_at training queue background_tasks disk last_error loop"


def test_the_document_has_the_promised_keys_and_null_for_what_is_unknown() -> None:
    """jq '.background_tasks' always finds a key."""
    document = training_status(state="idle", pid=12, started_at=1_800_000_000, clock=lambda: 1_800_000_060.5)
    assert " ".join(document) == KEYS
    assert document["state"] == "idle"
    assert document["pid"] == 12
    assert document["started_at"] == "2027-01-15T08:00:00.000000+00:00"
    assert document["updated_at"] == "2027-01-15T08:01:00.500000+00:00"
    assert document["training"] is None


def test_everything_becomes_plain_json() -> None:
    """Also a loss that is not a number, times of other zones, paths, words of an enumeration and data classes."""
    document = training_status(
        state="training",
        reason="a.jsonl",
        pid=1,
        started_at=0,
        training={
            "loss": math.nan,
            "tokens_per_s": math.inf,
            "step": 3,
            "path": Path("/a/b"),
            "since": datetime(2027, 1, 1, 12, tzinfo=timezone(timedelta(hours=2))),
            "levels": (1, 2),
        },
        background_tasks={"running": [{"status": TaskStatus.RUNNING}]},
        disk=DiskState(free_gb=12.5, total_gb=100, level="low"),
        last_error="it broke",
    )
    json.dumps(document, allow_nan=False)
    assert document["training"] == {
        "loss": "nan",
        "tokens_per_s": "inf",
        "step": 3,
        "path": "/a/b",
        "since": "2027-01-01T10:00:00.000000+00:00",
        "levels": [1, 2],
    }
    assert document["background_tasks"] == {"running": [{"status": "running"}]}
    assert document["disk"] == {"free_gb": 12.5, "total_gb": 100, "level": "low"}
    assert document["last_error"] == "it broke"


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """The file is private and has no temporary beside it."""
    file = StatusFile(tmp_path / "training_status.json")
    file.write({"state": "idle"})
    file.write({"state": "training"})
    assert file.read() == {"state": "training"}
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file.path]


def test_what_cannot_be_read_is_nothing(tmp_path: Path) -> None:
    """Missing, empty, cut or no object: a reader is told that there is no status, and nothing raises."""
    file = StatusFile(tmp_path / "training_status.json")
    assert file.read() is None
    for content in (b"", b'{"state": ', b"[1]", b"\xff"):
        file.path.write_bytes(content)
        assert file.read() is None


def test_a_reader_never_sees_half_a_document(tmp_path: Path) -> None:
    """While it is rewritten without pause, and after kill -9 of the writer."""
    file = StatusFile(tmp_path / "training_status.json")
    with subprocess.Popen([sys.executable, "-c", WRITER, str(file.path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        seen: set[int] = set()
        while len(seen) < 20:
            document = file.read()
            assert document is not None
            assert document["padding"] == [document["number"]] * 5000
            seen.add(document["number"])
        os.kill(writer.pid, signal.SIGKILL)
    assert file.read() is not None


def test_a_loop_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    """A thread writes; the last status is there at the end, and an error is told to whoever gives the next one."""
    file = StatusFile(tmp_path / "status" / "training_status.json")
    writer = StatusWriter(file)

    def write_until_told() -> None:
        while True:
            writer.write({"state": "training"})

    with pytest.raises(FileNotFoundError, match="training_status"):
        write_until_told()
    file.path.parent.mkdir()
    with contextlib.suppress(FileNotFoundError):  # that of one more write before the folder was there
        writer.write({"state": "stopped"})
    writer.close()
    assert file.read() == {"state": "stopped"}


def test_a_last_status_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """Nobody gives another one that could tell of it."""
    writer = StatusWriter(StatusFile(tmp_path / "status" / "training_status.json"))
    writer.write({"state": "stopped"})
    with pytest.raises(FileNotFoundError, match="training_status"):
        writer.close()
