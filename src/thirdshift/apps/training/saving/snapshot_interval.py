"""Whether it is time for a snapshot, from the names and times of folders alone: asked in the daemon's loop."""

import os
import re
from pathlib import Path

_NUMBER = re.compile(r"ckpt-(\d{6,})(_.*)?")


def is_snapshot_due(checkpoints: Path, snapshots: Path, interval_s: float, now: float) -> bool:
    """Whether there is a checkpoint newer than the last snapshot, which is older than *interval_s* at Unix time *now*.

    Where there is none yet, the first checkpoint's age counts. A file in hand for days gets its snapshots so; the one
    at its end is taken in any case.
    """
    found = _numbered(checkpoints)
    if not found:
        return False
    first_at = min(moment for _, moment in found)
    last, taken_at = max(_numbered(snapshots), key=lambda snapshot: snapshot[1], default=(0, first_at))
    return max(found)[0] > last and now - taken_at >= interval_s


def _numbered(folder: Path) -> list[tuple[int, float]]:
    """Return (checkpoint number, time of change) of each folder that is named after a checkpoint."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = _NUMBER.fullmatch(entry.name)
            if name and entry.is_dir(follow_symlinks=False):
                found.append((int(name[1]), entry.stat(follow_symlinks=False).st_mtime))
    return found
