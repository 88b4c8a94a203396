"""Small models and small files for the tests of training; torch is loaded by the first test that asks for one."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from thirdshift import BackgroundTaskManager
from thirdshift.apps.training.config import DaemonConfig
from thirdshift.apps.training.files.queue import TrainingQueue
from thirdshift.apps.training.inbox.intake import Intake
from thirdshift.apps.training.notices import Notice
from thirdshift.apps.training.saving.checkpoints import CheckpointStore, SetAside
from thirdshift.apps.training.workspace import TrainingWorkspace

os.environ["GOMP_SPINCOUNT"] = "0"  # before torch is loaded: four tests share two processors, so threads do not spin

WORDS = ("ox", "tree", "river", "cat", "mountain", "sun", "window", "bee")


@pytest.fixture(scope="session")
def nano_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory, made once and never written to."""
    from thirdshift.apps.training.models.model import create_tiny_model

    directory = tmp_path_factory.mktemp("models") / "nano"
    create_tiny_model(directory, seed=7, size="nano")
    return directory


@pytest.fixture(scope="session")
def write_rows() -> Callable[..., Path]:
    """Writes *count* different questions with answers of several lengths, each naming its level."""

    def write(path: Path, count: int) -> Path:
        lines = []
        for number in range(count):
            word = WORDS[number % len(WORDS)]
            asked, said = f"{number} {word} " * (1 + number % 3), f"{word}, {number}"
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
            lines.append(json.dumps({"messages": messages, "level": 1 + number % 3}))
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write


FAMILIES = ("gpt2", "llama", "qwen3", "gemma2", "bloom", "mamba")
"""Families of models that are as different as can be: positions learnt, rotated, by slope, or none at all."""


@pytest.fixture(scope="session")
def model_of(nano_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a model directory of a family, with random weights and the byte tokenizer; once, never written to."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = _make_model(family, nano_model, tmp_path_factory.mktemp("models") / family)
        return made[family]

    return make


def _make_model(family: str, nano_model: Path, directory: Path) -> Path:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    from thirdshift.apps.training.models.model import tokenizer_files

    common = {"vocab_size": 261, "pad_token_id": 256, "eos_token_id": 257, "bos_token_id": None}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}
    grouped = {**heads, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 256}
    own: dict[str, dict[str, Any]] = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256},  # with dropout, as it comes
        "llama": {**heads, "max_position_embeddings": 256},
        "qwen3": {**grouped, "tie_word_embeddings": True},
        "gemma2": {**grouped, "sliding_window": 8},
        "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
        "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    }
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **common, **own[family])).save_pretrained(directory)
    for name, content in tokenizer_files(nano_model).items():
        (directory / name).write_bytes(content)
    return directory


Damage = Callable[[CheckpointStore, str, list[SetAside]], None]


@pytest.fixture(scope="session")
def damage_everywhere() -> Damage:
    """Damages the newest of two checkpoints of a store, bit by bit and cut by cut; THIRDSHIFT_FLIPS times."""
    return _damage_everywhere


def _damage_everywhere(store: CheckpointStore, plan_hash: str, damaged: list[SetAside]) -> None:
    """Damage the newest of two checkpoints of *store*, one byte or one cut at a time, over all stored bytes.

    Each is to be found, named, and fallen back from; *damaged* is what the store reports to. Every other place is drawn
    from the bytes, the others from the files, so that small ones get their share.
    """
    random = Random(int(os.environ.get("THIRDSHIFT_SEED", "1")))
    good, newest = store.list()[-2:]
    contents = {path: path.read_bytes() for path in _stored_files(newest.path)}
    sizes = [len(content) for content in contents.values()]
    for number in range(int(os.environ.get("THIRDSHIFT_FLIPS", "200"))):
        path = random.choices(list(contents), weights=sizes if number % 2 else None)[0]
        content = bytearray(contents[path])
        place = random.randrange(len(content))
        if number % 4 == 0:
            del content[place:]
        else:
            content[place] ^= 1 << random.randrange(8)
        path.write_bytes(content)
        assert store.latest_verified(plan_hash) == good, (path.name, place)
        aside = damaged.pop()
        assert path.name in " ".join(aside.problems)
        aside.path.rename(newest.path)
        path.write_bytes(contents[path])
    assert store.latest_verified(plan_hash) == newest
    assert damaged == []


def _stored_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


# The intake of a test's own `workspace`


@pytest.fixture
def manager(workspace: TrainingWorkspace) -> Iterator[BackgroundTaskManager]:
    with BackgroundTaskManager(database=workspace.root / "tasks.db", start=False) as manager:
        yield manager


@pytest.fixture
def told() -> list[Notice]:
    return []


@pytest.fixture
def queue(workspace: TrainingWorkspace) -> TrainingQueue:
    return TrainingQueue(workspace.queue)


@pytest.fixture
def intake(
    workspace: TrainingWorkspace, queue: TrainingQueue, manager: BackgroundTaskManager, told: list[Notice]
) -> Iterator[Intake]:
    intake = Intake(workspace, queue, manager, DaemonConfig(settle_s=0), told.append, clock=lambda: 0.0)
    yield intake
    intake.close()
