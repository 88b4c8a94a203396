"""What of earlier files takes part in the training of a new one: chosen at its first attempt and written down."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from thirdshift.apps.training.data.replay import KeptRows, Replay, ReplaySource
from thirdshift.apps.training.data.row_files import digest_of, read_row_file
from thirdshift.apps.training.data.rows import Row
from thirdshift.apps.training.records.history import EXAMINATION, PUBLISHED, REPLAY, FileRecord, History
from thirdshift.apps.training.settings import TrainingSettings
from thirdshift.host.files import write_atomically
from thirdshift.storage.verified import hash_file


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A file of a history's record: whose record, which file was trained, and the hash of the part."""

    key: str
    file: str
    blake3: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Earlier:
    """The rows that may be replayed, and the examinations that are held again."""

    directory: Path
    """The history."""
    replayed: tuple[Part, ...] = ()
    examined: tuple[Part, ...] = ()
    rows_of_an_examination: int = 0

    @classmethod
    def freeze(cls, path: Path, history: History, settings: TrainingSettings) -> Self:
        """Return what was chosen at the first attempt, from *path*, or choose and write it there."""
        if path.exists():
            document = json.loads(path.read_bytes())
            parts = {name: tuple(Part(**part) for part in document[name]) for name in ("replayed", "examined")}
            return cls(directory=history.directory, **parts, rows_of_an_examination=document["rows_of_an_examination"])
        records = [record for record in history.records() if record.outcome == PUBLISHED]
        newest = records[-settings.earlier_files :] if settings.earlier_files else []
        chosen = cls(
            directory=history.directory,
            replayed=tuple(_parts(history, records, REPLAY)),
            examined=tuple(_parts(history, newest, EXAMINATION)),
            rows_of_an_examination=settings.earlier_rows,
        )
        document = {
            "replayed": [asdict(part) for part in chosen.replayed],
            "examined": [asdict(part) for part in chosen.examined],
            "rows_of_an_examination": chosen.rows_of_an_examination,
        }
        write_atomically(path, json.dumps(document, indent=1).encode())
        return chosen

    def replay(self) -> Replay:
        """Return what the plan may replay: never a row that is asked."""
        kept = tuple(
            KeptRows(
                source=ReplaySource(file=part.file, blake3=part.blake3),
                path=self.directory / part.key / REPLAY,
            )
            for part in self.replayed
        )
        asked = (row for rows in self.examinations().values() for row in rows)
        return Replay(kept=kept, examined=frozenset(digest_of(row) for row in asked))

    def examinations(self) -> dict[str, list[Row]]:
        """Return the questions of each examination that is as it was written, by the key of its record."""
        found = {part.key: self.directory / part.key / EXAMINATION for part in self.examined}
        sound = {part.key: found[part.key] for part in self.examined if not _trouble(part, found[part.key])}
        return {key: list(read_row_file(path))[: self.rows_of_an_examination] for key, path in sound.items()}

    def missing(self) -> list[str]:
        """Say of which earlier files the examination cannot be held again, and why."""
        troubles = ((part, _trouble(part, self.directory / part.key / EXAMINATION)) for part in self.examined)
        return [f"{part.file}: its examination {trouble}" for part, trouble in troubles if trouble]


def _parts(history: History, records: list[FileRecord], name: str) -> Iterator[Part]:
    for record in records:
        entry = history.file(record, name)
        if entry is not None and entry.size_bytes:
            yield Part(key=record.key, file=record.file, blake3=entry.blake3)


def _trouble(part: Part, path: Path) -> str:
    if not path.is_file():
        return "is missing"
    return "" if hash_file(path) == part.blake3 else "is not as it was written"
