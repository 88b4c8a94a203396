"""What the daemon says about itself, in one file that is always whole and may be read at any time."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from thirdshift.apps.training.moments import iso
from thirdshift.core.plain import plain
from thirdshift.host.disk import DiskState
from thirdshift.host.files import write_atomically

STATUS_KEYS = (
    "state",
    "reason",
    "pid",
    "started_at",
    "updated_at",
    "training",
    "queue",
    "background_tasks",
    "disk",
    "last_error",
    "loop",
)


class StatusFile:
    """The status document at *path*, whose folder must exist. One process writes, any reads."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def write(self, document: Mapping[str, Any]) -> None:
        """Replace the document as one step. It is not forced to disk: after a power failure it is stale anyway."""
        write_atomically(self.path, json.dumps(plain(document), indent=1).encode(), durable=False)

    def read(self) -> dict[str, Any] | None:
        """The document as it was last written; ``None`` when there is none that can be read."""
        try:
            document = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None


def training_status(
    *,
    state: str,
    reason: str | None = None,
    pid: int,
    started_at: float,
    training: Mapping[str, Any] | None = None,
    queue: Mapping[str, Any] | None = None,
    background_tasks: Mapping[str, Any] | None = None,
    disk: DiskState | None = None,
    last_error: Mapping[str, Any] | str | None = None,
    loop: Mapping[str, Any] | None = None,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """The document of the training daemon, made of JSON types only.

    *state* is one word (``idle``, ``training``, ``paused`` …), *reason* says in words why. *started_at* and *clock*
    are Unix seconds and appear as ISO times in UTC. What is not known is null; *loop*
    says how long the daemon's loop did not look for news.
    """
    document = {
        "state": state,
        "reason": reason,
        "pid": pid,
        "started_at": iso(started_at),
        "updated_at": iso(clock()),
        "training": training,
        "queue": queue,
        "background_tasks": background_tasks,
        "disk": disk,
        "last_error": last_error,
        "loop": loop,
    }
    return {key: plain(value) for key, value in document.items()}
