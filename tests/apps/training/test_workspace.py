"""The workspace knows every folder, makes them private, and never leaves its root."""

import os
from pathlib import Path

import pytest

from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.core.errors import UnsafePath

FOLDERS = {
    ".pids",
    "archive",
    "backups",
    "backups/snapshots",
    "consolidated_models",
    "control",
    "data",
    "data/heldout",
    "history",
    "inbox",
    "logs",
    "models",
    "models/current_model",
    "models/current_model/checkpoints",
    "queue",
    "queue/checking",
    "queue/failed",
    "queue/high",
    "queue/low",
    "queue/normal",
    "queue/processing",
    "status",
    "work",
}


def found(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


def test_all_folders_are_made_for_the_owner_alone(tmp_path: Path) -> None:
    """Also under an open umask; a second creation changes nothing."""
    before = os.umask(0)
    try:
        workspace = TrainingWorkspace(tmp_path / "new" / "workspace")
        workspace.create()
    finally:
        os.umask(before)
    assert found(workspace.root) == FOLDERS
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in [workspace.root, *workspace.root.rglob("*")])
    (workspace.inbox / "a.jsonl").touch()
    workspace.create()
    assert found(workspace.root) == FOLDERS | {"inbox/a.jsonl"}


def test_the_files_have_the_promised_places(tmp_path: Path) -> None:
    """The status and the PID lie where people look for them."""
    workspace = TrainingWorkspace(str(tmp_path))
    assert workspace.status_file == tmp_path / "status" / "training_status.json"
    assert workspace.pid_file == tmp_path / ".pids" / "daemon.pid"


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    """Where the workspace lies is its owner's affair."""
    (tmp_path / "big-disk").mkdir()
    (tmp_path / "link").symlink_to("big-disk")
    TrainingWorkspace(tmp_path / "link").create()
    assert found(tmp_path / "big-disk") == FOLDERS


@pytest.mark.parametrize("folder", ["inbox", "queue", "models", "queue/processing"])
def test_a_link_that_leads_out_is_refused(tmp_path: Path, folder: str) -> None:
    """The error names the link and where it leads; nothing is made there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    link = tmp_path / "workspace" / folder
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.raises(UnsafePath, match=f"{folder}' is refused: it leads to {outside}"):
        TrainingWorkspace(tmp_path / "workspace").create()
    assert list(outside.iterdir()) == []


def test_a_link_inside_the_workspace_is_allowed(tmp_path: Path) -> None:
    """It leads out of nothing."""
    (tmp_path / "drop").mkdir()
    (tmp_path / "inbox").symlink_to("drop")
    TrainingWorkspace(tmp_path).create()


def test_a_path_is_checked_with_its_links_followed(tmp_path: Path) -> None:
    """Neither .. nor a link leads out."""
    workspace = TrainingWorkspace(tmp_path / "workspace")
    workspace.create()
    (workspace.inbox / "passwords.jsonl").symlink_to("/etc/passwd")
    assert workspace.contained(workspace.inbox / "a.jsonl") == workspace.inbox / "a.jsonl"
    for path in (workspace.inbox / "passwords.jsonl", workspace.inbox / ".." / ".." / "x", Path("/etc/passwd")):
        with pytest.raises(UnsafePath):
            workspace.contained(path)


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    """It is not removed."""
    (tmp_path / "inbox").touch()
    with pytest.raises(FileExistsError):
        TrainingWorkspace(tmp_path).create()
