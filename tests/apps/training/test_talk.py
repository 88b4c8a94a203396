"""Talking to the current model, also while it is replaced."""

import json
import shutil
from pathlib import Path

import pytest

from thirdshift.apps.training.models.model import NotAModel, create_tiny_model
from thirdshift.apps.training.models.talk import Talk


def test_a_newly_published_model_answers_from_then_on(nano_model: Path, tmp_path: Path) -> None:
    """Whole letters only, and never more tokens than were allowed; the conversation goes on."""
    directory = tmp_path / "model"
    shutil.copytree(nano_model, directory)
    talk = Talk(directory, longest=12)
    assert talk.checkpoint == ""
    first = "".join(talk.say("hello"))
    assert len(first.encode()) <= 12
    talk.forget()
    assert "".join(talk.say("hello")) == first
    create_tiny_model(tmp_path / "other", seed=99, size="nano")
    (directory / "thirdshift.json").write_text(json.dumps({"checkpoint": "ckpt-000009"}))
    (tmp_path / "other" / "model.safetensors").replace(directory / "model.safetensors")
    talk.forget()
    assert len("".join(talk.say("hello")).encode()) <= 12
    assert talk.checkpoint == "ckpt-000009"


def test_a_model_without_a_template_takes_each_question_alone(nano_model: Path, tmp_path: Path) -> None:
    """It does not know how turns are written."""
    directory = tmp_path / "model"
    shutil.copytree(nano_model, directory, ignore=shutil.ignore_patterns("chat_template.jinja"))
    talk = Talk(directory, longest=5)
    assert "".join(talk.say("hello")) == "".join(talk.say("hello"))


def test_no_model_is_said(tmp_path: Path) -> None:
    """An empty folder is none."""
    with pytest.raises(NotAModel):
        Talk(tmp_path)
