"""The task functions of the training daemon: each runs in a child process and finds its services by the workspace.

Arguments are names and numbers, never objects. All may be run again at any time: what is done is found done.
"""

from pathlib import Path
from typing import Any

from thirdshift import Snooze, current_task, task
from thirdshift.apps.training.config import config_of
from thirdshift.apps.training.control import ControlFolder
from thirdshift.apps.training.data.rows import BadLine
from thirdshift.apps.training.inbox.generator import DataGenerator
from thirdshift.apps.training.job import Progress, TrainingJob
from thirdshift.apps.training.models.base_model import ensure_base_model
from thirdshift.apps.training.runs.decision import SKIPPED, Skipped
from thirdshift.apps.training.runs.train_file import train_file
from thirdshift.apps.training.saving.checkpoint_saver import CheckpointNotSaved
from thirdshift.apps.training.saving.checkpoints import CheckpointGone
from thirdshift.apps.training.saving.snapshots import SnapshotService
from thirdshift.apps.training.saving.staging import NoRoom
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.core.plain import plain
from thirdshift.host.disk import DiskGuard, says_no_space
from thirdshift.host.scheduling import idle_priority

EXAMINATION_COUNT = 192
"""Held-out puzzles that are asked before and after each file."""

DISK_PAUSE_S = 5.0
"""Seconds after which a training that cannot go on, because the disk is full, looks again where the daemon lets it."""

TRAINING_QUEUE = "training"
CHORES_QUEUE = "maintenance"


@task(queue=TRAINING_QUEUE, pool="process")
def train_queued_file(base_dir: str, name: str, key: str) -> dict[str, Any] | Snooze:
    """Train the file *name* in ``queue/processing`` on the current model; *key* names its own work folder.

    Returns ``{"result": …}``, or ``{"refused": "file:line: why"}`` for a file that cannot be trained, or is skipped.
    Asked to stop, it saves a checkpoint and is run again later.
    """
    context = current_task()
    workspace = TrainingWorkspace(base_dir)
    config = config_of(workspace)
    control = ControlFolder(workspace.control)
    disk = DiskGuard(config.disk.min_free_gb, config.disk.warn_free_gb)
    if disk.is_full(workspace.checkpoints):
        return Snooze(DISK_PAUSE_S)
    if not (workspace.processing / name).exists():  # somebody woke a task whose file is not in hand
        return Snooze(DISK_PAUSE_S)
    ensure_base_model(workspace, config.model)
    job = TrainingJob(
        data=workspace.processing / name,
        current_model=workspace.current_model,
        checkpoints=workspace.checkpoints,
        work=workspace.work / key,
        held_out=tuple(sorted(workspace.held_out.glob("*.jsonl"))),
        history=workspace.history,
        settings=config.training,
    )

    def report(progress: Progress) -> None:
        context.progress(progress.step, progress.total_steps, **plain(progress))

    def should_stop() -> bool:
        return context.should_stop or control.is_paused or disk.is_full(workspace.checkpoints)

    try:
        result = train_file(job, report=report, should_stop=should_stop)
    except BadLine as error:
        return {"refused": str(error)}
    except Skipped:
        return {"refused": SKIPPED}
    except (NoRoom, CheckpointNotSaved, OSError) as error:  # a full disk is no failure of the file
        if isinstance(error, OSError) and not says_no_space(error):
            raise
        context.log.warning("training waits: %s", error)
        return Snooze(DISK_PAUSE_S)
    return {"result": result.to_document()} if result.finished else Snooze()


@task(queue=CHORES_QUEUE, pool="process", max_retries=2)
def take_snapshot(base_dir: str, checkpoint: str | None = None) -> str:
    """Copy *checkpoint* (``None``: the newest) to the snapshots and verify the copy; returns its path.

    A checkpoint that was pruned before its turn came is represented by the newest, which goes on from it.
    """
    key = current_task().idempotency_key
    workspace = TrainingWorkspace(base_dir)
    config = config_of(workspace)
    with idle_priority():
        DiskGuard(config.disk.min_free_gb, config.disk.warn_free_gb).require(workspace.snapshots)
        service = SnapshotService(workspace.checkpoints, workspace.snapshots)
        try:
            return str(service.create_snapshot(checkpoint, key=key))
        except CheckpointGone:
            return str(service.create_snapshot(key=key))


@task(queue=CHORES_QUEUE, pool="process", max_retries=2, timeout=300)
def generate_puzzles(base_dir: str, count: int, seed: int | None, levels: tuple[int, ...]) -> str:
    """Write a file of *count* SYLLO puzzles into the inbox, and once the examination's; returns the file's path."""
    workspace = TrainingWorkspace(base_dir)
    with idle_priority():
        examination = workspace.held_out / "syllo.jsonl"
        if not examination.exists():
            DataGenerator.write_held_out(examination, EXAMINATION_COUNT, levels=levels)
        return str(DataGenerator(workspace.inbox).generate(count, seed=seed, levels=levels))


def work_key(name: str, arrived_at: str) -> str:
    """Return the name of a file's work folder: another arrival under the same name gets another folder."""
    moment = "".join(letter for letter in arrived_at if letter.isalnum())
    return f"{Path(name).stem}.{moment}"
