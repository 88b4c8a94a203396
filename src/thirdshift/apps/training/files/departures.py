"""How a file leaves the queue for good: the decision is written down, the file moves, a report lies beside it.

A crash between these is made good by the next start: what was decided is carried out, once.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from thirdshift.apps.training.filenames import REPORT_SUFFIX, free_name
from thirdshift.apps.training.files.places import Places, move
from thirdshift.apps.training.files.sidecars import Leaving
from thirdshift.apps.training.moments import iso
from thirdshift.core.plain import plain
from thirdshift.host.files import write_atomically


class Departures:
    """Takes files out of *places*; *clock* gives Unix seconds. For the process that holds the instance lock."""

    def __init__(self, places: Places, clock: Callable[[], float]) -> None:
        self._places = places
        self._sidecars = places.sidecars
        self._clock = clock

    def leave(self, source: Path, folder: Path, report: Mapping[str, Any]) -> Path:
        """Move the file *source* to *folder* with *report* beside it; a refused move takes the decision back.

        ``file`` and ``when`` are added to the report.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = self._places.sidecar_of(source)
        where = os.path.relpath(folder, self._places.queue_dir)
        document = self._document(source.name, report)
        if known.checked:
            document.setdefault("validation", known.checked)
        leaving = Leaving(folder=where, name=free_name(folder, source.name), report=document)
        self._sidecars.write(source.name, replace(known, leaving=leaving))
        return self._carry_out(source, leaving)

    def reject(self, path: Path, name: str, report: Mapping[str, Any], *, folder: int | None = None) -> Path:
        """Move *path*, whatever it is, which has no place in the queue, to ``failed`` as *name*; *folder* as in `move`.

        The report is written first: whoever sees the file there, also after a crash, finds out why.
        """
        failed = self._places.failed
        target = failed / free_name(failed, name)
        _write_report(target, self._document(path.name, report))
        try:
            return move(path, target, folder)
        except OSError:
            report_of(target).unlink(missing_ok=True)
            raise

    def resume(self, path: Path) -> Path | None:
        """Carry out what was decided about the file *path*; ``None`` when nothing was."""
        leaving = self._places.sidecar_of(path).leaving
        if leaving is None:
            return None
        folder = self._resolve(leaving)
        if os.path.lexists(folder / leaving.name):  # somebody laid a namesake there meanwhile
            return self.leave(path, folder, leaving.report)
        return self._carry_out(path, leaving)

    def settle(self, name: str) -> Path | None:
        """Finish what a sidecar without a file stands for: its file left, was never moved in, or was removed."""
        sidecar = self._sidecars.read(name)
        if sidecar is None or sidecar.leaving is None:
            self._sidecars.remove(name)
            return None
        return self._finish(name, sidecar.leaving)

    def _carry_out(self, source: Path, leaving: Leaving) -> Path:
        """The report is there before the file: whoever sees the file finds out why. Refused, all is as it was."""
        target = self._resolve(leaving) / leaving.name
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_report(target, leaving.report)
            move(source, target)
        except OSError:
            report_of(target).unlink(missing_ok=True)
            self._sidecars.write(source.name, replace(self._places.sidecar_of(source), leaving=None))
            raise
        return self._finish(source.name, leaving)

    def _finish(self, name: str, leaving: Leaving) -> Path:
        """What remains to be done once the file has left; may be done twice."""
        target = self._resolve(leaving) / leaving.name
        if target.exists():
            _write_report(target, leaving.report)
        known = self._sidecars.read(name)
        content_hash = "" if known is None else str(known.checked.get("content_hash", ""))
        if target.parent == self._places.failed:
            self._places.known.forget(content_hash)
        else:
            self._places.known.note(content_hash, leaving.name, f"{leaving.folder}/{leaving.name}")
        self._sidecars.remove(name)
        return target

    def _resolve(self, leaving: Leaving) -> Path:
        return self._places.queue_dir.joinpath(leaving.folder).resolve()

    def _document(self, name: str, report: Mapping[str, Any]) -> dict[str, Any]:
        return {"file": name, "when": iso(self._clock()), **report}


def report_of(path: Path) -> Path:
    """Return where the report beside *path* lies."""
    return path.with_name(f"{path.name}{REPORT_SUFFIX}")


def read_report(path: Path) -> dict[str, Any]:
    """Return the report beside *path*; empty where there is none that can be read."""
    try:
        document = json.loads(report_of(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _write_report(target: Path, report: Mapping[str, Any]) -> None:
    if not report_of(target).exists():
        write_atomically(report_of(target), json.dumps(plain(report), indent=1).encode())
