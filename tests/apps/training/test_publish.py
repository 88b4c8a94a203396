"""The current model takes the weights of a checkpoint, and loads at every moment on the way."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from thirdshift.apps.training.models.model import create_tiny_model, load_model, model_hash
from thirdshift.apps.training.models.publish import publish_current_model
from thirdshift.core.errors import DamagedDirectory
from thirdshift.storage import verified


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of another model, with an optimizer beside it."""

    def fill(folder: Path) -> None:
        create_tiny_model(tmp_path / "trained", seed=99, size="nano")
        shutil.copytree(tmp_path / "trained", folder, dirs_exist_ok=True)
        (folder / "optimizer.safetensors").write_bytes(b"moments")

    path = tmp_path / "ckpt-000007"
    facts = {"data_name": "train.jsonl", "plan_hash": "plan", "base_hash": "base", "step": 9}
    verified.publish(path, fill, facts=facts)
    return path


@pytest.fixture
def current_model(tmp_path: Path, nano_model: Path) -> Path:
    copy = tmp_path / "current_model"
    shutil.copytree(nano_model, copy)
    return copy


def test_the_current_model_becomes_the_checkpoint(checkpoint: Path, current_model: Path) -> None:
    """Weights and configuration are those of the checkpoint; the optimizer stays behind; the origin is written."""
    publish_current_model(checkpoint, current_model)
    assert model_hash(current_model) == model_hash(checkpoint)
    assert not (current_model / "optimizer.safetensors").exists()
    origin = json.loads((current_model / "thirdshift.json").read_bytes())
    assert (origin["checkpoint"], origin["data_name"], origin["step"]) == ("ckpt-000007", "train.jsonl", 9)
    load_model(current_model)


def test_a_model_can_be_published_where_none_was(checkpoint: Path, tmp_path: Path) -> None:
    """The directory is made."""
    publish_current_model(checkpoint, tmp_path / "models" / "current_model")
    load_model(tmp_path / "models" / "current_model")


def test_a_second_time_changes_nothing(checkpoint: Path, current_model: Path) -> None:
    """No file is written again."""
    publish_current_model(checkpoint, current_model)
    before = {path.name: path.stat() for path in current_model.iterdir()}
    publish_current_model(checkpoint, current_model)
    assert {path.name: path.stat() for path in current_model.iterdir()} == before


def test_a_damaged_checkpoint_is_not_published(checkpoint: Path, current_model: Path) -> None:
    """The current model stays as it was."""
    before = model_hash(current_model)
    os.truncate(checkpoint / "model.safetensors", 100)
    with pytest.raises(DamagedDirectory):
        publish_current_model(checkpoint, current_model)
    assert model_hash(current_model) == before


def test_a_kill_at_any_change_leaves_a_model_that_loads(
    checkpoint: Path, current_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped dead at each rename and removal in turn, the directory loads, and a second call finishes the work."""
    (current_model / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (current_model / "model-00001-of-00002.safetensors").write_bytes(b"a piece of the old model")
    original = tmp_path / "original"
    shutil.copytree(current_model, original)
    changes = 0
    while not dies_at_change(changes, monkeypatch, lambda: publish_current_model(checkpoint, current_model)):
        load_model(current_model)
        publish_current_model(checkpoint, current_model)
        assert model_hash(current_model) == model_hash(checkpoint)
        shutil.rmtree(current_model)
        shutil.copytree(original, current_model)
        changes += 1
    assert changes >= 4
    assert sorted(path.name for path in current_model.iterdir()) == sorted(
        [*(path.name for path in (tmp_path / "trained").iterdir()), "thirdshift.json"]
    )


class Killed(BaseException):
    """Ends the call as a kill would: what is on disk stays."""


def dies_at_change(number: int, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> bool:
    """Run *act* until its change *number* of a name; returns True when it came to its end before that."""
    left = iter([False] * number)

    def dying(change: Callable[..., object]) -> Callable[..., object]:
        def changed(*arguments: object, **options: object) -> object:
            if next(left, True):
                raise Killed
            return change(*arguments, **options)

        return changed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying(Path.replace))
        patch.setattr(Path, "unlink", dying(Path.unlink))
        try:
            act()
        except Killed:
            return False
    return True
