"""`thirdshift train checkpoints`: listed, verified and restored by hand; no model is needed for that."""

import os
from dataclasses import replace

import pytest

from thirdshift.apps.training.saving.checkpoints import CheckpointFacts, CheckpointStore
from thirdshift.apps.training.workspace import TrainingWorkspace

FACTS = CheckpointFacts(
    plan_hash="one plan",
    base_hash="base",
    data_name="rows.jsonl",
    step=5,
    total_steps=9,
    last_losses=(0.5,),
    numerics={},
)


@pytest.fixture
def store(shell):
    """Two checkpoints, the older one with the lower loss."""
    workspace = TrainingWorkspace(shell.workspace)
    workspace.create()
    store = CheckpointStore(workspace.checkpoints)

    def fill(folder) -> None:
        (folder / "model.safetensors").write_bytes(b"weights" * 100)
        (folder / "optimizer.safetensors").write_bytes(b"moments" * 100)

    store.save(fill, FACTS)
    store.save(fill, replace(FACTS, step=6, last_losses=(0.75,)))
    return store


def test_checkpoints_are_listed_with_why_they_are_kept(shell, store) -> None:
    """Step, file and loss of each; the newest and the best are marked."""
    assert shell("train", "checkpoints", "list").stdout.splitlines() == [
        "checkpoint\tstep\tfile\tloss\tsize\tis",
        "ckpt-000001\t5 of 9\trows.jsonl\t0.5000\t0.0 MB\tbest",
        "ckpt-000002\t6 of 9\trows.jsonl\t0.7500\t0.0 MB\tnewest",
    ]


def test_an_empty_workspace_says_so(shell) -> None:
    """And looking makes no folders."""
    assert "there is no checkpoint yet" in shell("train", "checkpoints", "list").stdout
    assert shell.json("train", "checkpoints", "verify") == []
    assert not (shell.workspace / "models").exists()


def test_a_damaged_one_is_found_and_named(shell, store) -> None:
    """By verify, with exit code 1 and untouched; once set aside, by list."""
    os.truncate(store.list()[1].path / "optimizer.safetensors", 3)
    done = shell("train", "checkpoints", "verify")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "ckpt-000001  sound",
        "ckpt-000002  damaged: optimizer.safetensors has 3 bytes instead of 700",
    ]
    assert shell("train", "checkpoints", "verify", "ckpt-000001").returncode == 0
    store.latest_verified()
    listed = shell.json("train", "checkpoints", "list")
    assert [each["name"] for each in listed["checkpoints"]] == ["ckpt-000001"]
    assert listed["damaged"][0]["problems"] == ["optimizer.safetensors has 3 bytes instead of 700"]


def test_one_becomes_the_current_model_again(shell, store) -> None:
    """Its weights are published, its optimizer is not."""
    assert shell.json("train", "checkpoints", "restore", "ckpt-000001")["checkpoint"] == "ckpt-000001"
    current = TrainingWorkspace(shell.workspace).current_model
    assert (current / "model.safetensors").read_bytes() == b"weights" * 100
    assert not (current / "optimizer.safetensors").exists()


def test_one_is_copied_to_a_folder_and_a_damaged_one_is_not(shell, store) -> None:
    """An existing folder is never overwritten."""
    target = shell.folder / "restored"
    assert shell("train", "checkpoints", "restore", "ckpt-000002", "--to", str(target)).returncode == 0
    assert (target / "optimizer.safetensors").read_bytes() == b"moments" * 100
    again = shell("train", "checkpoints", "restore", "ckpt-000002", "--to", str(target))
    assert again.returncode != 0
    assert "exists" in again.stderr
    os.truncate(store.list()[0].path / "model.safetensors", 3)
    refused = shell("train", "checkpoints", "restore", "ckpt-000001")
    assert refused.returncode == 1
    assert "is damaged: model.safetensors has 3 bytes" in refused.stderr
    assert "there is no checkpoint 'ckpt-9'" in shell("train", "checkpoints", "restore", "ckpt-9").stderr
