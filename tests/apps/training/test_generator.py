"""When people drop too little, puzzles are generated."""

import json
import time
from pathlib import Path

import pytest

from thirdshift.apps.training.inbox.generator import DataGenerator
from thirdshift.apps.training.inbox.validation import validate

NAME = time.strftime("auto_gen_%Y%m%d_%H%M%S", time.localtime(1_800_000_000))


@pytest.fixture
def generator(tmp_path: Path) -> DataGenerator:
    return DataGenerator(tmp_path, clock=lambda: 1_800_000_000)


def test_a_short_queue_asks_for_data(generator: DataGenerator, tmp_path: Path) -> None:
    """Fewer than two waiting files are too few; the number can be chosen."""
    assert [generator.should_generate(size) for size in (0, 1, 2, 3)] == [True, True, False, False]
    assert DataGenerator(tmp_path, min_queue_size=5).should_generate(4)
    assert not DataGenerator(tmp_path, min_queue_size=0).should_generate(0)


def test_a_generated_file_is_sound_and_has_its_time_in_its_name(generator: DataGenerator, tmp_path: Path) -> None:
    """As many rows as asked for, nothing beside the file."""
    path = generator.generate(count=50, seed=1, levels=(1, 2))
    assert path == tmp_path / f"{NAME}.jsonl"
    report = validate(path)
    assert report.is_sound
    assert report.rows == 50
    assert {json.loads(line)["level"] for line in path.read_text().splitlines()} == {1, 2}
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_file_in_the_same_second_does_not_overwrite_the_first(generator: DataGenerator) -> None:
    """It gets a number; another seed gives another content, the same seed the same."""
    paths = [generator.generate(count=20, seed=seed) for seed in (1, 2, 1)]
    assert [path.name for path in paths] == [f"{NAME}{end}.jsonl" for end in ("", "-1", "-2")]
    one, two, three = (path.read_bytes() for path in paths)
    assert one == three != two


def test_held_out_puzzles_are_never_generated_for_training(generator: DataGenerator, tmp_path: Path) -> None:
    """No prompt of the examination occurs in training data of the same levels."""
    examination = DataGenerator.write_held_out(tmp_path / "examination.jsonl", 100, levels=(2, 3))
    training = generator.generate(count=500, levels=(2, 3))

    def prompts(path: Path) -> set[str]:
        return {json.loads(line)["messages"][0]["content"] for line in path.read_text().splitlines()}

    assert prompts(examination).isdisjoint(prompts(training))


def test_sweeping_removes_what_a_killed_generation_left(tmp_path: Path) -> None:
    """Files that people dropped stay, hidden ones too."""
    left = [tmp_path / "..auto_gen.0a1b.tmp.9f.tmp", tmp_path / ".auto_gen.0a1b.tmp"]
    for path in [*left, tmp_path / ".mine.tmp", tmp_path / "auto_gen_1.jsonl"]:
        path.touch()
    assert DataGenerator(tmp_path).sweep() == left
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "auto_gen_1.jsonl"]
