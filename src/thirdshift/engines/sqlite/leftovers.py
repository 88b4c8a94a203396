"""What the dead have left beside a file: registrations, locks that nobody holds, children that still run.

Whoever works clears this away within a second, so what stays is what nobody clears: no worker is there, or one that
may not. Who is alive is asked of the kernel, as always; the process ids are for people.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from thirdshift.core.engine import WorkerState
from thirdshift.core.health import Finding, HealthCode
from thirdshift.host.lock import held_by_somebody, read_pid

_OF_A_WORKER = re.compile(r"([0-9a-f]{32})\.(?:lock|slots|card|child-.*)$")
_LOCK = ".lock"


def leftovers(folder: Path, workers: Sequence[WorkerState]) -> list[Finding]:
    """Return the findings about the *folder* of locks; *workers* are those that are registered."""
    files: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if found := _OF_A_WORKER.match(path.name):
            files[found[1]].append(path)
    dead = [{"id": each.id, "pid": each.pid, "name": each.name} for each in workers if not each.is_alive]
    known = {each.id for each in workers}
    orphans, unused = [], []
    for worker, paths in files.items():
        held = [path for path in paths if path.name.endswith((_LOCK, f"{_LOCK}.guard")) and held_by_somebody(path)]
        if any(path.name == f"{worker}{_LOCK}" for path in held):
            continue  # it lives
        orphans += [{"worker": worker, "pid": read_pid(path)} for path in held if path.name.endswith(_LOCK)]
        if worker not in known and not held:
            unused += [str(path) for path in paths]
    return [
        Finding(code=HealthCode.STALE_WORKERS, is_healthy=not dead, facts={"workers": dead}),
        Finding(code=HealthCode.STALE_LOCKS, is_healthy=not unused, facts={"files": unused}),
        Finding(code=HealthCode.ORPHANS, is_healthy=not orphans, facts={"children": orphans}),
    ]
