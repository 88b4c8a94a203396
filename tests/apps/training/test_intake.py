"""What is dropped is taken when it is complete; what never will be is not waited for."""

import os
from pathlib import Path

import pytest

from thirdshift.apps.training.filenames import storable
from thirdshift.apps.training.intake import Intake
from thirdshift.apps.training.notices import Notice
from thirdshift.apps.training.queue import TrainingQueue
from thirdshift.apps.training.workspace import TrainingWorkspace

ROW = '{"prompt": "1 + 1 =", "completion": "2"}\n'


@pytest.fixture
def workspace(tmp_path: Path) -> TrainingWorkspace:
    workspace = TrainingWorkspace(tmp_path)
    workspace.create()
    return workspace


@pytest.fixture
def told() -> list[Notice]:
    return []


@pytest.fixture
def intake(workspace: TrainingWorkspace, told: list[Notice]) -> Intake:
    return Intake(workspace, TrainingQueue(workspace.queue), 0, told.append)


def test_only_what_will_be_taken_counts(workspace: TrainingWorkspace, intake: Intake) -> None:
    """Not links, FIFOs, hidden files and folders, and folders that only look like files."""
    inbox = workspace.inbox
    for folder in ("sub", ".hidden", "sub/x.jsonl"):
        (inbox / folder).mkdir()
    for name in ("a.jsonl", "sub/b.jsonl"):
        (inbox / name).write_text(ROW)
    for name in (".c.jsonl", "d.txt", ".hidden/e.jsonl", "sub/x.jsonl/f.jsonl"):
        (inbox / name).write_text(ROW)
    (inbox / "link.jsonl").symlink_to("/etc/hostname")
    os.mkfifo(inbox / "pipe.jsonl")
    assert intake.size() == 2
    intake.flatten()
    intake.tick()
    assert intake.size() == 0
    assert TrainingQueue(workspace.queue).size() == 2


def test_one_file_that_cannot_be_taken_does_not_hold_up_the_others(
    workspace: TrainingWorkspace, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is raised at the end, and it is tried again."""
    for name in ("a.jsonl", "b.jsonl"):
        (workspace.inbox / name).write_text(ROW)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "a.jsonl":
            raise PermissionError(1, "Operation not permitted", str(path))
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(PermissionError):
            intake.tick()
    queue = TrainingQueue(workspace.queue)
    assert [file.name for file in queue.queued()] == ["b.jsonl"]
    intake.tick()
    assert [file.name for file in queue.queued()] == ["b.jsonl", "a.jsonl"]


def test_names_become_names_that_every_place_takes() -> None:
    """Foreign bytes are spelled out and control characters replaced; a good name stays as it is."""
    assert storable("größe 日本.jsonl") == "größe 日本.jsonl"
    assert storable(os.fsdecode(b"caf\xe9.jsonl")) == "caf\\xe9.jsonl"
    assert storable("a\nb\x1b[31m.jsonl") == "a_b_[31m.jsonl"
    assert len(storable("ä" * 200 + ".jsonl").encode()) <= 200
