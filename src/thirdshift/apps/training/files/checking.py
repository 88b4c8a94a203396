"""Where a dropped file lies while it is looked at: out of reach of whoever dropped it, not yet in the line.

It is renamed here before anybody reads it. So nobody can put another file, or a link, in the place of the one that was
looked at; what was a link already comes here as the link it is, and is refused unread.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thirdshift.apps.training.filenames import storable
from thirdshift.apps.training.files.departures import Departures
from thirdshift.apps.training.files.places import Places


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimedFile:
    """A file that is being checked; ``key`` tells two arrivals under one name apart."""

    name: str
    path: Path
    key: str


class CheckingPlace:
    """The folder ``checking`` of the queue with *places*. For the process that holds the workspace's instance lock."""

    def __init__(self, places: Places, departures: Departures) -> None:
        self._places = places
        self._departures = departures

    def claim(self, path: Path, *, folder: int | None = None) -> ClaimedFile:
        """Move *path* here, whatever it is, under a name that every place takes.

        *folder* is the open folder that it lies in. Raises :class:`OSError` when it is gone or cannot be moved.
        """
        return self._claimed(self._places.enter_checking(path, storable(path.name), folder))

    def files(self) -> list[ClaimedFile]:
        """All that lies here, in order of arrival."""
        return sorted((self._claimed(path) for path in self.paths()), key=lambda file: (file.key, file.name))

    def paths(self) -> list[Path]:
        """Where all that lies here lies, by name: also what is no regular file."""
        with os.scandir(self._places.checking) as entries:
            return sorted(Path(entry.path) for entry in entries if not entry.name.startswith("."))

    def names(self) -> list[str]:
        """The names of all that lies here, sorted."""
        return [path.name for path in self.paths()]

    def accept(self, name: str, found: Mapping[str, Any], priority: str = "normal") -> Path:
        """Move the file *name* to the line of *priority*, where its arrival belongs; *found* is kept for its report."""
        source = self._places.checking / name
        sidecar = replace(self._places.sidecar_of(source), priority=priority, checked=found)
        self._places.sidecars.write(name, sidecar)
        self._places.known.note(str(found.get("content_hash", "")), name)
        return self._places.move_within(source, self._places.folder_of(priority), sidecar)

    def refuse(self, name: str, report: Mapping[str, Any]) -> Path:
        """Move *name*, whatever it is, to ``failed`` with *report* beside it; returns where it lies now."""
        return self._departures.leave(self._places.checking / name, self._places.failed, report)

    def twin_of(self, name: str, content_hash: str) -> str | None:
        """Return the file in the queue or the archive that has the content of *name* already."""
        found = self._places.known.find(content_hash)
        if found is None:
            return None
        twin, archived = found
        if archived is None:
            return twin if twin != name and self._places.place_of(twin) else None
        return twin if archived.is_file() else None

    def archive(self, name: str, report: Mapping[str, Any], archive: Path) -> Path:
        """Move *name* to *archive* untrained, with *report* beside it; returns where it lies now."""
        return self._departures.leave(self._places.checking / name, archive, report)

    def forget(self, name: str) -> None:
        """Drop what is known of *name*, which somebody took out of here."""
        self._places.sidecars.remove(name)

    def _claimed(self, path: Path) -> ClaimedFile:
        return ClaimedFile(name=path.name, path=path, key=self._places.sidecar_of(path).arrived_at)
