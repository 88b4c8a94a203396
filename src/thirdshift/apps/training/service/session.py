"""The file in hand: taken from the queue, trained by a durable task, brought to the archive or to ``failed``."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from blake3 import blake3

from thirdshift import BackgroundTask, BackgroundTaskManager, TaskStatus
from thirdshift.apps.training.config import DaemonConfig
from thirdshift.apps.training.files.queue import QueuedFile, TrainingQueue
from thirdshift.apps.training.job import FileResult
from thirdshift.apps.training.notices import (
    FileRecovered,
    FileRefused,
    Notify,
    Remarked,
    TrainingFinished,
    TrainingInterrupted,
    TrainingProgressed,
    TrainingStarted,
)
from thirdshift.apps.training.records.failures import record_failure
from thirdshift.apps.training.runs.decision import SKIPPED, skip
from thirdshift.apps.training.tasks import TRAINING_QUEUE, train_queued_file, work_key
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.core.engine import TaskFilter

_UNFINISHED = frozenset(TaskStatus) - {TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED}


class TrainingSession:
    """Holds at most one file in hand. The place of a file is the truth: where it and the store differ, it wins.

    *trained* is called with the checkpoint that a finished file ends in and the key of that file; after an error or a
    crash it may be called again with the same.
    """

    def __init__(
        self,
        workspace: TrainingWorkspace,
        queue: TrainingQueue,
        manager: BackgroundTaskManager,
        config: DaemonConfig,
        trained: Callable[[str, str], None],
        notify: Notify,
    ) -> None:
        self._workspace = workspace
        self._queue = queue
        self._manager = manager
        self._config = config
        self._trained = trained
        self._notify = notify
        self._file: QueuedFile | None = None
        self._task_id = ""
        self.progress: dict[str, Any] | None = None
        """The newest progress of the file in hand."""
        self.last_result: dict[str, Any] | None = None
        """What came of the last file: name, accuracy before and after, loss."""

    @property
    def file(self) -> QueuedFile | None:
        """The file in hand."""
        return self._file

    def recover(self) -> None:
        """Bring to rest what a crashed daemon left, and end tasks whose file is gone. Before any worker starts."""
        for found in self._queue.recover_orphans():
            self._notify(FileRecovered(found.name, found.finished))
        waiting = {_key(file) for file in self._queue.queued()}
        for task in self._unfinished_tasks():
            if _key_of(task) not in waiting:
                self._manager.cancel_task(task.id)
        for folder in self._workspace.work.iterdir():
            if folder.is_dir() and folder.name not in waiting:
                shutil.rmtree(folder)

    def begin(self, awaited: Iterable[str] = ()) -> bool:
        """Take the next file and see that a task trains it; False when none may be taken or a file is in hand.

        *awaited* are being checked: those behind them wait too.
        """
        if self._file is not None:
            return False
        file = self._file = self._queue.get_next(awaited)
        if file is None:
            return False
        self._task_id = self._task_of(file)
        self._notify(TrainingStarted(file.name))
        return True

    def tick(self) -> None:
        """Look after the file in hand."""
        file = self._file
        if file is None:
            return
        task = self._manager.get_task(self._task_id)
        if not os.path.lexists(file.path):
            self._let_go(file)
        elif task is None:  # pruned by hand, or the store was busy when it was to be made: the file is still here
            self._task_id = self._task_of(file)
        elif task.status is TaskStatus.COMPLETED:
            self._finish(file, task.result)
        elif task.status.is_finished:
            self._fail(file, task)
        elif task.progress is not None:
            self.progress = dict(task.progress)
            self._notify(TrainingProgressed(file.name, self.progress))

    def skip(self) -> None:
        """Give up the file in hand and go on with the next, unless it is trained already; says what came of it.

        It lies in ``failed``, from where a retry brings it back; what was trained of it is in no model. It is decided
        first, against the process that may be about to publish it. A crash after that is a skip too: whoever trains the
        file next finds the decision.
        """
        self.tick()
        file = self._file
        if file is None:
            self._notify(Remarked("no file is in hand that could be skipped; nothing was done"))
        elif not skip(self._workspace.work / _key(file)):
            self._notify(Remarked(f"{file.name} is not skipped: how it ends is decided already, and told then"))
        else:
            self._manager.cancel_task(self._task_id)
            self._refuse(file, {"cause": SKIPPED, "attempts": file.attempts + 1, "task": self._task_id})
            self._notify(Remarked(f"`thirdshift train queue retry {file.name}` brings it back"))

    def lay_aside(self) -> None:
        """Put the file in hand back to the head of the queue, after the worker has stopped; its task waits too."""
        try:
            self.tick()
        finally:
            if self._file is not None:
                self._queue.give_back(self._file.name, goes_first=True)
                self._notify(TrainingInterrupted(self._file.name))
                self._drop()

    def _task_of(self, file: QueuedFile) -> str:
        """Return the task that trains *file*: one that a stop or a crash left unfinished, or that of this try."""
        left = next((task.id for task in self._unfinished_tasks() if _key_of(task) == _key(file)), None)
        return left or self._submit(file)

    def _submit(self, file: QueuedFile) -> str:
        """Submit one try, once: where a crash kept us from noticing its end, it is found ended."""
        task_id: str | None = blake3(f"train {_key(file)}, {file.attempts}".encode()).hexdigest(length=16)
        if self._manager.get_task_status(str(task_id)) is TaskStatus.CANCELLED:  # its file was gone, and is back
            task_id = None
        options = self._manager.options(tags=[_tag(file)], max_retries=0, task_id=task_id)
        return options.submit(train_queued_file, str(self._workspace.root), file.name, _key(file)).id

    def _finish(self, file: QueuedFile, answer: dict[str, Any]) -> None:
        """Archive *file*. Its checkpoint is announced before: a crash in between announces it again, and not never."""
        if "refused" in answer:
            self._refuse(file, {"cause": answer["refused"], "attempts": file.attempts + 1})
            return
        result = FileResult.from_document(answer["result"])
        if result.held_back:
            self._hold_back(file, result)
            return
        self.last_result = {
            "file": file.name,
            "accuracy_before": result.accuracy_before,
            "accuracy_after": result.accuracy_after,
            "first_loss": result.first_loss,
            "last_loss": result.last_loss,
            "checkpoint": result.checkpoint,
        }
        self._trained(result.checkpoint, _key(file))
        report = {**self.last_result, "task": self._task_id, **answer["result"]}
        self._queue.mark_completed(file.name, report, self._workspace.archive)
        self._notify(TrainingFinished(file.name, result, self._workspace.checkpoints / result.checkpoint))
        self._drop()

    def _hold_back(self, file: QueuedFile, result: FileResult) -> None:
        """The gate has held *file* back and the model is as it was; the record in the history says so already."""
        cause = (
            f"held back, for it makes earlier files worse: {'; '.join(result.held_back)}. The model is as it was. "
            f"'thirdshift train accept {file.name}' publishes it all the same"
        )
        self._refuse(file, {"cause": cause, "task": self._task_id, **result.to_document()}, is_recorded=True)

    def _fail(self, file: QueuedFile, task: BackgroundTask) -> None:
        """Try *file* again later, behind all others, or give it up."""
        cause = str(task.error) if task.error is not None else f"its task was {task.status.value}"
        attempts = file.attempts + 1
        if task.status is TaskStatus.CANCELLED or attempts >= self._config.max_attempts:
            self._refuse(file, {"cause": cause, "attempts": attempts, "last_error": cause, "task": task.id})
            return
        pause_s = self._config.retry_pause_s * 2**file.attempts
        self._queue.try_again(file.name, cause, pause_s)
        of = f"attempt {attempts} of {self._config.max_attempts}"
        self._notify(Remarked(f"{file.name} failed ({of}): {cause}; it is tried again in {pause_s:g} s"))
        self._drop()

    def _refuse(self, file: QueuedFile, report: dict[str, Any], *, is_recorded: bool = False) -> None:
        key = _key(file)
        if not is_recorded:
            record_failure(self._workspace, file.name, key, report["cause"])
        target = self._queue.mark_failed(file.name, {**report, "history": key, "final_failure": True})
        self._notify(FileRefused(file.name, report["cause"], target))
        self._drop()

    def _let_go(self, file: QueuedFile) -> None:
        """Somebody took *file* out of processing: that ends its training."""
        self._manager.cancel_task(self._task_id)
        self._notify(Remarked(f"{file.name} was taken out of queue/processing by hand; its training is cancelled"))
        self._drop()

    def _drop(self) -> None:
        """Forget the file in hand; the work of one that waits again is kept for when it goes on."""
        if self._file is not None and self._file.name not in {file.name for file in self._queue.queued()}:
            self._remove_work(self._workspace.work / _key(self._file))
        self._file = None
        self._task_id = ""
        self.progress = None

    def _remove_work(self, work: Path) -> None:
        """A process that has not died yet of being cancelled finds no folder there, and so cannot publish anything."""
        leaving = work.with_name(f".{work.name}.leaving")
        with contextlib.suppress(FileNotFoundError):
            work.rename(leaving)
        shutil.rmtree(leaving, ignore_errors=True)

    def _unfinished_tasks(self) -> list[BackgroundTask]:
        wanted = TaskFilter(statuses=_UNFINISHED, queue=TRAINING_QUEUE, name=train_queued_file.__name__, limit=1000)
        return list(self._manager.find_tasks(wanted))


def _key(file: QueuedFile) -> str:
    return work_key(file.name, file.arrived_at.isoformat())


def _tag(file: QueuedFile) -> str:
    return f"file:{_key(file)}"


def _key_of(task: BackgroundTask) -> str:
    return next((tag.removeprefix("file:") for tag in task.tags if tag.startswith("file:")), "")
