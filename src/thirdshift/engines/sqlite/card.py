"""What a worker says of itself beside the store: its name, and how many wake-ups were lost on it.

A small file in the folder of its lock, written when that changes, which is next to never. It decides nothing: whether
the worker lives is asked of its lock.
"""

import contextlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from thirdshift.host.files import write_atomically


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """The content of one file."""

    name: str | None = None
    lost_wakes: int = 0
    lost_wake_at: str | None = None
    """An ISO moment."""

    @property
    def lost_at(self) -> datetime | None:
        """When the last wake-up was lost."""
        return None if self.lost_wake_at is None else datetime.fromisoformat(self.lost_wake_at)


def write_card(folder: Path, worker: str, card: Card) -> None:
    """Best effort: a full disk must not stop the worker."""
    with contextlib.suppress(OSError):
        write_atomically(_path(folder, worker), json.dumps(asdict(card)).encode(), durable=False)


def read_card(folder: Path, worker: str) -> Card:
    """Return the card of *worker*; an empty one where there is none, or where another version wrote it."""
    try:
        return Card(**json.loads(_path(folder, worker).read_bytes()))
    except (OSError, ValueError, TypeError):
        return Card()


def _path(folder: Path, worker: str) -> Path:
    return folder / f"{worker}.card"
