"""A file that is skipped in the moment in which it is trained to its end is either skipped or completed, never both."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager
from thirdshift.apps.training.config import DaemonConfig
from thirdshift.apps.training.files.queue import TrainingQueue
from thirdshift.apps.training.job import Progress, TrainingJob
from thirdshift.apps.training.models.model import create_tiny_model, model_hash
from thirdshift.apps.training.notices import FileRefused, Notice, Remarked
from thirdshift.apps.training.runs.decision import Skipped, decide, skip
from thirdshift.apps.training.runs.train_file import train_file
from thirdshift.apps.training.service.session import TrainingSession
from thirdshift.apps.training.settings import TrainingSettings
from thirdshift.apps.training.tasks import work_key
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.testing import run_until_idle


class Office:
    """A session with one file in hand, whose task nobody works on until a test does."""

    def __init__(self, root: Path, manager: BackgroundTaskManager) -> None:
        self.workspace = TrainingWorkspace(root)
        self.workspace.create()
        self.manager = manager
        self.told: list[Notice] = []
        (root / "thirdshift.yaml").write_text("training: {disk: {min_free_gb: 0}, model: {size: nano}}")
        (root / "rows.jsonl").write_text('{"prompt": "1 + 1 =", "completion": "2"}\n')
        TrainingQueue(self.workspace.queue).add(root / "rows.jsonl")
        self.session = self.start()
        file = self.session.file
        assert file is not None
        self.work = self.workspace.work / work_key(file.name, file.arrived_at.isoformat())

    def start(self) -> TrainingSession:
        """Start a session as the daemon does, also after one that was killed, and take the file in hand."""
        queue = TrainingQueue(self.workspace.queue)
        session = TrainingSession(
            self.workspace, queue, self.manager, DaemonConfig(), lambda _checkpoint, _key: None, self.told.append
        )
        session.recover()
        assert session.begin()
        return session

    def cause(self) -> str:
        """Return why the file was given up."""
        report = json.loads((self.workspace.failed / "rows.jsonl.report.json").read_bytes())
        return str(report["cause"])


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False) as manager:
        yield Office(tmp_path, manager)


def test_a_skip_before_the_gate_decided_gives_the_file_up(office: Office) -> None:
    """It lies in failed, its task is cancelled, and its work is gone."""
    office.session.skip()
    assert office.session.file is None
    assert office.cause() == "skipped by order"
    assert office.told[-1] == Remarked("`thirdshift train queue retry rows.jsonl` brings it back")
    assert not office.work.exists()
    assert run_until_idle(office.manager) == []


def test_a_skip_after_the_gate_decided_is_told_to_come_too_late(office: Office) -> None:
    """Nothing is changed: the file in hand comes to its end."""
    office.work.mkdir()
    decided = decide(office.work, "rows.jsonl", lambda: {"held_back": [], "is_accepted": False})
    office.session.skip()
    assert isinstance(office.told[-1], Remarked)
    assert office.told[-1].text.startswith("rows.jsonl is not skipped: how it ends is decided already")
    assert office.session.file is not None
    assert decide(office.work, "rows.jsonl", dict) == decided


def test_a_skip_that_a_crash_cut_short_is_a_skip(office: Office) -> None:
    """Decided, and nothing more: the next daemon finds it before it trains anything."""
    assert skip(office.work)
    session = office.start()
    run_until_idle(office.manager)
    session.tick()
    assert session.file is None
    assert office.cause() == "skipped by order"
    assert [notice for notice in office.told if isinstance(notice, FileRefused)]


def test_skip_and_publication_in_one_moment(tmp_path: Path, write_rows: Callable[..., Path]) -> None:
    """The file is trained and examined; the model is as it was when the skip was first, and else there is none."""
    model = tmp_path / "model"
    create_tiny_model(model, seed=7, size="nano")
    job = TrainingJob(
        data=write_rows(tmp_path / "rows.jsonl", 10),
        current_model=model,
        checkpoints=tmp_path / "checkpoints",
        work=tmp_path / "work",
        history=tmp_path / "history",
        settings=TrainingSettings(epochs=1, batch_size=8, micro_batch_size=8),
    )
    before = model_hash(model)

    def skip_it(progress: Progress) -> None:
        if progress.phase == "publishing":
            assert skip(job.work)

    for _ in range(2):  # also when it is called again
        with pytest.raises(Skipped, match=r"rows\.jsonl was skipped by order"):
            train_file(job, report=skip_it)
    assert model_hash(model) == before
    assert not job.history.exists()
    (job.work / "decision.json").unlink()
    assert train_file(job).finished
    assert not skip(job.work)
    assert model_hash(model) != before
