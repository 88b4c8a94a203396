"""What the daemon tells whoever watches it, as values; the command turns them into lines and bars."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thirdshift.apps.training.job import FileResult


@dataclass(frozen=True, slots=True)
class FileAccepted:
    """A file passed validation and waits for training."""

    name: str
    rows: int


@dataclass(frozen=True, slots=True)
class FileRefused:
    """A file was moved to ``queue/failed``; the report beside it says why."""

    name: str
    cause: str
    path: Path


@dataclass(frozen=True, slots=True)
class FileRecovered:
    """A file that a crashed daemon had in hand goes on, or its end was completed."""

    name: str
    finished: bool


@dataclass(frozen=True, slots=True)
class TrainingStarted:
    """The training of a file begins, or goes on from its checkpoint."""

    name: str


@dataclass(frozen=True, slots=True)
class TrainingProgressed:
    """How far the file in hand is; the keys of :class:`thirdshift.apps.training.job.Progress`."""

    name: str
    progress: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingFinished:
    """A file is trained, examined, published and archived."""

    name: str
    result: FileResult
    checkpoint: Path


@dataclass(frozen=True, slots=True)
class TrainingInterrupted:
    """The file in hand was laid aside by a stop or a pause; it goes on where it stopped."""

    name: str


@dataclass(frozen=True, slots=True)
class SnapshotTaken:
    """A verified copy of a checkpoint lies at ``path``."""

    path: Path


@dataclass(frozen=True, slots=True)
class ChoreFailed:
    """A background task failed for good."""

    name: str
    error: str


@dataclass(frozen=True, slots=True)
class Remarked:
    """Anything else that a person should know."""

    text: str


Notice = (
    FileAccepted
    | FileRefused
    | FileRecovered
    | TrainingStarted
    | TrainingProgressed
    | TrainingFinished
    | TrainingInterrupted
    | SnapshotTaken
    | ChoreFailed
    | Remarked
)
Notify = Callable[[Notice], None]
