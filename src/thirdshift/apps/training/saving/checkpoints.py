"""Checkpoints on disk: whole or not there, ordered by number, verified before they are trusted, pruned with care.

A checkpoint is a verified directory ``ckpt-000001`` that transformers can open as it is. Its place in the order is the
sequence number in its manifest, never a modification time. Nothing here loads torch: a process that only copies or
counts checkpoints stays light.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from thirdshift.core.errors import DamagedDirectory, ThirdshiftError
from thirdshift.host.files import move_directory_without_overwriting, sync_directory, write_atomically
from thirdshift.storage.temporaries import sweep_temporaries
from thirdshift.storage.verified import Fill, publish, read_manifest, verify

_NAME = re.compile(r"ckpt-(\d{6,})(?:-\d+)?")  # with the suffix of a namesake among the damaged
_TRASH_MARK = ".trash-"
_LOOK_S = 0.01
WRITER_PATIENCE_S = 60.0
"""Seconds that a writer which is dying, deep in the kernel, is waited for."""

Paths = list[Path]  # names for lists, because the store has a method list()


class CheckpointGone(ThirdshiftError):
    """A checkpoint was pruned or set aside before it could be used."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is gone; ask for the latest checkpoint again")


class CheckpointsInUse(ThirdshiftError):
    """Another process writes checkpoints into the same directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"another training writes its checkpoints into {directory}; end it, or take another directory")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFacts:
    """What the manifest of a checkpoint says beside its files."""

    plan_hash: str
    base_hash: str
    data_name: str
    step: int
    """Optimizer steps done."""
    total_steps: int
    epoch: int = 0
    first_losses: tuple[float, ...] = ()
    """Losses of the first steps, at most ten."""
    last_losses: tuple[float, ...] = ()
    """Losses of the newest steps, at most ten."""
    tokens: int = 0
    """Tokens read so far."""
    seconds: float = 0.0
    """Seconds trained so far, all attempts together."""
    numerics: dict[str, str]
    """What may change the last bits of a result: versions, threads, instruction set, dtype."""
    is_exact: bool = True
    """False once an attempt went on under other numerics."""
    loss_scale: tuple[float, int] = (1.0, 0)
    """Factor of the loss in half precision, and steps since it last changed."""

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Return the facts that a manifest holds as JSON."""
        losses = {name: tuple(document[name]) for name in ("first_losses", "last_losses", "loss_scale")}
        known = {name: document[name] for name in cls.__dataclass_fields__}
        return cls(**{**known, **losses})


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """One checkpoint that is on disk."""

    path: Path
    sequence: int
    facts: CheckpointFacts

    @property
    def is_final(self) -> bool:
        """True when its file was trained to the end."""
        return self.facts.step == self.facts.total_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class SetAside:
    """A damaged checkpoint: where it lies now and what is wrong with it."""

    path: Path
    problems: tuple[str, ...]


SetAsides = list[SetAside]


class CheckpointStore:
    """The checkpoints of one directory. One process saves and prunes; any other may read.

    *on_damaged* is told of each checkpoint that is set aside.
    """

    def __init__(self, directory: Path, *, on_damaged: Callable[[SetAside], None] = lambda _: None) -> None:
        self.directory = directory
        self._damaged = directory / "damaged"
        self._held_back = directory / "held_back"
        self._locks = directory / ".locks"
        self._on_damaged = on_damaged
        for folder in (directory, self._damaged, self._locks):
            folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one process that writes here while the block runs; what an interrupted one left is removed first.

        Raises :class:`CheckpointsInUse` when another one does not end. A killed writer gives its place back at once.
        """
        with contextlib.ExitStack() as stack:
            give_up_at = time.monotonic() + WRITER_PATIENCE_S
            while True:
                try:
                    stack.enter_context(_locked(self._locks / "writer", fcntl.LOCK_EX | fcntl.LOCK_NB))
                    break
                except BlockingIOError:
                    if time.monotonic() >= give_up_at:
                        raise CheckpointsInUse(self.directory) from None
                    time.sleep(_LOOK_S)
            self.sweep()
            yield

    def announce(self, damaged: SetAside) -> None:
        """Tell of a checkpoint that another process has set aside."""
        self._on_damaged(damaged)

    def save(self, fill: Fill, facts: CheckpointFacts) -> Checkpoint:
        """Make a checkpoint of what *fill* writes into the folder it is given; it is durable on return."""
        sequence = self._next_sequence()
        path = self.directory / f"ckpt-{sequence:06d}"
        publish(path, fill, facts={"sequence": sequence, **asdict(facts)})
        return Checkpoint(path=path, sequence=sequence, facts=facts)

    def saved(self, facts: CheckpointFacts) -> Checkpoint | None:
        """Return the newest checkpoint, durable, if it has these very *facts* and verifies, else None.

        For who takes over from a writer that died and may have made it already.
        """
        for newest in self.list()[-1:]:
            if newest.facts == facts and self._verified(newest.path):
                sync_directory(self.directory)  # the writer may have died between the rename and this
                return newest
        return None

    def list(self) -> list[Checkpoint]:
        """Return all checkpoints whose manifest can be read, oldest first; their bytes are not looked at."""
        found = (_read(path) for path in self.paths())
        return sorted((checkpoint for checkpoint in found if checkpoint), key=lambda checkpoint: checkpoint.sequence)

    def damaged(self) -> SetAsides:
        """Return what was set aside, each with the problems that were found then."""
        reasons = {path: path.with_name(f"{path.name}.reason.txt") for path in sorted(self._damaged.glob("ckpt-*"))}
        return [
            SetAside(path=path, problems=tuple(reason.read_text().splitlines()) if reason.exists() else ())
            for path, reason in reasons.items()
            if path.is_dir()
        ]

    def latest_verified(self, plan_hash: str | None = None) -> Checkpoint | None:
        """Return the newest checkpoint (of that plan) after reading every byte of it, or None.

        Damaged ones that are newer are set aside under ``damaged/``, with the reason beside them.
        """
        for path in self.paths():
            if _read(path) is None:
                self._verified(path)
        for checkpoint in reversed(self.list()):
            if plan_hash in (None, checkpoint.facts.plan_hash) and self._verified(checkpoint.path):
                return checkpoint
        return None

    @contextlib.contextmanager
    def in_use(self, path: Path) -> Iterator[Path]:
        """Keep *path* from being pruned while the block runs, from any process; raises :class:`CheckpointGone`."""
        with _locked(self._locks / path.name, fcntl.LOCK_SH):
            if not path.is_dir():
                raise CheckpointGone(path)
            yield path

    def best(self, plan_hash: str) -> Checkpoint | None:
        """Return the checkpoint of a plan with the lowest loss over its newest steps, the newest of equals, or None."""
        known = [one for one in self.list() if one.facts.plan_hash == plan_hash and one.facts.last_losses]
        return min(known, key=lambda one: (fmean(one.facts.last_losses), -one.sequence), default=None)

    def prune(self, *, keep_last: int = 2, keep: Collection[str] = ()) -> Paths:
        """Remove old checkpoints and return their paths.

        The newest *keep_last* stay, the best of the newest one's plan, those named in *keep*, those in use, and
        everything that is not older than the newest one that verifies.
        """
        newest = self.latest_verified()
        if newest is None:
            return []
        best = self.best(newest.facts.plan_hash)
        kept = {*keep, *([best.path.name] if best else [])}
        old = self.list()[: -max(1, keep_last)]
        candidates = [one.path for one in old if one.sequence < newest.sequence and one.path.name not in kept]
        return [path for path in candidates if self._remove(path)]

    def hold_back(self, plan_hash: str) -> Paths:
        """Take the checkpoints of a plan whose model is not to be used out of the line; returns where its last one is.

        That one waits under ``held_back/``, in case a person wants it; those of other plans that waited there go.
        """
        self._held_back.mkdir(exist_ok=True)
        for path in self._held_back.glob("ckpt-*"):
            found = _read(path)
            if found is None or found.facts.plan_hash != plan_hash:
                shutil.rmtree(path)
        mine = [one.path for one in self.list() if one.facts.plan_hash == plan_hash]
        for path in mine[-1:]:
            move_directory_without_overwriting(path, self._held_back)
            sync_directory(self.directory)
        for path in mine[:-1]:
            self._remove(path)
        return sorted(self._held_back.glob("ckpt-*"))

    def take_back(self, plan_hash: str) -> None:
        """Put the checkpoint of that plan, if it was held back, into the line again."""
        for path in self._held_back.glob("ckpt-*"):
            found = _read(path)
            if found is not None and found.facts.plan_hash == plan_hash:
                move_directory_without_overwriting(path, self.directory)
                sync_directory(self._held_back)

    def sweep(self) -> Paths:
        """Remove what interrupted writers and prunings left. Only for the process that saves, before it saves."""
        left = sweep_temporaries(self.directory)
        trash = sorted(self.directory.glob(f"*{_TRASH_MARK}*"))
        for path in trash:
            shutil.rmtree(path)
        return left + trash

    def paths(self) -> Paths:
        """Return the folders of all checkpoints, also of those whose manifest cannot be read."""
        return sorted(path for path in self.directory.glob("ckpt-*") if _NAME.fullmatch(path.name) and path.is_dir())

    def _next_sequence(self) -> int:
        """Numbers are never used twice, not even that of a damaged checkpoint or one held back."""
        names = [
            path.name for folder in (self.directory, self._damaged, self._held_back) for path in folder.glob("ckpt-*")
        ]
        return 1 + max((int(found[1]) for name in names if (found := _NAME.match(name))), default=0)

    def _verified(self, path: Path) -> bool:
        try:
            with self.in_use(path):
                verify(path)
        except CheckpointGone:
            return False
        except DamagedDirectory as damage:
            self._set_aside(path, damage.problems)
            return False
        return True

    def _set_aside(self, path: Path, problems: tuple[str, ...]) -> None:
        try:
            moved = move_directory_without_overwriting(path, self._damaged)
        except FileNotFoundError:
            return  # another process has set it aside
        sync_directory(self.directory)
        write_atomically(moved.with_name(f"{moved.name}.reason.txt"), "".join(f"{why}\n" for why in problems).encode())
        self._on_damaged(SetAside(path=moved, problems=problems))

    def _remove(self, path: Path) -> bool:
        """Rename, then delete: a crash between the two leaves no half checkpoint under a real name."""
        lock = self._locks / path.name
        try:
            with _locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
                trash = path.with_name(f"{_TRASH_MARK}{path.name}")
                path.rename(trash)
                lock.unlink(missing_ok=True)
        except (BlockingIOError, FileNotFoundError):
            return False  # in use, or already gone
        sync_directory(self.directory)
        shutil.rmtree(trash)
        return True


def _read(path: Path) -> Checkpoint | None:
    try:
        document = dict(read_manifest(path).facts)
        return Checkpoint(path=path, sequence=document["sequence"], facts=CheckpointFacts.from_document(document))
    except (DamagedDirectory, KeyError):
        return None


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    """Hold a flock on *path*; the kernel releases it when the process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, how)
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK:
                raise BlockingIOError(error.errno, f"{path} is locked") from error
            raise
        yield
    finally:
        os.close(descriptor)
