"""From the inbox to the queue: complete files only, each looked at before it may wait for training."""

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

    def tick(self) -> None:
        """Take every file that is complete."""
        for old, new in self._flattener.flatten():
            self._notify(Remarked(f"{old.relative_to(self._inbox)} moved up to {new.name}"))
        for path in self._watcher.get_new_files():
            self._take(path)
            self._watcher.mark_processed(path)
        for path in self._watcher.get_directories():
            self._refuse(path)

    def size(self) -> int:
        """Return how much lies in the inbox that will be taken once it is complete."""
        found = self._inbox.rglob("*.jsonl")
        return sum(not path.name.startswith(".") and not path.is_symlink() for path in found)

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
