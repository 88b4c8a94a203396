"""What can be asked of a daemon at its socket, and what becomes of it, without a daemon."""

from pathlib import Path
from typing import Any

import pytest

from thirdshift.apps.training.control import ControlFolder
from thirdshift.apps.training.files.queue import TrainingQueue
from thirdshift.apps.training.service.requests import Requests
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.core.errors import FileNotQueued, UsageError


class Office:
    """A workspace whose requests are answered; counts how often the loop was woken."""

    def __init__(self, root: Path) -> None:
        self.workspace = TrainingWorkspace(root)
        self.workspace.create()
        self.queue = TrainingQueue(self.workspace.queue)
        self.control = ControlFolder(self.workspace.control)
        self.status: dict[str, Any] = {"state": "training", "training": {"file": "a.jsonl"}}
        self.woken = 0
        self.requests = Requests(self.control, self.queue, lambda: self.status, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def ask(self, **request: object) -> dict[str, Any]:
        return self.requests.answer(request)

    def drop(self, name: str) -> None:
        (self.workspace.root / name).write_text("{}\n")
        self.queue.add(self.workspace.root / name)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path / "shift")


def test_every_order_is_laid_for_the_loop_which_is_woken(office: Office) -> None:
    """As if a person had laid the file."""
    asked = [
        {"order": "pause"},
        {"order": "resume"},
        {"order": "skip"},
        {"order": "trigger", "chore": "snapshot"},
        {"order": "stop"},
        {"order": "stop", "form": "after-file"},
        {"order": "stop", "form": "now"},
    ]
    assert all(office.ask(**request)["accepted"] for request in asked)
    words = ["pause", "resume", "skip", "trigger_snapshot", "stop", "stop_after_file", "stop_now"]
    assert sorted(office.control.take()) == sorted(words)
    assert office.woken == len(words)


def test_the_status_is_answered_without_the_loop(office: Office) -> None:
    """Nobody is woken for it."""
    assert office.ask(order="status") == {"accepted": True, "status": office.status}
    assert office.woken == 0


def test_what_makes_no_sense_is_refused(office: Office) -> None:
    """With what there is; nothing is laid."""
    assert "known are status, pause" in office.ask(order="dance")["error"]
    assert "known are status, pause" in office.ask()["error"]
    assert "known are step, after-file, now" in office.ask(order="stop", form="softly")["error"]
    assert "known are snapshot" in office.ask(order="trigger", chore="consolidation")["error"]
    office.status = {"state": "idle", "training": {"file": None}}
    assert office.ask(order="skip")["error"] == "no file is in hand"
    office.status = {"state": "stopping", "training": {"file": "a.jsonl"}}
    assert "is stopping" in office.ask(order="pause")["error"]
    with pytest.raises(UsageError, match="one of the actions list, priority, retry, remove"):
        office.ask(order="queue", action="shuffle")
    with pytest.raises(UsageError, match="one of the actions"):
        office.ask(order="queue", action="remove")
    assert office.control.take() == []


def test_the_queue_is_looked_at_and_changed(office: Office) -> None:
    """Its order, a failed file's second chance, and a file nobody wants."""
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        office.drop(name)
    office.ask(order="queue", action="priority", file="c.jsonl", priority="high")
    office.ask(order="queue", action="remove", file="b.jsonl")
    found = office.ask(order="queue", action="list")
    assert [(file["name"], file["priority"]) for file in found["waiting"]] == [
        ("c.jsonl", "high"),
        ("a.jsonl", "normal"),
    ]
    office.queue.get_next()
    office.queue.mark_failed("c.jsonl", {"cause": "it was too hard", "attempts": 3})
    found = office.ask(order="queue", action="list")
    assert [(file["file"], file["cause"]) for file in found["failed"]] == [("c.jsonl", "it was too hard")]
    answer = office.ask(order="queue", action="retry", file="c.jsonl")
    assert answer == {"accepted": True, "file": "c.jsonl", "priority": "low"}
    with pytest.raises(FileNotQueued):
        office.ask(order="queue", action="retry", file="c.jsonl")
    for name in ("../a.jsonl", "nobody.jsonl"):
        with pytest.raises(UsageError):
            office.ask(order="queue", action="remove", file=name)
