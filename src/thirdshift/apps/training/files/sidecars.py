"""What the queue knows about a file besides its place: one small JSON file for each, readable with ``cat``.

A sidecar is also the claim on a name: it is created by a link that refuses an existing one, so two processes that add
files of one name at the same moment get two names.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from thirdshift.core.plain import plain
from thirdshift.host.files import create_atomically, sync_directory, write_atomically

_SUFFIX = ".json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaving:
    """A decision to take a file out of processing, written down before it is carried out.

    ``folder`` is relative to the queue's own, so that a workspace can be moved as a whole; ``name`` is the file's name
    there, ``report`` the document that will lie beside it.
    """

    folder: str
    name: str
    report: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecar:
    """What is known about one queued file.

    ``arrived_at`` is an ISO time in UTC with microseconds, so that sorting the text sorts the time. ``goes_first``
    marks a file that was interrupted in the middle of its training. ``attempts`` have failed, the newest with
    ``last_error``; until ``retry_at`` it is not taken again. ``checked`` is what its check found, empty for a file that
    was never checked; it goes into the file's last report.
    """

    priority: str
    arrived_at: str
    goes_first: bool = False
    attempts: int = 0
    last_error: str | None = None
    retry_at: str | None = None
    checked: Mapping[str, Any] = field(default_factory=dict)
    leaving: Leaving | None = None


class Sidecars:
    """The sidecars of one queue, in *folder*; every write is durable. Any process and thread may use them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> Sidecar | None:
        """The sidecar of *name*; ``None`` when it is missing or cannot be understood."""
        try:
            return _decode(json.loads(self._path(name).read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None

    def claim(self, name: str, sidecar: Sidecar) -> bool:
        """Create the sidecar of *name* as one step; ``False`` when the name is claimed already."""
        return create_atomically(self._path(name), _encode(name, sidecar))

    def write(self, name: str, sidecar: Sidecar) -> None:
        """Write the sidecar of *name*, new or not, as one step."""
        write_atomically(self._path(name), _encode(name, sidecar))

    def remove(self, name: str) -> None:
        """Remove the sidecar of *name* and with it the claim on the name."""
        with contextlib.suppress(FileNotFoundError):
            self._path(name).unlink()
            sync_directory(self.folder)

    def names(self) -> list[str]:
        """All claimed names, sorted."""
        entries = (path.name for path in self.folder.iterdir())
        return sorted(name.removesuffix(_SUFFIX) for name in entries if _is_sidecar(name))

    def remove_temporaries(self) -> None:
        """Remove what crashed writers left; only while no other process can be writing."""
        for path in self.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{_SUFFIX}"


def _is_sidecar(name: str) -> bool:
    return name.endswith(_SUFFIX) and not name.startswith(".")


def _encode(name: str, sidecar: Sidecar) -> bytes:
    return json.dumps(plain({"file": name, **asdict(sidecar)}), indent=1).encode()


def _decode(document: Any) -> Sidecar:
    if not isinstance(document, dict):
        raise TypeError("a sidecar is a JSON object")
    leaving, retry_at, last_error = (document.get(name) for name in ("leaving", "retry_at", "last_error"))
    return Sidecar(
        priority=str(document["priority"]),
        arrived_at=_utc(document["arrived_at"]),
        goes_first=document.get("goes_first") is True,
        attempts=int(document.get("attempts", 0)),
        last_error=None if last_error is None else str(last_error),
        retry_at=None if retry_at is None else _utc(retry_at),
        checked=dict(document.get("checked", {})),
        leaving=None if leaving is None else _decode_leaving(leaving),
    )


def _utc(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(UTC).isoformat(timespec="microseconds")


def _decode_leaving(document: Mapping[str, Any]) -> Leaving:
    return Leaving(folder=str(document["folder"]), name=str(document["name"]), report=dict(document["report"]))
