"""One file from line to model: planned, examined, trained, examined again and published, once."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from thirdshift.apps.training.data.rows import BadLine
from thirdshift.apps.training.job import FileResult, Progress, TrainingJob
from thirdshift.apps.training.models.model import create_tiny_model, model_hash
from thirdshift.apps.training.runs.train_file import train_file
from thirdshift.apps.training.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=2, batch_size=8, micro_batch_size=4, learning_rate=1e-2)
PHASES = ["planning", "evaluating before", "training", "evaluating after", "publishing"]


class StopIn:
    """Asks for a stop once a phase was reported and so many looks were taken in it."""

    def __init__(self, phase: str, looks: int) -> None:
        self._phase = phase
        self._looks = looks
        self._is_there = False

    def report(self, progress: Progress) -> None:
        self._is_there = progress.phase == self._phase

    def should_stop(self) -> bool:
        self._looks -= self._is_there
        return self._looks < 0


def train_and_stop(job: TrainingJob, phase: str, looks: int) -> FileResult:
    stop = StopIn(phase, looks)
    result = train_file(job, report=stop.report, should_stop=stop.should_stop)
    assert not result.finished
    return result


@pytest.fixture
def job(tmp_path: Path, nano_model: Path, write_rows: Callable[..., Path]) -> TrainingJob:
    """A small file, a nano model and an examination."""
    return make_job(tmp_path, nano_model, write_rows)


def make_job(tmp_path: Path, nano_model: Path, write_rows: Callable[..., Path]) -> TrainingJob:
    current_model = tmp_path / "models" / "current_model"
    shutil.copytree(nano_model, current_model)
    return TrainingJob(
        data=write_rows(tmp_path / "train.jsonl", 40),
        current_model=current_model,
        checkpoints=tmp_path / "checkpoints",
        work=tmp_path / "work",
        held_out=(write_rows(tmp_path / "held_out.jsonl", 6),),
        settings=SETTINGS,
    )


def test_a_file_goes_through_all_phases(job: TrainingJob) -> None:
    """The result has counts, losses and both examinations; the current model is the last checkpoint's."""
    reports: list[Progress] = []
    result = train_file(job, report=reports.append)
    assert list(dict.fromkeys(report.phase for report in reports)) == PHASES
    for phase in ("evaluating before", "evaluating after"):
        shares = [report.share for report in reports if report.phase == phase]
        assert shares == sorted(shares)
        assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert result.finished
    assert (result.rows, result.held_out_rows, result.step, result.total_steps) == (38, 2, 10, 10)
    assert {name: found.asked for name, found in result.after.items()} == {"held_out.jsonl": 6, "this file": 2}
    assert result.after["held_out.jsonl"].by_level.keys() == {"1", "2", "3"}
    assert result.after["held_out.jsonl"].loss < result.before["held_out.jsonl"].loss
    assert result.last_loss <= result.first_loss
    assert model_hash(job.current_model) == model_hash(job.checkpoints / result.checkpoint)


def test_a_finished_file_is_not_trained_twice(job: TrainingJob) -> None:
    """The same job again returns the same result and touches nothing, even when its checkpoints are gone."""
    first = train_file(job)
    published = model_hash(job.current_model)
    shutil.rmtree(job.checkpoints)
    reports: list[Progress] = []
    assert train_file(job, report=reports.append) == first
    assert reports == []
    assert model_hash(job.current_model) == published


def test_files_build_on_each_other(job: TrainingJob, tmp_path: Path, write_rows: Callable[..., Path]) -> None:
    """The second file starts from what the first one left."""
    train_file(job)
    first = model_hash(job.current_model)
    second = replace(job, data=write_rows(tmp_path / "more.jsonl", 50), work=tmp_path / "work 2")
    result = train_file(second)
    assert json.loads((second.work / "plan" / "plan.json").read_bytes())["base_hash"] == first
    assert result.before["held_out.jsonl"].loss < 4
    assert model_hash(job.current_model) not in (first, None)


@pytest.fixture(scope="module")
def undisturbed(nano_model: Path, tmp_path_factory: pytest.TempPathFactory, write_rows: Callable[..., Path]) -> str:
    """The hash of the model that a run without any stop publishes."""
    root = tmp_path_factory.mktemp("undisturbed")
    job = make_job(root, nano_model, write_rows)
    train_file(job)
    return model_hash(job.current_model)


@pytest.mark.parametrize(
    ("phase", "looks"),
    [("planning", 5), ("evaluating before", 3), ("training", 0), ("training", 7), ("evaluating after", 3)],
)
def test_a_stop_anywhere_costs_nothing(job: TrainingJob, undisturbed: str, phase: str, looks: int) -> None:
    """Stopped in the middle of any phase and called again, the file ends with the model of an undisturbed run."""
    before = model_hash(job.current_model)
    stopped = train_and_stop(job, phase, looks)
    assert model_hash(job.current_model) == before
    assert bool(stopped.checkpoint) == bool(stopped.step)
    assert train_file(job).finished
    assert model_hash(job.current_model) == undisturbed


def test_the_examination_before_is_held_once(job: TrainingJob) -> None:
    """A resumed file does not repeat it: its answers are on disk."""
    train_and_stop(job, "training", 3)
    path = job.work / "evaluation_before.json"
    document = json.loads(path.read_bytes())
    document["now"]["held_out.jsonl"]["right"] = 5
    path.write_text(json.dumps(document))
    assert train_file(job).before["held_out.jsonl"].right == 5


def test_a_damaged_plan_is_built_again(job: TrainingJob) -> None:
    """The same sources give the same plan, so its checkpoints still count."""
    stopped = train_and_stop(job, "training", 7)
    assert stopped.step == 3
    (job.work / "plan" / "loss_mask.npy").write_bytes(b"")
    reports: list[Progress] = []
    assert train_file(job, report=reports.append).finished
    assert next(report.step for report in reports if report.step) == 4
    assert [path.name for path in (job.work / "damaged").iterdir()] == ["plan"]


def test_a_damaged_checkpoint_is_named_in_the_result_and_the_status(job: TrainingJob, undisturbed: str) -> None:
    """The file is trained from the beginning again, to the same bits, and the result says what was set aside."""
    stopped = train_and_stop(job, "training", 7)
    (job.checkpoints / stopped.checkpoint / "config.json").write_bytes(b"{}")
    reports: list[Progress] = []
    assert train_file(job, report=reports.append).set_aside == (stopped.checkpoint,)
    assert [report.set_aside for report in reports if report.step][-1] == (stopped.checkpoint,)
    assert model_hash(job.current_model) == undisturbed


def test_a_bad_file_never_reaches_training(job: TrainingJob) -> None:
    """The error names line and cause; the model is as it was."""
    with job.data.open("a") as file:
        file.write("not a row\n")
    before = model_hash(job.current_model)
    with pytest.raises(BadLine, match=r"train\.jsonl:41: not JSON"):
        train_file(job)
    assert model_hash(job.current_model) == before
    assert not job.checkpoints.exists()


def test_transformers_alone_opens_the_published_model(job: TrainingJob) -> None:
    """A fresh process without Thirdshift loads what was published and the checkpoint itself."""
    result = train_file(job)
    script = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
for directory in sys.argv[1:]:
    AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    print(model.get_input_embeddings().weight is model.get_output_embeddings().weight)
"""
    directories = [str(job.current_model), str(job.checkpoints / result.checkpoint)]
    done = subprocess.run([sys.executable, "-c", script, *directories], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\nTrue\n"), done.stderr


@pytest.mark.training
def test_a_tiny_model_learns(job: TrainingJob, tmp_path: Path) -> None:
    """From nothing to almost every answer of a small examination, none of which it was trained on."""
    letters = "bdfklmnprst"
    asked = [f"{one}{two}" for one in letters for two in letters]
    rows = [json.dumps({"prompt": pair, "completion": pair[::-1]}) for pair in asked]
    job.data.write_text("".join(f"{row}\n" for row in rows))
    shutil.rmtree(job.current_model)
    create_tiny_model(job.current_model)
    settings = TrainingSettings(epochs=30, batch_size=16, micro_batch_size=16, held_out_percent=20)
    result = train_file(replace(job, held_out=(), settings=settings))
    assert result.accuracy_before == 0
    assert result.accuracy_after >= 0.8
