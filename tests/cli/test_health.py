"""`thirdshift health`: the exit code says whether all is well, the findings say what to do."""

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from thirdshift import BackgroundTaskManager
from thirdshift.testing.signals import TIMEOUT_S

COMMAND = str(Path(sys.executable).with_name("thirdshift"))
CHECKS = (
    "store", "workers", "writing", "integrity", "log", "left_behind", "oldest_task", "disk", "wake_ups",
    "unknown_functions", "lost_wakes", "schedules",
)  # fmt: skip


@contextmanager
def worker(shell, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A worker of the workspace that works until the block ends, however it is treated."""
    environment = {**os.environ, "THIRDSHIFT_WORKSPACE": str(shell.workspace)}
    process = subprocess.Popen(
        [COMMAND, "worker", "--threads", "1", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=shell.folder,
        env=environment,
    )
    with process:
        assert process.stderr is not None
        while "stop " not in process.stderr.readline():
            assert process.poll() is None
        try:
            yield process
        finally:
            process.kill()


def findings(shell, *arguments: str, code: int) -> dict[str, dict[str, Any]]:
    """Return the findings by what was looked at; the exit code is *code*, and the document agrees with it."""
    done = shell("--json", "health", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["healthy"] is (code == 0)
    assert all((finding["do"] is None) is finding["healthy"] for finding in document["findings"])
    return {finding["check"]: finding for finding in document["findings"]}


def unhealthy(found: dict[str, dict[str, Any]]) -> set[str]:
    return {check for check, finding in found.items() if not finding["healthy"]}


def test_all_is_well(shell) -> None:
    """With a worker that is alive; the complete level looks at everything."""
    with worker(shell, "--name", "w"):
        assert tuple(findings(shell, code=0)) == ("store", "workers")
        found = findings(shell, "--level", "complete", code=0)
        human = shell("health", "--level", "complete")
    assert tuple(found) == CHECKS
    assert found["wake_ups"]["facts"] == {"silent": [], "answered": 1}
    assert human.returncode == 0
    assert len(human.stdout.splitlines()) == len(CHECKS)
    assert {line[:6] for line in human.stdout.splitlines()} == {"ok    "}


def test_a_container_asks_it_as_its_health_command(shell) -> None:
    """Starting it alone, it names the file by a path, without any workspace."""
    with worker(shell):
        command = [COMMAND, "health", "--database", str(shell.database)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr


def test_nobody_works(shell) -> None:
    """Said by the lock and not by the row: a killed worker is still registered, and is not alive."""
    shell.submit("functions:add", "1")
    found = findings(shell, code=1)
    assert found["workers"]["says"] == "0 workers alive"
    assert "thirdshift worker" in found["workers"]["do"]
    with worker(shell) as process:
        findings(shell, code=0)
        process.kill()
        process.wait()
        found = findings(shell, code=1)
    assert found["workers"]["facts"] == {"alive": 0, "dead": 1}
    assert f"(process {process.pid}, dead)" in shell("status").stdout


@pytest.mark.parametrize("level", ["minimal", "complete"])
def test_a_store_that_cannot_be_used_exits_with_69(shell, level: str) -> None:
    """One that is not there, which asking does not make, and one that is none."""
    done = shell("--json", "health", "--level", level)
    assert done.returncode == 69
    assert "does not exist" in done.stderr
    assert '"healthy": false' in done.stdout
    assert list(shell.workspace.iterdir()) == []
    shell.database.write_text("not a database, but long enough to be mistaken for one " * 40)
    assert shell("health", "--level", level).returncode == 69


def test_a_worker_that_is_stopped_does_not_answer(shell) -> None:
    """It is alive, and it is named."""
    with worker(shell) as process:
        process.send_signal(signal.SIGSTOP)
        found = findings(shell, "--level", "complete", code=1)
        process.send_signal(signal.SIGCONT)
    assert unhealthy(found) == {"wake_ups"}
    assert found["wake_ups"]["facts"]["silent"] == [process.pid]
    assert str(process.pid) in found["wake_ups"]["says"]


def test_what_a_dead_worker_holds(shell) -> None:
    """Nobody lives who could take it over; with a live worker it is gone before the question is answered."""
    shell.submit("functions:wait")
    with worker(shell) as process:
        while shell.json("tasks", "list")[0]["status"] != "running":
            assert process.poll() is None
        process.kill()
        process.wait()
        found = findings(shell, "--level", "complete", code=1)
        assert unhealthy(found) == {"workers", "left_behind"}
        assert found["left_behind"]["says"] == "1 task held by 1 dead worker"
    with worker(shell):
        findings(shell, "--level", "complete", code=0)


def test_a_task_that_waits_too_long(shell) -> None:
    """How long is too long can be said; a paused queue waits on purpose."""
    shell.submit("functions:add", "1", "--queue", "mail")
    with worker(shell, "--exclude-queues", "mail"):
        time.sleep(0.2)
        assert findings(shell, "--level", "complete", code=0)["oldest_task"]["facts"]["queue"] == "mail"
        found = findings(shell, "--level", "complete", "--max-wait", "0.1", code=1)
        assert unhealthy(found) == {"oldest_task"}
        assert "thirdshift why" in found["oldest_task"]["do"]
        shell("queues", "pause", "mail")
        findings(shell, "--level", "complete", "--max-wait", "0.1", code=0)


@pytest.mark.alone
def test_wakes_that_are_lost_are_seen(shell) -> None:
    """A program that writes the file by itself, and tells nobody: its task runs, and it is noticed."""
    shell.submit("functions:add", "1")
    with worker(shell) as process:
        deadline = time.monotonic() + TIMEOUT_S
        written = 0
        while not lost_wakes(shell) and time.monotonic() < deadline:
            written += 1  # one that comes while the worker is about to look anyway is found by chance
            write_as_a_stranger(shell.database, written)
            time.sleep(2)
        found = findings(shell, "--level", "complete", code=1)
        assert unhealthy(found) == {"lost_wakes"}
        assert found["lost_wakes"]["facts"]["count"] == 1
        assert "1 wake-ups lost" in shell("status").stdout
        assert shell.json("status")["tasks"]["completed"] == 1 + written
        for number in range(5):  # these are announced
            shell.submit("functions:add", str(number), "--wait")
        assert lost_wakes(shell) == 1
        process.terminate()
        _, said = process.communicate(timeout=TIMEOUT_S)
    assert said.count("wakes.lost") == 1
    assert "a program writes tasks into the file by itself" in said


def lost_wakes(shell) -> int:
    """Return how many wake-ups the one worker has missed, as its status says."""
    (state,) = shell.json("status")["workers"]
    return int(state["lost_wakes"])


def write_as_a_stranger(database: Path, number: int) -> None:
    """Add a copy of the first task, as any SQLite client can."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=TIMEOUT_S)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TEMP TABLE copy AS SELECT * FROM task LIMIT 1")
        connection.execute(
            "UPDATE copy SET seq = ?, id = ?, status = 'pending', attempt = 0, finished_at = NULL, owner = NULL, "
            "claimed_at = NULL",
            [1000 + number, f"{number:032x}"],
        )
        connection.execute("INSERT INTO task SELECT * FROM copy")
        connection.execute("COMMIT")


def test_a_damaged_file_is_found(shell) -> None:
    """By the complete level, which reads it all."""
    with BackgroundTaskManager(database=shell.database) as manager:
        manager.submit_many(math.factorial, [(number,) for number in range(30)])
        assert manager.wait_until_drained(TIMEOUT_S)
    with closing(sqlite3.connect(shell.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'task_finished'").fetchone()
        (page,) = connection.execute("PRAGMA page_size").fetchone()
    with shell.database.open("r+b") as file:
        file.seek((root - 1) * page + page - 200)
        file.write(b"\xff" * 150)
    assert unhealthy(findings(shell, code=1)) == {"workers"}
    found = findings(shell, "--level", "complete", code=1)
    assert unhealthy(found) == {"workers", "integrity"}
    assert "restore a backup" in found["integrity"]["do"]


def test_the_check_takes_no_longer_than_it_may(shell) -> None:
    """A check that was not finished found nothing wrong, and says how far it came."""
    with worker(shell):
        found = findings(shell, "--level", "complete", "--check-seconds", "0.000001", code=0)
    assert found["integrity"]["facts"]["problems"] == []
