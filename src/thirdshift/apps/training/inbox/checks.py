"""Follows the checks of dropped files, and brings each file where its check sends it.

Checks have a queue and a worker of their own: no snapshot and no consolidation is before them. Of large files one is
looked at at a time, so that a small one always finds a place beside it.
"""

import re
import time
from collections.abc import Callable
from typing import Any

from thirdshift import BackgroundTask, BackgroundTaskManager, TaskStatus
from thirdshift.apps.training.config import ValidationConfig
from thirdshift.apps.training.files.checking import ClaimedFile
from thirdshift.apps.training.files.queue import TrainingQueue
from thirdshift.apps.training.inbox.check_task import INTAKE_QUEUE, check_file
from thirdshift.apps.training.inbox.file_kind import kind_of
from thirdshift.apps.training.inbox.finish_waker import FinishWaker
from thirdshift.apps.training.notices import FileAccepted, FileRefused, Notify, Remarked
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.core.engine import TaskFilter
from thirdshift.core.task import AttemptOutcome

SLOTS = 2
"""Files that are looked at at once."""
PATIENCE_S = 60.0
"""Seconds from the beginning of a check for which files that would be trained after it wait for its end."""
_LARGE_BYTES = 64 * 10**6
_FORCED = re.compile(r"\.force(-\d+)?\.jsonl$")
_UNFINISHED = frozenset(status for status in TaskStatus if not status.is_finished)


class Checks:
    """The files in ``queue/checking``, each with its task. The place of a file is the truth, tasks are made for it."""

    def __init__(
        self,
        workspace: TrainingWorkspace,
        queue: TrainingQueue,
        manager: BackgroundTaskManager,
        config: ValidationConfig,
        notify: Notify,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workspace = workspace
        self._queue = queue
        self._manager = manager
        self._config = config
        self._notify = notify
        self._clock = clock
        self._tasks: dict[str, str] = {}
        self._begun_at: dict[str, float] = {}
        self.finished = FinishWaker(manager)
        """Is readable when a check has ended."""

    def __len__(self) -> int:
        return len(self._tasks)

    def recover(self) -> None:
        """End the checks of before: what lies there is checked again. Before any worker starts."""
        for task in self._manager.find_tasks(TaskFilter(statuses=_UNFINISHED, queue=INTAKE_QUEUE, limit=1000)):
            self._manager.cancel_task(task.id)
        self._begun_at = dict.fromkeys(self._queue.checking.names(), self._clock())

    def awaited(self) -> list[str]:
        """Return the files that are being checked, and not for longer than :data:`PATIENCE_S`."""
        now = self._clock()
        return [name for name, begun_at in self._begun_at.items() if now - begun_at < PATIENCE_S]

    def begin(self, file: ClaimedFile) -> None:
        """Have *file* looked at; one that is no plain file of its own is refused unread."""
        if why := _unfit(file):
            self._refuse(file.name, {"cause": f"{file.name}: {why}", "attempts": 0})
            return
        self._submit(file.name)

    def tick(self) -> None:
        """Bring the files whose checks have ended to where they belong; begin those that have none."""
        for name, task_id in list(self._tasks.items()):
            if not (self._workspace.checking / name).exists():
                self._let_go(name, task_id)
                continue
            task = self._manager.get_task(task_id)
            if task is None:  # pruned by hand: the file is still here
                self._submit(name)
            elif task.status.is_finished:
                self._finish(name, task)
        if set(self._queue.checking.names()) - set(self._tasks):
            for file in self._queue.checking.files():
                if file.name not in self._tasks:
                    self.begin(file)

    def _submit(self, name: str) -> None:
        is_large = (self._workspace.checking / name).lstat().st_size > _LARGE_BYTES
        limit_key = "check of a large file" if is_large else None
        # Relaxed: every start checks what lies here anew, so a power loss may take the task with it.
        options = self._manager.options(tags=[f"check:{name}"], limit_key=limit_key, durability="relaxed")
        task_id = options.submit(check_file, str(self._workspace.root), name, self._config.level).id
        self._tasks[name] = task_id
        self._begun_at.setdefault(name, self._clock())
        self.finished.watch(task_id)

    def _finish(self, name: str, task: BackgroundTask) -> None:
        if task.status is not TaskStatus.COMPLETED:
            why = str(task.error) if task.error else f"it was {task.status.value}"
            self._refuse(
                name, {"cause": f"{name}: its check came to no end: {why}", "attempts": _failed_attempts(task)}
            )
        elif not task.result["is_sound"]:
            self._refuse(name, {**task.result, "attempts": 0})
        elif not is_forced(name) and (twin := self._queue.checking.twin_of(name, task.result["content_hash"])):
            self._archive(name, twin, task.result)
        else:
            self._accept(name, task.result)

    def _accept(self, name: str, found: dict[str, Any]) -> None:
        path = self._queue.checking.accept(name, found)
        self._forget(name)
        self._notify(FileAccepted(path.name, found["rows"]))
        lengths = found["lengths"]
        if lengths is not None and lengths["cut_rows"]:
            text = f"{lengths['cut_rows']:,} of {lengths['rows']:,} rows looked at are longer than the model's context"
            self._notify(Remarked(f"{path.name}: {text} of {lengths['context']:,} tokens; their questions are cut"))

    def _archive(self, name: str, twin: str, found: dict[str, Any]) -> None:
        cause = f"duplicate of {twin}"
        report = {"cause": cause, "duplicate_of": twin, "trained": False, "validation": found}
        target = self._queue.checking.archive(name, report, self._workspace.archive)
        self._forget(name)
        again = f"to train it again: thirdshift train add --force {target.relative_to(self._workspace.root)}"
        self._notify(Remarked(f"{name} is a {cause}; archived untrained. {again}"))

    def _refuse(self, name: str, report: dict[str, Any]) -> None:
        target = self._queue.checking.refuse(name, {**report, "final_failure": True})
        self._forget(name)
        self._notify(FileRefused(name, report["cause"], target))

    def _let_go(self, name: str, task_id: str) -> None:
        self._manager.cancel_task(task_id)
        self._queue.checking.forget(name)
        self._forget(name)
        self._notify(Remarked(f"{name} was taken out of queue/checking by hand; it is not checked"))

    def _forget(self, name: str) -> None:
        self._tasks.pop(name, None)
        self._begun_at.pop(name, None)


def _failed_attempts(task: BackgroundTask) -> int:
    """Count how often the check of *task* failed or its process died. A daemon that was stopped makes a new task."""
    failed = (AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT, AttemptOutcome.INTERRUPTED)
    return sum(attempt.outcome in failed for attempt in task.attempts)


def is_forced(name: str) -> bool:
    """Whether the file *name* is to be trained though its content was before: ``rows.force.jsonl``."""
    return _FORCED.search(name) is not None


def _unfit(file: ClaimedFile) -> str | None:
    """Say why *file* is not even to be read."""
    if kind := kind_of(file.path):
        return f"is {kind}; only a regular file can be trained"
    if file.path.lstat().st_nlink > 1:
        return "has another name elsewhere (a hard link), by which it may change at any time. Drop a copy of it"
    return None
