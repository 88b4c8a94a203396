"""A control group (Linux, version 2) with little memory: the kernel kills who takes more in it, and counts that.

Making one takes a group around this process that gives its members memory limits and lets this user add members: that
of root, or one that systemd has delegated. Nothing about an existing group is changed.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


class NoGroup(Exception):
    """None can be made here; the message says why."""


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path]:
    """Give the folder of a new group whose processes may have *limit_bytes* together; raises :class:`NoGroup`."""
    parent = _parent()
    group = parent / f"thirdshift-test-{uuid4().hex[:8]}"
    try:
        group.mkdir()
    except OSError as error:
        raise NoGroup(f"no control group can be made in {parent}: {error.strerror}") from error
    try:
        _limit(group, limit_bytes)
        yield group
    finally:
        group.rmdir()


def kills_in(group: Path) -> int:
    """Return how many processes of *group* the kernel has killed for want of memory."""
    events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
    return int(events["oom_kill"])


def _parent() -> Path:
    """Return the nearest group around this process that gives its members memory limits."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except FileNotFoundError:
        raise NoGroup(f"{sys.platform} has no control groups") from None
    roots = [Path(place) for _, place, kind, *_ in mounts if kind == "cgroup2"]
    own = [path for number, _, path in groups if number == "0"]
    if not roots or not own:
        raise NoGroup("no control groups of version 2 are mounted")
    folder = roots[0] / own[0].lstrip("/")
    for group in (folder, *folder.parents):
        if group.is_relative_to(roots[0]) and "memory" in _given(group):
            return group
    raise NoGroup("no control group of version 2 around this process gives its members memory limits")


def _given(group: Path) -> list[str]:
    try:
        return (group / "cgroup.subtree_control").read_text().split()
    except OSError:
        return []


def _limit(group: Path, limit_bytes: int) -> None:
    """Set the limit and see whether a child of this process may enter."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            (group / "memory.max").write_text(str(limit_bytes))
            if (swap := group / "memory.swap.max").exists():
                swap.write_text("0")
            (group / "cgroup.procs").write_text(str(child.pid))
        except OSError as error:
            raise NoGroup(f"no process can be limited in {group.parent}: {error.strerror}") from error
        finally:
            child.kill()
