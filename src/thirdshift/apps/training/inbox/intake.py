"""From the inbox to the queue: complete files only, claimed before they are read, checked before they may wait."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from thirdshift import BackgroundTaskManager
from thirdshift.apps.training.config import DaemonConfig
from thirdshift.apps.training.files.queue import TrainingQueue
from thirdshift.apps.training.inbox.checks import Checks
from thirdshift.apps.training.inbox.flattener import InboxFlattener
from thirdshift.apps.training.inbox.watcher import FileWatcher
from thirdshift.apps.training.notices import Notify, Remarked
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.host.waiting import Readable, Waker

_AT_ONCE = 64
"""Files that are in hand at most; the others wait in the inbox, and the loop goes on."""
_TICK_S = 0.05
"""Seconds after which a tick takes no further file: each costs a few syncs, and orders are to be obeyed meanwhile."""


class Intake:
    """Takes what people drop. A bad file goes to ``queue/failed`` with a report; nothing is ever deleted.

    *clock* counts seconds and never steps.
    """

    def __init__(
        self,
        workspace: TrainingWorkspace,
        queue: TrainingQueue,
        manager: BackgroundTaskManager,
        config: DaemonConfig,
        notify: Notify,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inbox = workspace.inbox.resolve()
        self._queue = queue
        self._notify = notify
        self._clock = clock
        self._refused: dict[Path, OSError] = {}
        self._flattener = InboxFlattener(self._inbox, settle_s=config.settle_s)
        self._checks = Checks(workspace, queue, manager, config.validation, notify, clock=clock)
        self._watcher = FileWatcher(self._inbox, settle_s=config.settle_s, say=lambda text: notify(Remarked(text)))
        events = [self._watcher] if self._watcher.has_events else []
        self._more = Waker()
        self.sources: list[Readable] = [self._checks.finished, self._more, *events]
        """What wakes a loop that sleeps when there is something to do here."""

    def recover(self) -> None:
        """Check again what a daemon before left half checked. Before any worker starts."""
        self._checks.recover()

    def flatten(self) -> None:
        """Move files out of sub-folders; before every tick."""
        for old, new in self._flattener.flatten():
            self._notify(Remarked(f"{old.relative_to(self._inbox)} moved up to {new.name}"))

    def tick(self) -> None:
        """Take the files that are complete, and bring those that were checked where they belong.

        Many are taken in several ticks, so that others have their turn. One that cannot be moved does not keep the
        others waiting: its error is raised once all were tried.
        """
        self._checks.tick()
        began_at = self._clock()
        for path in self._arrived():
            if path in self._refused:
                continue
            if self._clock() - began_at > _TICK_S:
                self._more.wake()
                return
            if error := self._try_to_take(path):
                self._refused[path] = error
        errors, self._refused = list(self._refused.values()), {}
        if errors:
            raise errors[0]

    def size(self) -> int:
        """Return how many files lie in the inbox that will be taken once they are complete, or are being checked."""
        return self._watcher.size() + self._flattener.size() + len(self._checks)

    def awaited(self) -> list[str]:
        """Return the files whose checks are waited for by those that would be trained after them."""
        return self._checks.awaited()

    def close(self) -> None:
        """Watch no more."""
        self._watcher.close()
        self._checks.finished.close()
        self._more.close()

    def _arrived(self) -> list[Path]:
        arrived = [*self._watcher.get_irregular(), *self._watcher.get_new_files()]
        return arrived[: max(0, _AT_ONCE - len(self._checks))]

    def _try_to_take(self, path: Path) -> OSError | None:
        try:
            self._take(path)
        except FileNotFoundError:
            return None  # its owner took it back, and may have laid another one there
        except OSError as error:
            return error if os.path.lexists(path) else None  # its owner took it back meanwhile
        self._watcher.mark_processed(path)
        return None

    def _take(self, path: Path) -> None:
        """Claim *path* out of the folder that the inbox is now, which must be no link to another."""
        folder = os.open(self._inbox, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            claimed = self._queue.checking.claim(path, folder=folder)
        finally:
            os.close(folder)
        self._checks.begin(claimed)
