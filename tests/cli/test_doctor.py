"""`thirdshift doctor`: each danger made for real, and found."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from thirdshift.core.health import has_reset_race
from thirdshift.testing.torture.room import can_mount

CHECKS = (
    *("file_system", "library", "strangers", "permissions", "free_space", "clock"),
    *("stale_workers", "stale_locks", "orphans", "functions"),
)
ORPHAN = """
import ctypes, os, pathlib, signal

def outlive():
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # the kernel is not to end us with our guard
    os.kill(os.getppid(), signal.SIGSTOP)  # and our guard is not to see its worker die
    pathlib.Path("guard").write_text(str(os.getppid()))
    pathlib.Path("guard").rename("out-of-control")
    os.kill(os.getpid(), signal.SIGSTOP)
"""
STRANGER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT count(*) FROM task").fetchone()
print("open", flush=True)
sys.stdin.read()
"""


def findings(shell, *arguments: str) -> dict[str, dict[str, Any]]:
    """Return the findings of the doctor alone: whether anybody works is another question."""
    done = shell("--json", "doctor", *arguments)
    assert done.returncode == 1, done.stderr  # nobody works here
    document = json.loads(done.stdout)
    assert document["level"] == "doctor"
    assert all((finding["do"] is None) is finding["healthy"] for finding in document["findings"])
    return {finding["check"]: finding for finding in document["findings"] if finding["check"] in CHECKS}


def unhealthy(found: dict[str, dict[str, Any]]) -> set[str]:
    return {check for check, finding in found.items() if not finding["healthy"]}


def test_nothing_is_wrong(shell) -> None:
    """Each of its checks is made after those of the health command, and says what it found."""
    shell.submit("functions:add", "1")
    found = findings(shell)
    assert tuple(found) == CHECKS
    assert unhealthy(found) == set()
    assert found["library"]["facts"]["version"] == sqlite3.sqlite_version
    assert found["functions"]["says"] == "1 function of unfinished tasks found"
    assert found["file_system"]["says"].startswith(f"{shell.database} lies on ") or sys.platform != "linux"
    human = shell("doctor")
    assert human.returncode == 1
    assert "NOT   0 workers alive" in human.stdout
    assert "ok    only the owner may read and write the files" in human.stdout


@pytest.fixture
def far(shell) -> Iterator[Path]:
    """The workspace as another machine would serve it: by the real protocol, whose server runs here."""
    sshfs, server = shutil.which("sshfs"), Path("/usr/lib/openssh/sftp-server")
    if sshfs is None or not server.exists() or not can_mount():
        pytest.skip("needs root, sshfs and openssh-sftp-server")
    folder = shell.folder / "far"
    folder.mkdir()
    ours, theirs = socket.socketpair()
    command = [sshfs, "-f", "-o", "passive", f"far:{shell.workspace}", str(folder)]
    with ours, theirs, subprocess.Popen([server], stdin=theirs, stdout=theirs) as serving:
        with subprocess.Popen(command, stdin=ours, stdout=ours, stderr=subprocess.PIPE, text=True) as mounting:
            deadline = time.monotonic() + 30
            while not folder.is_mount():
                assert mounting.poll() is None, mounting.stderr and mounting.stderr.read()
                assert time.monotonic() < deadline
            try:
                yield folder
            finally:
                subprocess.run(["umount", folder], check=True)
        serving.kill()


def test_the_file_lies_on_another_machine(shell, far: Path) -> None:
    """Said with what to do, by the one finding that can be made: nothing is opened and nothing made there."""
    shell.submit("functions:add", "1")
    there = sorted(file.name for file in far.iterdir())
    database = ("--database", str(far / "thirdshift.db"))
    done = shell("--json", "doctor", *database)
    assert done.returncode == 1
    (finding,) = json.loads(done.stdout)["findings"]
    assert (finding["check"], finding["healthy"]) == ("file_system", False)
    assert finding["facts"]["type"] == "fuse.sshfs"
    assert "local disk" in finding["do"]
    human = shell("doctor", *database)
    assert human.returncode == 1
    assert "lies on fuse.sshfs, which another machine serves" in human.stdout
    refused = shell("health", *database)
    assert refused.returncode == 69
    assert "fuse.sshfs, a network file system" in refused.stderr
    shutil.copy(shell.database, far / "another.db")
    assert shell("doctor", "--database", str(far / "another.db")).returncode == 1
    assert sorted(file.name for file in far.iterdir()) == sorted([*there, "another.db"])


def test_another_program_has_the_file_open(shell) -> None:
    """It is named; whether that is a danger depends on the version of SQLite. A manager of ours is no stranger."""
    shell.submit("functions:add", "1")
    with subprocess.Popen(
        [sys.executable, "-c", STRANGER, str(shell.database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "open\n"
        found = findings(shell)
        stranger.communicate()
    if sys.platform != "linux":
        assert found["strangers"]["facts"]["programs"] is None
        return
    assert [program["pid"] for program in found["strangers"]["facts"]["programs"]] == [stranger.pid]
    assert unhealthy(found) == ({"strangers"} if has_reset_race(sqlite3.sqlite_version_info) else set())
    assert findings(shell)["strangers"]["facts"]["programs"] == []


def test_a_worker_and_its_child_are_no_strangers(shell) -> None:
    """They keep the folder beside the file open, the child its lock in it."""
    shell.submit("functions:wait", "--pool", "process")
    command = [str(Path(sys.executable).with_name("thirdshift")), "--workspace", str(shell.workspace), "worker"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=shell.folder) as worker:
        try:
            while shell.json("tasks", "list")[0]["status"] != "running":
                assert worker.poll() is None
            done = shell("--json", "doctor")
        finally:
            worker.kill()
    assert done.returncode == 0, done.stdout
    strangers = next(each for each in json.loads(done.stdout)["findings"] if each["check"] == "strangers")
    assert not strangers["facts"]["programs"]


def started_worker(shell) -> "subprocess.Popen[bytes]":
    """A worker whose one task runs."""
    command = [str(Path(sys.executable).with_name("thirdshift")), "--workspace", str(shell.workspace), "worker"]
    worker = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=shell.folder)
    while shell.json("tasks", "list")[0]["status"] != "running":
        assert worker.poll() is None
    return worker


def test_a_worker_that_was_killed_is_named(shell) -> None:
    """As long as nobody has cleared it away; what it held is another finding."""
    shell.submit("functions:wait")
    with started_worker(shell) as worker:
        worker.kill()
    found = findings(shell)
    assert unhealthy(found) == {"stale_workers"}
    assert [each["pid"] for each in found["stale_workers"]["facts"]["workers"]] == [worker.pid]
    assert str(worker.pid) in found["stale_workers"]["says"]


def test_files_of_workers_that_nobody_knows(shell) -> None:
    """A store that was put back from a backup knows nothing of the workers since; their files are named."""
    shell.submit("functions:wait")
    with started_worker(shell) as worker:
        worker.kill()
    with closing(sqlite3.connect(shell.database, isolation_level=None)) as connection:
        connection.execute("DELETE FROM worker")
    found = findings(shell)
    assert unhealthy(found) == {"stale_locks"}
    files = [Path(file) for file in found["stale_locks"]["facts"]["files"]]
    assert {file.suffix for file in files} >= {".lock", ".slots"}
    for file in files:
        file.unlink()  # as it says
    assert unhealthy(findings(shell)) == set()


@pytest.mark.skipif(sys.platform != "linux", reason="the child needs prctl to get out of control")
def test_a_child_that_has_outlived_its_worker(shell) -> None:
    """It is named, so that somebody can look at it."""
    (shell.folder / "orphan.py").write_text(ORPHAN)
    shell.submit("orphan:outlive", "--pool", "process")
    with started_worker(shell) as worker:
        while not (shell.folder / "out-of-control").exists():
            assert worker.poll() is None
        worker.kill()
    found = findings(shell)
    assert unhealthy(found) == {"stale_workers", "orphans"}
    (orphan,) = found["orphans"]["facts"]["children"]
    assert str(orphan["pid"]) in found["orphans"]["says"]
    os.kill(orphan["pid"], signal.SIGKILL)  # as it says
    os.kill(int((shell.folder / "out-of-control").read_text()), signal.SIGKILL)  # stopped, it would stay for ever


def test_others_may_read_the_file(shell) -> None:
    """Arguments and results stand in it."""
    shell.submit("functions:add", "1")
    shell.database.chmod(0o640)
    found = findings(shell)
    assert unhealthy(found) == {"permissions"}
    assert {"path": str(shell.database), "mode": "0640"} in found["permissions"]["facts"]["open"]
    assert "chmod" in found["permissions"]["do"]


def test_functions_that_cannot_be_imported(shell) -> None:
    """One that is gone, and a module that raises; an alias leads to the new one, and finished tasks need none."""
    for function in ("add", "fail", "read"):
        shell.submit(f"functions:{function}", "1")
    code = shell.folder / "functions.py"
    code.write_text(code.read_text().replace("def add(", "def plus("))
    found = findings(shell)
    assert unhealthy(found) == {"functions"}
    (missing,) = found["functions"]["facts"]["missing"]
    assert (missing["function"], missing["tasks"]) == ("functions:add", 1)
    assert "--app-dir" in found["functions"]["do"]

    (shell.workspace / "thirdshift.yaml").write_text("aliases: {'functions:add': 'functions:plus'}\n")
    assert unhealthy(findings(shell)) == set()
    (shell.workspace / "thirdshift.yaml").unlink()
    code.write_text("raise RuntimeError('half installed')")
    missing = findings(shell)["functions"]["facts"]["missing"]
    assert [each["error"] for each in missing] == ["RuntimeError: half installed"] * 3
    shell("tasks", "cancel", "--yes", "--status", "pending")
    assert findings(shell)["functions"]["facts"] == {"count": 0, "missing": []}


@pytest.mark.parametrize("content", [None, b"not a database, but long enough to be taken for one " * 40])
def test_a_store_that_cannot_be_used_exits_with_69(shell, content: bytes | None) -> None:
    """As with the health command; nothing is made."""
    if content is not None:
        shell.database.write_bytes(content)
    done = shell("doctor")
    assert done.returncode == 69
    assert done.stdout == ""


def test_two_libraries_in_one_process(tmp_path: Path) -> None:
    """A copy of the library under another path, loaded beside the first, is what a package with its own one brings."""
    if sys.platform != "linux":
        pytest.skip("only Linux tells which libraries a process has loaded")
    maps = Path("/proc/self/maps").read_text()
    loaded = sorted({f"/{line.partition('/')[2]}" for line in maps.splitlines() if "libsqlite3" in line})
    if not loaded:
        pytest.skip("this Python has SQLite built in, so there is no library to copy")
    copy = tmp_path / "libsqlite3.so.0"
    copy.write_bytes(Path(loaded[0]).read_bytes())
    program = f"""
import ctypes, sys
from pathlib import Path
from thirdshift import BackgroundTaskManager
ctypes.CDLL({str(copy)!r})
if __name__ == "__main__":
    with BackgroundTaskManager(database={str(tmp_path / "a.db")!r}, start=False) as manager:
        (finding,) = [each for each in manager.health("doctor") if each.code.value == "library"]
    print(finding.is_healthy, len(finding.facts["files"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "2"]


def test_the_file_is_not_touched(shell) -> None:
    """Looking changes no row."""
    shell.submit("functions:add", "1")
    with closing(sqlite3.connect(shell.database)) as connection:
        before = list(connection.iterdump())
    findings(shell)
    with closing(sqlite3.connect(shell.database)) as connection:
        assert list(connection.iterdump()) == before
