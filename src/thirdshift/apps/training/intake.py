"""From the inbox to the queue: complete files only, each looked at before it may wait for training."""

import os
from pathlib import Path

from thirdshift.apps.training.flattener import InboxFlattener
from thirdshift.apps.training.notices import FileAccepted, FileRefused, Notify, Remarked
from thirdshift.apps.training.queue import TrainingQueue
from thirdshift.apps.training.validation import validate
from thirdshift.apps.training.watcher import FileWatcher
from thirdshift.apps.training.workspace import TrainingWorkspace


class Intake:
    """Takes what people drop. A bad file goes to ``queue/failed`` with a report; nothing is ever deleted."""

    def __init__(self, workspace: TrainingWorkspace, queue: TrainingQueue, settle_s: float, notify: Notify) -> None:
        self._inbox = workspace.inbox
        self._queue = queue
        self._notify = notify
        self._flattener = InboxFlattener(workspace.inbox, settle_s=settle_s)
        self._watcher = FileWatcher(workspace.inbox, settle_s=settle_s)

    def flatten(self) -> None:
        """Move files out of sub-folders; before every tick."""
        for old, new in self._flattener.flatten():
            self._notify(Remarked(f"{old.relative_to(self._inbox)} moved up to {new.name}"))

    def tick(self) -> None:
        """Take every file that is complete. One that cannot be moved does not keep the others waiting."""
        errors = [error for path in self._watcher.get_new_files() if (error := self._try_to_take(path))]
        for path in self._watcher.get_directories():
            self._refuse(path)
        if errors:
            raise errors[0]

    def size(self) -> int:
        """Return how many files lie in the inbox that will be taken once they are complete."""
        return self._watcher.size() + self._flattener.size()

    def _try_to_take(self, path: Path) -> OSError | None:
        try:
            self._take(path)
        except OSError as error:
            return error if os.path.lexists(path) else None  # its owner took it back meanwhile
        self._watcher.mark_processed(path)
        return None

    def _take(self, path: Path) -> None:
        report = validate(path)
        if not report.is_sound:
            self._refuse(path)
            return
        queued = self._queue.add(path)
        self._notify(FileAccepted(queued.name, report.rows))

    def _refuse(self, path: Path) -> None:
        report = validate(path)
        target = self._queue.reject(path, {**report.to_dict(), "attempts": 0, "final_failure": True})
        self._notify(FileRefused(path.name, report.cause, target))
