"""What became of each file: a folder for each in ``history/``, written when the file is done and never changed.

It is the one record of a file's training; reports and curves are made from it. What later files need of it lies there
too: its examination, and rows to replay. Whoever removes a folder makes the daemon forget that file, and nothing else.
No torch here: a command that only looks stays light.
"""

import csv
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from thirdshift.apps.training.data.row_files import write_row_file
from thirdshift.apps.training.data.rows import Row
from thirdshift.apps.training.moments import iso
from thirdshift.core.errors import DamagedDirectory, UsageError
from thirdshift.core.plain import plain
from thirdshift.host.files import numbered, sync_directory, write_atomically
from thirdshift.storage.temporaries import TEMPORARY_MARK, sweep_temporaries
from thirdshift.storage.verified import FileEntry, publish, read_manifest

EXAMINATION = "held_out.jsonl"
REPLAY = "for_replay.jsonl"
CURVE = "loss.csv"
PUBLISHED, HELD_BACK, FAILED = "published", "held back", "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """One end of one file. A file that is tried again after it has a second record."""

    key: str
    """Name of its folder."""
    number: int
    """Its place in the order of the records, from 1."""
    file: str
    outcome: str
    """"published", "held back" or "failed"."""
    ended_at: str
    causes: tuple[str, ...] = ()
    """Why it was held back, or failed."""
    is_accepted: bool = False
    """True when a person said that it is to be published whatever it costs."""
    data_hash: str = ""
    plan_hash: str = ""
    base_hash: str = ""
    """The model that it was trained on."""
    model_hash: str = ""
    """The model that came of it, published or not."""
    attempts: tuple[Mapping[str, Any], ...] = ()
    """See :class:`thirdshift.apps.training.records.attempts.Attempt`."""
    result: Mapping[str, Any]
    """See :class:`thirdshift.apps.training.job.FileResult`; empty when it failed."""

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Return the record that a manifest holds as JSON."""
        lists = {name: tuple(facts[name]) for name in ("causes", "attempts")}
        return cls(**{**{name: facts[name] for name in cls.__dataclass_fields__}, **lists})


class History:
    """The records in *directory*. One process adds: that which trains, or looks after, the file in hand."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory
        self._accepted = directory / ".accepted"
        self._clock = clock

    def records(self) -> list[FileRecord]:
        """Return all records whose manifest can be read, oldest first."""
        found = (_read(path) for path in self._folders())
        return sorted((record for record in found if record), key=lambda record: record.number)

    def damaged(self) -> list[Path]:
        """Return the folders whose manifest cannot be read."""
        return [path for path in self._folders() if _read(path) is None]

    def of_file(self, name: str) -> list[FileRecord]:
        """Return the records of the file *name*, or of that key, oldest first."""
        return [record for record in self.records() if name in (record.file, record.key)]

    def file(self, record: FileRecord, name: str) -> FileEntry | None:
        """Return what the manifest says about a file of the *record*; None when it has none of that name."""
        files = read_manifest(self.directory / record.key).files
        return next((entry for entry in files if entry.path == name), None)

    def add(
        self,
        key: str,
        *,
        examination: Iterable[Row] = (),
        replay: Iterable[Row] = (),
        losses: Iterable[object] = (),
        **facts: Any,
    ) -> FileRecord:
        """Write the record of *key* with these *facts*; called again after a crash it finds it written.

        *losses* are data classes, a line of ``loss.csv`` each.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in numbered(key):
            existing = _read(self.directory / name)
            if existing is not None and existing.outcome == facts["outcome"]:
                return existing
            if not (self.directory / name).exists():
                break
        number = 1 + max((record.number for record in self.records()), default=0)
        record = FileRecord(key=name, number=number, ended_at=iso(self._clock()), **facts)

        def fill(folder: Path) -> None:
            write_row_file(folder / EXAMINATION, examination)
            write_row_file(folder / REPLAY, replay)
            _write_csv(folder / CURVE, losses)

        sweep_temporaries(self.directory)
        publish(self.directory / name, fill, facts=plain(asdict(record)))
        return record

    def accept(self, data_hash: str) -> None:
        """Note that a person wants the file of this content, whatever it makes worse; holds for its next training."""
        if not data_hash:
            raise UsageError("the file has no training that could be accepted")
        self._accepted.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self._accepted / data_hash, b"")

    def is_accepted(self, data_hash: str) -> bool:
        """Say whether :meth:`accept` was called for this content and it was not published since."""
        return (self._accepted / data_hash).exists()

    def forget_acceptance(self, data_hash: str) -> None:
        """What a person accepted was published: the next time the same content is asked about again."""
        if self.is_accepted(data_hash):
            (self._accepted / data_hash).unlink()
            sync_directory(self._accepted)

    def _folders(self) -> list[Path]:
        if not self.directory.is_dir():
            return []
        return sorted(path for path in self.directory.iterdir() if _is_record(path))


def _is_record(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and TEMPORARY_MARK not in path.name


def _read(path: Path) -> FileRecord | None:
    try:
        return FileRecord.from_facts(read_manifest(path).facts)
    except (DamagedDirectory, KeyError, TypeError):
        return None


def _write_csv(path: Path, lines: Iterable[object]) -> None:
    documents = [asdict(line) for line in lines]  # type: ignore[call-overload]
    with path.open("w", encoding="utf-8", newline="") as file:
        if documents:
            writer = csv.DictWriter(file, documents[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(documents)
