"""Folders that are being filled: who writes one holds it, and what dead writers left may be removed by anybody.

The hold is a lock of the kernel's (``flock``) on the folder itself, which ends with its writer, however that dies. So a
PID in a name decides nothing, and a writer that lives is never disturbed.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

TEMPORARY_MARK = ".tmp-"


@contextlib.contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """Make an empty folder beside *target* and hold it while the block runs, also when it is renamed meanwhile."""
    folder = target.with_name(f"{target.name}{TEMPORARY_MARK}{os.getpid()}")
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        with _hold(folder, fcntl.LOCK_EX) as is_held:
            if is_held:  # else somebody found it before it was held, and removed it
                yield folder
                return


def sweep_temporaries(parent: Path) -> list[Path]:
    """Remove what dead writers left in *parent*, at any time and from any process; returns what was removed."""
    left = sorted(path for path in parent.glob(f"*{TEMPORARY_MARK}*") if path.is_dir() and not path.is_symlink())
    return [path for path in left if _remove_if_left(path)]


def _remove_if_left(folder: Path) -> bool:
    with _hold(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_held:
        if is_held:
            shutil.rmtree(folder)
    return is_held


@contextlib.contextmanager
def _hold(folder: Path, how: int) -> Iterator[bool]:
    """Lock *folder* for as long as the block runs; False when somebody else holds it, or it is there no more."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _lock(descriptor, how) and _is_still_at(folder, descriptor)
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child that was forked meanwhile may share the open folder
        os.close(descriptor)


def _lock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    return True


def _is_still_at(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
