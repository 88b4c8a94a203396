"""Files in sequence: earlier ones are replayed and asked again, and one that makes them worse is held back."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from thirdshift.apps.training.job import FileResult, Progress, TrainingJob
from thirdshift.apps.training.models.model import model_hash
from thirdshift.apps.training.records.attempts import AttemptLog
from thirdshift.apps.training.records.history import HELD_BACK, PUBLISHED, History
from thirdshift.apps.training.runs.train_file import train_file
from thirdshift.apps.training.saving.checkpoints import CheckpointStore
from thirdshift.apps.training.settings import TrainingSettings

LETTERS = "abcdefgh"
SETTINGS = TrainingSettings(
    epochs=8, batch_size=8, micro_batch_size=8, learning_rate=1e-2, threads=1, held_out_percent=15, max_context=64
)


def write_letters(path: Path, kind: str, places: int, rows: int = 80) -> Path:
    """Ask for the letter that stands so many places further on; what is right for one kind is wrong for another."""
    lines = []
    for number in range(rows):
        place = number % len(LETTERS)
        answer = LETTERS[(place + places) % len(LETTERS)]
        lines.append(json.dumps({"prompt": f"{number} {kind} {LETTERS[place]}", "completion": answer}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def job_of(root: Path, name: str, places: int, settings: TrainingSettings = SETTINGS, *, rows: int = 80) -> TrainingJob:
    return TrainingJob(
        data=write_letters(root / "files" / f"{name}.jsonl", name, places, rows),
        current_model=root / "model",
        checkpoints=root / "checkpoints",
        work=root / "work" / name,
        history=root / "history",
        settings=settings,
    )


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory, nano_model: Path) -> Path:
    """A folder in which one file was trained; only to be copied."""
    root = tmp_path_factory.mktemp("one file")
    shutil.copytree(nano_model, root / "model")
    assert train_file(job_of(root, "same", 0)).accuracy_after > 0.8
    return root


@pytest.fixture
def root(one_file: Path, tmp_path: Path) -> Path:
    """The folder with one trained file."""
    shutil.copytree(one_file, tmp_path / "room")
    return tmp_path / "room"


def outcomes(root: Path) -> list[tuple[str, str]]:
    return [(record.file, record.outcome) for record in History(root / "history").records()]


class TestRecord:
    def test_a_trained_file_is_in_the_history(self, root: Path) -> None:
        """With its attempts, what it cost and brought, its examination, rows for later and the curve of its loss."""
        (record,) = History(root / "history").records()
        assert (record.file, record.outcome, record.number) == ("same.jsonl", PUBLISHED, 1)
        assert [attempt["how"] for attempt in record.attempts] == ["finished"]
        assert record.model_hash == model_hash(root / "model") != record.base_hash
        result = FileResult.from_document(dict(record.result))
        assert result.accuracy_after > result.accuracy_before
        assert (result.replay_rows, result.earlier_after, result.held_back) == (0, {}, ())
        folder = root / "history" / record.key
        curve = (folder / "loss.csv").read_text().splitlines()
        assert curve[0] == "step,loss,lowest,highest"
        assert len(curve) == result.total_steps + 1
        assert float(curve[1].split(",")[1]) > float(curve[-1].split(",")[1])

    def test_an_error_stands_among_the_attempts(self, tmp_path: Path, nano_model: Path) -> None:
        """Whatever ended an attempt, the next reads it."""
        shutil.copytree(nano_model, tmp_path / "model")
        job = job_of(tmp_path, "same", 0)
        job.data.write_text("no row\n")
        with pytest.raises(Exception, match="not JSON"):
            train_file(job)
        (attempt,) = AttemptLog(job.work).read()
        assert attempt.how.startswith("BadLine: same.jsonl:1: not JSON")


class TestReplay:
    def test_a_later_file_replays_and_asks_the_earlier_ones(self, root: Path) -> None:
        """Five percent of its rows; both examinations of the earlier file are in the result and in the history."""
        result = train_file(job_of(root, "next", 1, replace(SETTINGS, worst_match_fall=100)))
        assert (result.replay_rows, result.replayed, result.missing) == (3, ("same.jsonl",), ())
        assert {name: found.asked for name, found in result.earlier_before.items()} == {"same": 12}
        assert result.earlier_before["same"].accuracy > 0.8
        assert outcomes(root) == [("same.jsonl", PUBLISHED), ("next.jsonl", PUBLISHED)]
        stored = FileResult.from_document(dict(History(root / "history").records()[-1].result))
        assert stored == result

    def test_what_is_missing_of_an_earlier_file_is_named(self, root: Path) -> None:
        """The training goes on without it, and says so."""
        job = job_of(root, "next", 1)
        stop = iter([False, True])
        assert not train_file(job, should_stop=lambda: next(stop)).finished
        (root / "history" / "same" / "held_out.jsonl").unlink()
        (root / "history" / "same" / "for_replay.jsonl").write_text("{}")
        result = train_file(job)
        assert (result.finished, result.replay_rows, result.earlier_before) == (True, 0, {})
        assert result.missing == (
            "same.jsonl: the rows that were kept of it are not as they were written",
            "same.jsonl: its examination is missing",
        )

    def test_what_was_begun_on_another_model_begins_anew(self, root: Path) -> None:
        """A file that was interrupted and made way for another is trained on what that one left."""
        job = job_of(root, "next", 1, replace(SETTINGS, worst_match_fall=100))
        looks = iter([False] * 120)
        stopped = train_file(job, should_stop=lambda: next(looks, True))
        assert 0 < stopped.step < stopped.total_steps
        train_file(job_of(root, "third", 3, replace(SETTINGS, worst_match_fall=100)))
        between = model_hash(root / "model")
        result = train_file(job)
        record = History(root / "history").records()[-1]
        assert (record.file, record.base_hash) == ("next.jsonl", between)
        assert result.earlier_before.keys() == {"same", "third"}
        assert [attempt["how"] for attempt in record.attempts] == ["stopped", "finished"]

    @pytest.mark.training
    def test_with_replay_earlier_files_are_kept_and_without_they_are_forgotten(
        self, tmp_path: Path, nano_model: Path
    ) -> None:
        """The short form of ``benchmarks/forgetting.py``: five percent are enough to keep 95 % of the exact match."""
        settings = replace(
            SETTINGS, epochs=2, batch_size=16, learning_rate=3e-3, held_out_percent=5, worst_match_fall=100
        )
        rooms = {5.0: tmp_path / "with", 0.0: tmp_path / "without"}
        shutil.copytree(nano_model, rooms[5.0] / "model")
        first = train_file(job_of(rooms[5.0], "same", 0, settings, rows=2000)).accuracy_after
        assert first > 0.95
        shutil.copytree(rooms[5.0], rooms[0.0])
        for percent, room in rooms.items():
            result = train_file(job_of(room, "next", 1, replace(settings, replay_percent=percent), rows=2000))
            assert result.accuracy_after > 0.95
            kept = result.earlier_after["same"].accuracy / first
            assert kept >= 0.95 if percent else kept < 0.3


class TestGate:
    @pytest.fixture
    def strict(self, root: Path) -> TrainingJob:
        """A file that makes the earlier one worse: nothing is replayed, and all its letters are others."""
        return job_of(root, "same ", 4, replace(SETTINGS, replay_percent=0))

    def test_a_file_that_makes_an_earlier_one_worse_is_held_back(self, strict: TrainingJob, root: Path) -> None:
        """The model and its checkpoint stay as they were; the last one of the file waits aside, and all is recorded."""
        before = model_hash(root / "model")
        published = [path.name for path in CheckpointStore(strict.checkpoints).paths()]
        result = train_file(strict)
        assert result.finished
        (cause,) = result.held_back
        assert cause.startswith("same.jsonl: exact match ")
        assert model_hash(root / "model") == before
        assert [path.name for path in CheckpointStore(strict.checkpoints).paths()] == published[-1:]
        assert [path.name for path in (strict.checkpoints / "held_back").iterdir()] == [result.checkpoint]
        assert outcomes(root) == [("same.jsonl", PUBLISHED), ("same .jsonl", HELD_BACK)]
        assert History(root / "history").records()[-1].causes == result.held_back
        assert train_file(strict) == result
        later = train_file(job_of(root, "next", 1, replace(SETTINGS, worst_match_fall=100)))
        assert later.replayed == ("same.jsonl",)
        assert later.earlier_before.keys() == {"same"}

    def test_a_person_accepts_it_and_it_is_published_without_another_step(
        self, strict: TrainingJob, root: Path
    ) -> None:
        """The same job again publishes the checkpoint that waited; the word is used up."""
        held = train_file(strict)
        history = History(root / "history")
        history.accept(history.records()[-1].data_hash)
        steps: list[Progress] = []
        result = train_file(strict, report=steps.append)
        assert max(progress.step for progress in steps) == 0
        assert (result.is_accepted, result.held_back, result.checkpoint) == (True, (), held.checkpoint)
        assert model_hash(root / "model") == model_hash(strict.checkpoints / held.checkpoint)
        assert not history.is_accepted(history.records()[-1].data_hash)
        assert [outcome for _, outcome in outcomes(root)] == [PUBLISHED, HELD_BACK, PUBLISHED]

    def test_accepted_after_another_file_it_is_trained_again_on_that(self, strict: TrainingJob, root: Path) -> None:
        """Published as it is, it would take away what the other file taught."""
        train_file(strict)
        train_file(job_of(root, "next", 1, replace(SETTINGS, worst_match_fall=100)))
        between = model_hash(root / "model")
        history = History(root / "history")
        history.accept(next(record.data_hash for record in history.records() if record.outcome == HELD_BACK))
        steps: list[Progress] = []
        assert train_file(strict, report=steps.append).held_back == ()
        assert max(progress.step for progress in steps) > 0
        assert history.records()[-1].base_hash == between

    @pytest.mark.parametrize("moment", ["decided", "held aside", "recorded"])
    def test_killed_in_the_middle_of_its_end_it_is_held_back_all_the_same(
        self, strict: TrainingJob, root: Path, moment: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The decision was written before it was carried out; other settings do not change it any more."""
        before = model_hash(root / "model")
        owner, name = {
            "decided": (CheckpointStore, "hold_back"),
            "held aside": (History, "add"),
            "recorded": (History, "add"),
        }[moment]
        real = getattr(owner, name)

        def killed(*arguments: object, **options: object) -> None:
            if moment == "recorded":
                real(*arguments, **options)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, killed)
            with pytest.raises(KeyboardInterrupt):
                train_file(strict)
        result = train_file(replace(strict, settings=replace(strict.settings, worst_match_fall=100)))
        assert len(result.held_back) == 1
        assert model_hash(root / "model") == before
        assert outcomes(root) == [("same.jsonl", PUBLISHED), ("same .jsonl", HELD_BACK)]
