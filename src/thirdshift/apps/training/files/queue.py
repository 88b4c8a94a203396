"""The line of files that wait for training. The place of a file is its state, and a move is one atomic rename. ::

    inbox ──claim──▶ checking ──accept──┐     └──refuse──▶ failed
                                        ▼
           add ──▶ high │ normal │ low ──get_next──▶ processing ──mark_completed──▶ archive
                       ▲                              │      └─────mark_failed────▶ failed
                       ├───────── give_back ──────────┘                               │
                       └─────────────────────────── retry ────────────────────────────┘

A crash leaves a file in exactly one of these places. What a place cannot say (when the file arrived, which priority it
had before processing) stands in a sidecar, ``.meta/<name>.json``; a missing or damaged one means "normal, as old as
the file". While a file waits, the folder it lies in is its priority, whatever the sidecar says: a person may move it.

Leaving takes two things, the move and the report beside the file. Both are written into the sidecar first; that write
is the decision, and the next start carries it out when a crash came between (`departures.py`).
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from thirdshift.apps.training.filenames import storable
from thirdshift.apps.training.files.checking import CheckingPlace
from thirdshift.apps.training.files.departures import Departures, read_report, report_of
from thirdshift.apps.training.files.places import Places, is_regular_file, names_in
from thirdshift.apps.training.moments import iso
from thirdshift.apps.training.workspace import PRIORITIES
from thirdshift.core.errors import UnsafePath
from thirdshift.host.files import sync_directory, sync_file


@dataclass(frozen=True, kw_only=True, slots=True)
class QueuedFile:
    """A file that waits, or that was just taken.

    ``path`` is where it lies, ``priority`` its own, ``arrived_at`` aware UTC; ``goes_first`` marks one that was
    interrupted in the middle of its training. ``attempts`` have failed, the newest with ``last_error``; it is not taken
    before ``retry_at``.
    """

    name: str
    path: Path
    priority: str
    arrived_at: datetime
    goes_first: bool
    attempts: int = 0
    last_error: str | None = None
    retry_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoveredFile:
    """A file that a crashed daemon left in between, and where it lies now.

    ``finished`` is true when its end had been decided and only the move or the report was missing; otherwise it waits
    again.
    """

    name: str
    path: Path
    finished: bool


class TrainingQueue:
    """The queue in *queue_dir*; its folders are made when they are missing. *clock* gives Unix seconds.

    ``add``, ``set_priority``, ``retry``, ``remove`` and all questions may be called by any process and thread at any
    time. Taking files (``get_next``), what follows it (``give_back``, ``try_again``, ``mark_completed``,
    ``mark_failed``) and ``recover_orphans`` belong to the one process that holds the workspace's instance lock.
    """

    def __init__(self, queue_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._places = Places(Path(queue_dir), clock)
        self._sidecars = self._places.sidecars
        self._departures = Departures(self._places, clock)
        self.checking = CheckingPlace(self._places, self._departures)
        """The files that are being looked at, before they may wait."""

    def add(self, path: Path, priority: str = "normal") -> Path:
        """Move the file *path* to the end of the line of *priority*; returns where it lies now.

        A namesake in the queue is never overwritten: the newcomer becomes ``name-1.jsonl``. Raises
        :class:`UnsafePath` for anything but a regular file, and :class:`OSError` when it lies on another file system.
        """
        if not is_regular_file(path):
            raise UnsafePath(path, "only a regular file can be trained (no directory, symbolic link or FIFO)")
        with contextlib.suppress(PermissionError):  # a file nobody may read is for the validation to refuse
            sync_file(path)
        return self._places.enter(path, storable(path.name), priority)

    def get_next(self, awaited: Iterable[str] = ()) -> QueuedFile | None:
        """Move the first file of the line to processing and return it; ``None`` when nobody waits.

        First what was interrupted, then high before normal before low, and in order of arrival; a file that failed not
        before its time. No file is taken that one of *awaited*, which are being checked, would go before.
        """
        now = datetime.fromtimestamp(self._clock(), UTC)
        checked = [file for name in awaited if (file := self._describe(self._places.checking / name))]
        limit = min(map(_turn, checked), default=None)
        for file in self.queued():
            if file.retry_at is not None and now < file.retry_at:
                continue
            if limit is not None and _turn(file) > limit:
                return None
            try:
                return self._take(file)
            except FileNotFoundError:  # somebody removed it or changed its priority meanwhile
                continue
        return None

    def queued(self) -> list[QueuedFile]:
        """All waiting files in the order in which they will be taken."""
        paths = [folder / name for folder in self._places.waiting.values() for name in names_in(folder)]
        files = [file for path in paths if (file := self._describe(path))]
        return sorted(files, key=_turn)

    def size(self) -> int:
        """Number of waiting files; those in processing are not counted."""
        return sum(len(names_in(folder)) for folder in self._places.waiting.values())

    def failed(self) -> list[dict[str, Any]]:
        """The files that were given up, by name, each with the report beside it; without one, with its name alone."""
        return [{"file": name, **read_report(self._places.failed / name)} for name in names_in(self._places.failed)]

    def get_queue_status(self) -> dict[str, Any]:
        """Plain data for the status: how many wait, of each priority; what is checked and processed."""
        counts = {priority: len(names_in(folder)) for priority, folder in self._places.waiting.items()}
        return {
            "total_queued": sum(counts.values()),
            **counts,
            "checking": self.checking.names(),
            "processing": names_in(self._places.processing),
            "failed": len(names_in(self._places.failed)),
        }

    def mark_completed(self, name: str, report: Mapping[str, Any], archive: Path) -> Path:
        """Move *name* from processing to *archive*, ``<name>.report.json`` beside it; returns where it lies now."""
        return self._departures.leave(self._in_processing(name), Path(archive), report)

    def mark_failed(self, name: str, report: Mapping[str, Any]) -> Path:
        """Move *name* from processing to ``failed``, ``<name>.report.json`` beside it; returns where it lies now.

        *report* says ``attempts``, ``cause`` and ``problems`` (with line numbers); ``file`` and ``when`` are added.
        """
        return self._departures.leave(self._in_processing(name), self._places.failed, report)

    def reject(self, path: Path, report: Mapping[str, Any]) -> Path:
        """Move *path*, a file or a directory that never was in the queue, to ``failed`` with a report beside it.

        The report is written first: whoever sees the file there, also after a crash, finds out why.
        """
        return self._departures.reject(path, storable(path.name), report)

    def give_back(self, name: str, *, priority: str | None = None, goes_first: bool = False) -> Path:
        """Move *name* from processing back to its own priority and its old place in the line, or to *priority*.

        With *goes_first* it is the next to be taken, whatever else waits: for a file in the middle of its training.
        """
        source = self._in_processing(name)
        known = self._places.sidecar_of(source)
        folder = self._places.folder_of(priority or known.priority)
        sidecar = replace(known, priority=folder.name, goes_first=goes_first, leaving=None)
        self._sidecars.write(name, sidecar)
        return self._places.move_within(source, folder, sidecar)

    def try_again(self, name: str, error: str, after_s: float) -> Path:
        """Move *name*, of which one more attempt has failed, from processing to the low line, for *after_s* seconds."""
        source = self._in_processing(name)
        known = self._places.sidecar_of(source)
        folder = self._places.folder_of("low")
        sidecar = replace(
            known,
            priority=folder.name,
            goes_first=False,
            attempts=known.attempts + 1,
            last_error=error,
            retry_at=iso(self._clock() + after_s),
            leaving=None,
        )
        self._sidecars.write(name, sidecar)
        return self._places.move_within(source, folder, sidecar)

    def recover_orphans(self) -> list[RecoveredFile]:
        """Bring everything to rest that a crashed daemon left in between; call it once, before the first get_next.

        Files whose end had been decided reach it; all others in processing go back to their own priority and are
        taken first, and those that were being checked stay for another check. Nothing is lost, nothing doubled.
        """
        self._sidecars.remove_temporaries()
        recovered = [self._recover(self._places.processing / name) for name in names_in(self._places.processing)]
        recovered += [found for path in self.checking.paths() if (found := self._decided(path))]
        without_file = [name for name in self._sidecars.names() if self._places.place_of(name) is None]
        for name in without_file:
            if path := self._departures.settle(name):
                recovered.append(RecoveredFile(name=name, path=path, finished=True))
        return recovered

    def set_priority(self, name: str, priority: str) -> Path:
        """Move the waiting file *name* to the line of *priority*, keeping its time of arrival."""
        folder = self._places.folder_of(priority)
        source = self._places.find(name, self._places.waiting.values(), "waiting in the queue")
        if source.parent == folder:
            return source
        return self._places.move_within(source, folder, self._places.sidecar_of(source))

    def retry(self, name: str, priority: str = "low") -> Path:
        """Put the failed file *name* at the end of the line again; its report is removed."""
        source = self._places.find(name, [self._places.failed], "in queue/failed")
        checked = read_report(source).get("validation") or {}
        target = self._places.enter(source, name, priority, checked)
        self._places.known.note(str(checked.get("content_hash", "")), target.name)
        report_of(source).unlink(missing_ok=True)
        return target

    def remove(self, name: str) -> None:
        """Delete the waiting file *name*, or else the failed one with its report."""
        folders = [*self._places.waiting.values(), self._places.failed]
        path = self._places.find(name, folders, "waiting or failed")
        path.unlink()
        sync_directory(path.parent)
        if path.parent == self._places.failed:
            report_of(path).unlink(missing_ok=True)
        else:
            self._sidecars.remove(name)

    def _take(self, file: QueuedFile) -> QueuedFile:
        """The sidecar is made true before the move: in processing it alone knows the priority."""
        arrived_at = file.arrived_at.isoformat(timespec="microseconds")
        known = self._places.sidecar_of(file.path)
        sidecar = replace(known, priority=file.priority, arrived_at=arrived_at, goes_first=file.goes_first)
        belongs_to_another = os.path.lexists(self._places.processing / file.name)
        if not belongs_to_another and self._sidecars.read(file.name) != sidecar:
            self._sidecars.write(file.name, sidecar)
        path = self._places.move_within(file.path, self._places.processing, sidecar)
        return replace(file, name=path.name, path=path)

    def _recover(self, path: Path) -> RecoveredFile:
        if found := self._decided(path):
            return found
        return RecoveredFile(name=path.name, path=self.give_back(path.name, goes_first=True), finished=False)

    def _decided(self, path: Path) -> RecoveredFile | None:
        target = self._departures.resume(path)
        return None if target is None else RecoveredFile(name=path.name, path=target, finished=True)

    def _describe(self, path: Path) -> QueuedFile | None:
        if not os.path.lexists(path):  # moved on since the folder was listed
            return None
        try:
            sidecar = self._places.sidecar_of(path)
        except FileNotFoundError:
            return None
        return QueuedFile(
            name=path.name,
            path=path,
            priority=sidecar.priority if path.parent == self._places.checking else path.parent.name,
            arrived_at=datetime.fromisoformat(sidecar.arrived_at),
            goes_first=sidecar.goes_first,
            attempts=sidecar.attempts,
            last_error=sidecar.last_error,
            retry_at=None if sidecar.retry_at is None else datetime.fromisoformat(sidecar.retry_at),
        )

    def _in_processing(self, name: str) -> Path:
        return self._places.find(name, [self._places.processing], "in processing")


def _turn(file: QueuedFile) -> tuple[bool, int, datetime, str]:
    """The order in which files are taken, as a key to sort by."""
    return not file.goes_first, PRIORITIES.index(file.priority), file.arrived_at, file.name
