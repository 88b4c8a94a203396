"""Copies of checkpoints that outlive the checkpoints themselves, every byte of them verified.

A snapshot is an ordinary folder: a person opens it, ``transformers`` loads it.
"""

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from thirdshift.apps.training.filenames import free_name
from thirdshift.apps.training.moments import iso
from thirdshift.apps.training.saving.checkpoints import CheckpointStore
from thirdshift.core.errors import DamagedDirectory, ThirdshiftError, UnsafePath
from thirdshift.storage.temporaries import sweep_temporaries
from thirdshift.storage.verified import copy_verified, read_manifest, verify

_CHECKPOINT_NAME = re.compile(r"ckpt-\d{6,}")
_SNAPSHOT_NAME = re.compile(r"ckpt-\d{6,}_\d{8}_\d{6}(-\d+)?")


class NoCheckpoint(ThirdshiftError):
    """There is no checkpoint to make a snapshot of."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"{directory} holds no checkpoint yet; the first one comes with the first training")


class SnapshotNotFound(ThirdshiftError):
    """No snapshot has this name."""

    def __init__(self, name: str, directory: Path) -> None:
        super().__init__(f"no snapshot {name!r} is in {directory}; its folders are the names")


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """One snapshot: the checkpoint it is a copy of, when it was taken (aware UTC), its bytes, and who asked for it."""

    name: str
    path: Path
    checkpoint: str
    taken_at: datetime
    size_bytes: int
    key: str | None = None


class SnapshotService:
    """Takes, lists, verifies and restores snapshots of the checkpoints in *checkpoints_dir*.

    Any process may, at any time. *clock* gives Unix seconds.
    """

    def __init__(self, checkpoints_dir: Path, snapshots_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.checkpoints_dir = Path(checkpoints_dir)
        self.snapshots_dir = Path(snapshots_dir)
        self._clock = clock

    def create_snapshot(self, name: str | None = None, *, key: str | None = None) -> Path:
        """Copy the checkpoint *name* (``None``: the newest) to ``<name>_<YYYYmmdd_HHMMSS>``, local time.

        The checkpoint is kept from being pruned meanwhile, and the copy is read back and compared by hash. What dead
        attempts left half done is removed. With a *key* it is made once: called again with the same one, after a death
        at any moment, it returns the snapshot that was made, if that verifies. Raises
        :class:`DamagedDirectory` when it does not verify, after removing it; :class:`NoCheckpoint`;
        :class:`thirdshift.apps.training.saving.checkpoints.CheckpointGone` when there is none of that name.
        """
        self.sweep()
        if key is not None and (made := self._made_with(key)):
            return made
        store = CheckpointStore(self.checkpoints_dir)
        with store.in_use(self._checkpoint(store, name)) as checkpoint:
            moment = self._clock()
            local_time = time.strftime("%Y%m%d_%H%M%S", time.localtime(moment))
            target = self.snapshots_dir / free_name(self.snapshots_dir, f"{checkpoint.name}_{local_time}")
            facts = {"checkpoint": checkpoint.name, "taken_at": iso(moment), "key": key}
            copy_verified(checkpoint, target, facts=facts)
        return target

    def list_snapshots(self) -> list[Snapshot]:
        """All snapshots whose manifest can be read, newest first; their bytes are not looked at."""
        if not self.snapshots_dir.is_dir():
            return []
        found = (_read(path) for path in self.snapshots_dir.iterdir() if _SNAPSHOT_NAME.fullmatch(path.name))
        return sorted((one for one in found if one), key=lambda one: (one.taken_at, one.name), reverse=True)

    def verify(self, name: str) -> Snapshot:
        """Read every byte of the snapshot *name*; raises :class:`DamagedDirectory` naming what is wrong."""
        path = self._find(name)
        verify(path)
        snapshot = _read(path)
        if snapshot is None:
            raise DamagedDirectory(path, ["its manifest is not that of a snapshot"])
        return snapshot

    def restore(self, name: str, target_dir: Path) -> Path:
        """Copy the snapshot *name* to *target_dir* and verify the copy; returns *target_dir*.

        Raises :class:`FileExistsError` when *target_dir* exists and is not an empty folder, and
        :class:`DamagedDirectory` (leaving nothing there) when the snapshot or the copy does not verify.
        """
        source = self._find(name)
        if target_dir.is_dir() and not any(target_dir.iterdir()):
            target_dir.rmdir()
        target_dir.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        copy_verified(source, target_dir, facts={"restored_from": name})
        return target_dir

    def sweep(self) -> list[Path]:
        """Remove what interrupted copies left, but none that is being made. Returns what was removed."""
        return sweep_temporaries(self.snapshots_dir)

    def _made_with(self, key: str) -> Path | None:
        """Return the sound snapshot of that *key*. The maker may have died before it verified it: a bad one goes."""
        for snapshot in self.list_snapshots():
            if snapshot.key == key:
                try:
                    verify(snapshot.path)
                except DamagedDirectory:
                    shutil.rmtree(snapshot.path)
                else:
                    return snapshot.path
        return None

    def _checkpoint(self, store: CheckpointStore, name: str | None) -> Path:
        if name is not None:
            if not _CHECKPOINT_NAME.fullmatch(name):
                raise UnsafePath(name, "a checkpoint is named like ckpt-000012")
            return self.checkpoints_dir / name
        checkpoints = store.list()
        if not checkpoints:
            raise NoCheckpoint(self.checkpoints_dir)
        return checkpoints[-1].path

    def _find(self, name: str) -> Path:
        path = self.snapshots_dir / name
        if not _SNAPSHOT_NAME.fullmatch(name) or not path.is_dir():
            raise SnapshotNotFound(name, self.snapshots_dir)
        return path


def _read(path: Path) -> Snapshot | None:
    try:
        manifest = read_manifest(path)
        checkpoint, taken_at = str(manifest.facts["checkpoint"]), datetime.fromisoformat(manifest.facts["taken_at"])
    except (DamagedDirectory, KeyError, TypeError, ValueError):
        return None
    return Snapshot(
        name=path.name,
        path=path,
        checkpoint=checkpoint,
        taken_at=taken_at,
        size_bytes=manifest.size_bytes,
        key=manifest.facts.get("key"),
    )
