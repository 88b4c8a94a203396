"""The chores beside the training: puzzles when people drop too little, a snapshot of every new checkpoint."""

import time
from pathlib import Path
from typing import Any

from blake3 import blake3

from thirdshift import BackgroundTask, BackgroundTaskManager, StoreError, TaskStatus
from thirdshift.apps.training.config import GeneratorConfig
from thirdshift.apps.training.inbox.generator import DataGenerator
from thirdshift.apps.training.notices import ChoreFailed, Notify, Remarked, SnapshotTaken
from thirdshift.apps.training.saving.snapshot_interval import is_snapshot_due
from thirdshift.apps.training.saving.snapshots import SnapshotService
from thirdshift.apps.training.tasks import CHORES_QUEUE, generate_puzzles, take_snapshot
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.core.engine import TaskFilter
from thirdshift.host.files import write_atomically

_RECENT = 10
_LOOK_S = 60.0
"""Seconds between two looks whether a snapshot is due."""
_UNFINISHED = frozenset(status for status in TaskStatus if not status.is_finished)


class Chores:
    """Submits chores as durable background tasks and follows the ones of this start."""

    def __init__(
        self, workspace: TrainingWorkspace, manager: BackgroundTaskManager, config: GeneratorConfig, notify: Notify
    ) -> None:
        self._workspace = workspace
        self._root = str(workspace.root)
        self._manager = manager
        self._config = config
        self._notify = notify
        self._generated = 0
        self._next_look = 0.0
        self._followed: dict[str, str] = {task.id: task.name for task in self._unfinished()}

    @property
    def is_idle(self) -> bool:
        """Whether every chore that was followed has ended."""
        return not self._followed

    def recover(self) -> None:
        """Remove what killed chores left half done. Before any worker starts: then no chore is at work."""
        SnapshotService(self._workspace.checkpoints, self._workspace.snapshots).sweep()
        DataGenerator(self._workspace.inbox).sweep()

    def snapshot(self, checkpoint: str | None = None) -> None:
        """Take a snapshot of *checkpoint* (``None``: the newest) in the background."""
        self._follow(self._manager.submit_task(take_snapshot, self._root, checkpoint))

    def snapshot_after(self, checkpoint: str, key: str) -> None:
        """Take one snapshot of *checkpoint*, in which the file of that *key* ended, however often this is called."""
        snapshot_id = blake3(f"snapshot after {key}".encode()).hexdigest(length=16)
        options = self._manager.options(task_id=snapshot_id)
        self._follow(options.submit(take_snapshot, self._root, checkpoint).id)

    def snapshot_when_due(self, interval_hours: float) -> None:
        """Take a snapshot when the last one is older than that and there is a newer checkpoint; looks now and then."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_S
        folders = self._workspace.checkpoints, self._workspace.snapshots
        is_asked = take_snapshot.__name__ in self._followed.values()
        if not is_asked and is_snapshot_due(*folders, interval_s=interval_hours * 3600, now=time.time()):
            self.snapshot()

    def generate(self, waiting: int, limit: int | None) -> None:
        """Make one file of puzzles when fewer than ``min_queue_size`` files are *waiting*, at most *limit* in all."""
        config = self._config
        is_making = generate_puzzles.__name__ in self._followed.values()
        is_done = limit is not None and self._generated >= limit
        if not config.enabled or is_making or is_done or waiting >= config.min_queue_size:
            return
        seed = config.seed + self._count_generation()
        options = self._manager.options(timeout=config.timeout_s)
        self._generated += 1
        self._follow(options.submit(generate_puzzles, self._root, config.count, seed, config.levels).id)

    def tick(self) -> None:
        """Say what came of the chores that have ended."""
        for task_id in list(self._followed):
            task = self._manager.get_task(task_id)
            if task is None or task.status.is_finished:
                name = self._followed.pop(task_id)
                if task is not None:
                    self._tell(name, task)

    def describe(self) -> dict[str, Any]:
        """Return the chores for the status file: how many wait, which run, the last ten that ended.

        It answers also when the store does not, for then the status is needed most.
        """
        try:
            tasks = self._manager.find_tasks(TaskFilter(queue=CHORES_QUEUE, limit=100))
        except StoreError as error:
            return {"queue_size": None, "running": [], "recent": [], "error": str(error)}
        running = [task for task in tasks if task.status is TaskStatus.RUNNING]
        ended = [task for task in tasks if task.status.is_finished]
        return {
            "queue_size": len(tasks) - len(running) - len(ended),
            "running": [_described(task) for task in running],
            "recent": [_described(task) for task in ended[:_RECENT]],
        }

    def _follow(self, task_id: str) -> None:
        task = self._manager.get_task(task_id)
        self._followed[task_id] = "" if task is None else task.name

    def _tell(self, name: str, task: BackgroundTask) -> None:
        if task.status is not TaskStatus.COMPLETED:
            self._notify(ChoreFailed(name, str(task.error) if task.error else task.status.value))
        elif name == take_snapshot.__name__:
            self._notify(SnapshotTaken(Path(task.result)))
        else:
            self._notify(Remarked(f"generated {Path(task.result).name}"))

    def _unfinished(self) -> list[BackgroundTask]:
        wanted = TaskFilter(statuses=_UNFINISHED, queue=CHORES_QUEUE, limit=1000)
        return list(self._manager.find_tasks(wanted))

    def _count_generation(self) -> int:
        """Return how many files were asked for before this one, so that each gets a seed of its own for ever.

        The number stands in a file, because finished tasks are pruned; a workspace without it counts its tasks.
        """
        file = self._workspace.generations
        try:
            number = int(file.read_bytes())
        except (FileNotFoundError, ValueError):
            number = sum(self._manager.count_tasks(TaskFilter(name=generate_puzzles.__name__)).values())
        write_atomically(file, f"{number + 1}\n".encode())
        return number


def _described(task: BackgroundTask) -> dict[str, Any]:
    return {
        "name": task.name,
        "started_at": task.started_at,
        "completed_at": task.finished_at,
        "error": None if task.error is None else str(task.error),
        "result": task.result,
    }
