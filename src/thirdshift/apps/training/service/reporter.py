"""The daemon's status, gathered from those who know it and written after every pass."""

import os
import time
from typing import Any

from thirdshift.apps.training.files.queue import TrainingQueue
from thirdshift.apps.training.service.admission import Admission
from thirdshift.apps.training.service.chores import Chores
from thirdshift.apps.training.service.session import TrainingSession
from thirdshift.apps.training.service.status import StatusFile, training_status
from thirdshift.apps.training.service.status_writer import StatusWriter
from thirdshift.apps.training.service.troubles import Troubles
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.host.disk import DiskGuard
from thirdshift.host.waiting import LoopWait


class Reporter:
    """Has ``status/training_status.json`` written, in a thread; to be closed."""

    def __init__(
        self,
        workspace: TrainingWorkspace,
        queue: TrainingQueue,
        disk: DiskGuard,
        session: TrainingSession,
        chores: Chores,
        admission: Admission,
        troubles: Troubles,
        loop: LoopWait,
    ) -> None:
        self._workspace = workspace
        self._file = StatusFile(workspace.status_file)
        self._writer = StatusWriter(self._file)
        self._queue = queue
        self._disk = disk
        self._session = session
        self._chores = chores
        self._admission = admission
        self._troubles = troubles
        self._loop = loop
        self._started_at = time.time()
        self.document: dict[str, Any] = {}
        """The newest status, also when it could not be written; replaced as a whole, for any thread to read."""

    def found_a_crash(self) -> bool:
        """Return whether the daemon before did not stop cleanly; before the first :meth:`write`."""
        return (self._file.read() or {}).get("state") not in (None, "stopped")

    def write(self, state: str | None = None) -> None:
        """Write the status; *state* is given where it is not that of the work in hand."""
        file = self._session.file
        training = {"file": None if file is None else file.name, "last": self._session.last_result}
        self.document = training_status(
            state=state or self._admission.state,
            reason=self._admission.reason,
            pid=os.getpid(),
            started_at=self._started_at,
            training={**training, **(self._session.progress or {})},
            queue=self._queue.get_queue_status(),
            background_tasks=self._chores.describe(),
            disk=self._disk.check(self._workspace.root),
            last_error=self._troubles.last_error,
            loop={"gap_ms": self._loop.gaps_ms()},
        )
        self._writer.write(self.document)

    def close(self) -> None:
        """Write no more; the last status is on disk, or why it is not is raised."""
        self._writer.close()
