"""The chores beside the training, without a worker: what is asked for, and what is remembered of it."""

import os
import signal
from pathlib import Path

from thirdshift import BackgroundTaskManager, TaskFilter
from thirdshift.apps.training.config import GeneratorConfig
from thirdshift.apps.training.saving.checkpoints import CheckpointFacts, CheckpointStore
from thirdshift.apps.training.saving.snapshot_interval import is_snapshot_due
from thirdshift.apps.training.service.chores import Chores
from thirdshift.apps.training.service.inline_chores import InlineChores
from thirdshift.apps.training.tasks import take_snapshot
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.core.task import AttemptOutcome
from thirdshift.storage.verified import verify


def seeds_of(manager: BackgroundTaskManager, workspace: TrainingWorkspace, times: int) -> list[int]:
    """Ask for so many files, each at a start of its own, and forget each one's task as pruning does."""
    seeds = []
    for _ in range(times):
        chores = Chores(workspace, manager, GeneratorConfig(seed=7), lambda _notice: None)
        chores.generate(waiting=0, limit=None)
        (task,) = manager.find_tasks()
        seeds.append(task.arguments[0][2])
        manager.cancel_tasks(TaskFilter())
        manager.delete_tasks(TaskFilter())
    return seeds


def test_every_generated_file_has_a_seed_of_its_own(tmp_path: Path) -> None:
    """Also after restarts, and when the tasks that made the earlier ones are pruned."""
    workspace = TrainingWorkspace(tmp_path)
    workspace.create()
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False) as manager:
        assert seeds_of(manager, workspace, 3) == [7, 8, 9]
        workspace.generations.write_text("half a num")
        assert seeds_of(manager, workspace, 1) == [7]


def test_a_workspace_without_the_number_counts_its_tasks(tmp_path: Path) -> None:
    """As it did before there was a number."""
    workspace = TrainingWorkspace(tmp_path)
    workspace.create()
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False) as manager:
        for expected in (7, 8):
            workspace.generations.unlink(missing_ok=True)
            chores = Chores(workspace, manager, GeneratorConfig(seed=7), lambda _notice: None)
            chores.generate(waiting=0, limit=None)
            assert manager.find_tasks()[0].arguments[0][2] == expected
            manager.cancel_tasks(TaskFilter())


def test_a_snapshot_is_due_when_the_last_is_old_and_a_checkpoint_newer(tmp_path: Path) -> None:
    """Without any, the first checkpoint's age counts; what is no checkpoint is passed over."""
    checkpoints, snapshots = tmp_path / "checkpoints", tmp_path / "snapshots"
    for folder in (checkpoints / "damaged", checkpoints / "ckpt-000009.tmp-7", snapshots):
        folder.mkdir(parents=True)
    now = 1_800_000_000.0

    def is_due() -> bool:
        return is_snapshot_due(checkpoints, snapshots, interval_s=3600, now=now)

    assert not is_due(), "there is nothing to take"
    (checkpoints / "ckpt-000002").mkdir()
    os.utime(checkpoints / "ckpt-000002", (now - 3000, now - 3000))
    assert not is_due(), "the first one is young"
    os.utime(checkpoints / "ckpt-000002", (now - 7200, now - 7200))
    assert is_due()
    (snapshots / "ckpt-000002_20270115_080000").mkdir()
    os.utime(snapshots / "ckpt-000002_20270115_080000", (now - 7200, now - 7200))
    assert not is_due(), "nothing is newer"
    (checkpoints / "ckpt-000003").mkdir()
    assert is_due()
    os.utime(snapshots / "ckpt-000002_20270115_080000", (now - 3000, now - 3000))
    assert not is_due(), "the last one is young"


def test_one_snapshot_is_asked_for_however_often_it_is_due(tmp_path: Path) -> None:
    """Also when the daemon starts again before it is taken."""
    workspace = TrainingWorkspace(tmp_path)
    workspace.create()
    (workspace.checkpoints / "ckpt-000001").mkdir()
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False) as manager:
        for _ in range(2):
            chores = Chores(workspace, manager, GeneratorConfig(), lambda _notice: None)
            for _ in range(3):
                chores.snapshot_when_due(0)
        assert [task.name for task in manager.find_tasks()] == ["take_snapshot"]


def test_a_snapshot_whose_process_is_killed_is_taken_once(tmp_path: Path) -> None:
    """Killed in the middle of its copy, the chore is tried again: one verified snapshot, and nothing half made."""
    workspace = TrainingWorkspace(tmp_path)
    workspace.create()

    def fill(folder: Path) -> None:
        with (folder / "model.safetensors").open("wb") as weights:
            weights.truncate(100_000_000)

    facts = CheckpointFacts(plan_hash="", base_hash="", data_name="", step=1, total_steps=1, numerics={})
    CheckpointStore(workspace.checkpoints).save(fill, facts)
    with BackgroundTaskManager("process", 1, database=tmp_path / "tasks.db") as manager:
        taking = manager.submit(take_snapshot, str(tmp_path))
        while not (half_made := next(workspace.snapshots.glob("*.tmp-*"), None)):
            assert not manager.get_task_status(taking.id).is_finished
        os.kill(int(half_made.name.rpartition("-")[2]), signal.SIGKILL)
        taken = Path(taking.result(timeout=60))
        task = manager.get_task(taking.id)
    assert task is not None
    assert [attempt.outcome for attempt in task.attempts] == [AttemptOutcome.INTERRUPTED, AttemptOutcome.COMPLETED]
    assert list(workspace.snapshots.iterdir()) == [taken]
    verify(taken)


def test_chores_in_line_are_done_when_the_call_returns(tmp_path: Path) -> None:
    """With `background: {enabled: false}`; no worker is left behind, and after a stop nothing is begun."""
    workspace = TrainingWorkspace(tmp_path)
    workspace.create()
    database = tmp_path / "tasks.db"

    def make_worker() -> BackgroundTaskManager:
        return BackgroundTaskManager("process", 1, database=database, queues=["maintenance"])

    said: list[object] = []
    with BackgroundTaskManager(database=database, start=False) as manager:
        chores = Chores(workspace, manager, GeneratorConfig(count=5), said.append)
        chores.generate(waiting=0, limit=None)
        InlineChores(chores, make_worker, lambda: True).tick()
        assert list(workspace.inbox.glob("*.jsonl")) == []
        InlineChores(chores, make_worker, lambda: False).tick()
        assert len(list(workspace.inbox.glob("*.jsonl"))) == 1
        assert [worker for worker in manager.workers() if worker.is_alive] == []
        chores.tick()
        assert chores.is_idle
