"""Small models and small files for the tests of training; torch is loaded by the first test that asks for one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from thirdshift.apps.training.train_file import share_processors

share_processors()

WORDS = ("ox", "tree", "river", "cat", "mountain", "sun", "window", "bee")


@pytest.fixture(scope="session")
def nano_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory, made once and never written to."""
    from thirdshift.apps.training.model import create_tiny_model

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
