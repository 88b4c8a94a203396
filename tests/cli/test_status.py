"""`thirdshift status` answers whatever else is going on, and whatever state the workspace is in."""

import json

from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.host.instance import PIDManager


def test_a_workspace_in_which_nothing_ever_ran(shell) -> None:
    """It is told so, and asking makes nothing."""
    document = shell.json("status")
    assert (document["daemon"], document["tasks"], document["training"]) == ("stopped", None, None)
    assert shell.json("train", "status") == {"daemon": "stopped", "state": None, "reason": None}
    human = shell("status")
    assert human.returncode == 0
    assert "daemon     stopped" in human.stdout
    assert shell("train", "status").stdout.splitlines()[0].split() == ["daemon", "stopped"]
    assert list(shell.workspace.iterdir()) == []


def test_tasks_are_counted(shell) -> None:
    """In words that are left out when there are none."""
    shell.submit("functions:add", "1")
    assert shell.json("status")["tasks"]["pending"] == 1
    assert "tasks      1 pending, 1 total, 1 queue_size" in shell("status").stdout


def test_a_daemon_that_has_just_taken_the_lock(shell) -> None:
    """It has not said anything yet; what the one before it left is not taken for its own."""
    workspace = TrainingWorkspace(shell.workspace)
    workspace.create()
    with PIDManager(workspace.pid_file) as _:
        for left in (None, {"state": "stopped", "pid": 1, "reason": None, "training": None}, "not JSON"):
            if left is not None:
                workspace.status_file.write_text(json.dumps(left) if isinstance(left, dict) else left)
            document = shell.json("status")
            assert (document["daemon"], document["state"]) == ("running", "starting")
            assert "running, starting, process " in shell("status").stdout
            assert shell("train", "status").returncode == 0


def test_a_daemon_that_was_killed(shell) -> None:
    """The status file still says "training"; the lock says that nobody is there."""
    workspace = TrainingWorkspace(shell.workspace)
    workspace.create()
    workspace.status_file.write_text(json.dumps({"state": "training", "pid": 1, "training": None}))
    document = shell.json("status")
    assert (document["daemon"], document["state"]) == ("stopped", "stopped")
    assert "ended while training, without stopping cleanly" in shell("status").stdout


def test_orders_without_a_daemon(shell) -> None:
    """Stop has nobody to reach and makes nothing; a pause waits for the next start."""
    stop = shell("train", "stop")
    assert stop.returncode == 1
    assert "no daemon is running" in stop.stderr
    assert list(shell.workspace.iterdir()) == []
    assert shell("train", "pause").stdout.startswith("no daemon is running; at its next start the daemon pauses")
    assert (shell.workspace / "control" / "paused").exists()
    assert shell.json("train", "resume") == {"order": "resume", "daemon": "stopped", "accepted": False}
    assert not (shell.workspace / "control" / "paused").exists()
